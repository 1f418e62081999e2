"""The log of a search: every trial in a SQLite file, so that the same search goes on where it was stopped."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from ..core.method import Method
from ..errors import InputError, OutputError, UsageError

ANEW = "move it away, or begin a new search with overwrite=True"
HELD = 2.0  # seconds that the log may be held by another process
TABLES = {"search": ["identity"], "tests": ["digest", "result"]}  # and trials, with the fields of Trial


@dataclass(frozen=True)
class Trial:
    """One file that was made: by what (`key`), its bytes, its hash, seconds; its drop in points on `n` validation
    samples, which is at least `least` and at most `most` (95 %, one-sided each), or None where nothing judged it."""

    key: str
    bytes: int
    digest: str
    seconds: float
    drop: float | None = None
    least: float | None = None
    most: float | None = None
    n: int | None = None

    @property
    def name(self) -> str:
        """The method with its fields that are not defaults."""
        described = json.loads(self.key)
        return " ".join([described["method"], *(f"{key}={value}" for key, value in described["fields"].items())])


def key_of(method: Method, start: str = "") -> str:
    """What tells trials apart: the method, its fields that are not defaults, and what a training starts from."""
    described = {"method": method.name, "fields": method.changed, **({"start": start} if start else {})}
    return json.dumps(described, sort_keys=True, default=str)


class Trials:
    """The log in `path`; `identity` (JSON) says which search it is (None: whichever it holds).

    **Raises** `UsageError` if the file holds another search; `InputError` if it is no log of this version, or damaged;
    `OutputError` if it cannot be written (now or later): no space, no permission, held by another process.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any] | None = None) -> None:
        self.path = path
        with self._told():
            self.base = sqlite3.connect(path, timeout=HELD)
        try:
            self._open(None if identity is None else json.dumps(identity, sort_keys=True, default=str))
        except BaseException:
            self.base.close()
            raise

    def _open(self, identity: str | None) -> None:
        with self._told(), self.base:
            tables = TABLES | {"trials": [field.name for field in fields(Trial)]}
            for table, columns in tables.items():
                found = [row[1] for row in self.base.execute(f"PRAGMA table_info({table})")]
                if found and found != columns:
                    raise InputError(f"{self.path} was written by another version of tersenet: {ANEW}")
                if not found:
                    quoted = ", ".join(f'"{name}"' for name in columns)
                    self.base.execute(f"CREATE TABLE {table} ({quoted})")
            row = self.base.execute("SELECT identity FROM search").fetchone()
            if row is None and identity is not None:
                self.base.execute("INSERT INTO search VALUES (?)", (identity,))
        with self._told():
            self.all = [_checked(row) for row in self.base.execute("SELECT * FROM trials ORDER BY rowid")]
            self._tests = {digest: json.loads(text) for digest, text in self.base.execute("SELECT * FROM tests")}
            if row is not None and identity is not None and row[0] != identity:
                old, new = json.loads(row[0]), json.loads(identity)
                other = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
                raise UsageError(
                    f"{self.path.parent} holds another search (other {', '.join(other)}): repeat its command to go on "
                    "with it, or begin a new one with overwrite=True"
                )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What SQLite and damaged rows raise, as errors that name the file and say what to do."""
        try:
            yield
        except sqlite3.OperationalError as error:
            held = "locked" in str(error) or "busy" in str(error)
            hint = "wait until the other process has ended" if held else "see to space and permissions there"
            raise OutputError(f"{self.path} cannot be written: {error}; {hint}, and repeat the command") from error
        except (sqlite3.Error, ValueError, TypeError, AttributeError, KeyError) as error:
            raise InputError(f"{self.path} is damaged, or no log of a search ({error}): {ANEW}") from error

    def find(self, key: str) -> Trial | None:
        """The finished trial with this key."""
        return next((trial for trial in self.all if trial.key == key), None)

    def knows(self, digest: str) -> bool:
        """Whether a trial made the file with this hash."""
        return any(trial.digest == digest for trial in self.all)

    def add(self, trial: Trial) -> None:
        """Log a finished trial."""
        with self._told(), self.base:
            self.base.execute(f"INSERT INTO trials VALUES ({', '.join('?' * len(fields(Trial)))})", astuple(trial))
        self.all.append(trial)

    def forget(self, trial: Trial) -> None:
        """Take a trial out whose file is gone, so that it is made again."""
        with self._told(), self.base:
            self.base.execute("DELETE FROM trials WHERE key = ?", (trial.key,))
        self.all.remove(trial)

    def tested(self, digest: str) -> dict[str, Any] | None:
        """What the file with this hash scored on the test split, if it was ever judged there."""
        found: dict[str, Any] | None = self._tests.get(digest)
        return found

    def add_test(self, digest: str, result: Mapping[str, Any]) -> None:
        """Log a look at the test split."""
        with self._told(), self.base:
            self.base.execute("INSERT INTO tests VALUES (?, ?)", (digest, json.dumps(result)))
        self._tests[digest] = dict(result)

    @property
    def test_looks(self) -> int:
        """How many files have been judged on the test split."""
        return len(self._tests)

    def close(self) -> None:
        """Close the file."""
        self.base.close()


def read(path: Path) -> tuple[dict[str, Any], list[Trial]]:
    """Which search a log is of, and its trials so far, without changing it, also while it is written.

    **Raises** `InputError` if it is no log, or damaged; `OutputError` if another process holds it.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=HELD)) as base:
            row = base.execute("SELECT identity FROM search").fetchone()
            identity = {} if row is None else json.loads(row[0])
            if not isinstance(identity, dict):
                raise ValueError(f"an identity of {identity!r:.100}")
            return identity, [_checked(row) for row in base.execute("SELECT * FROM trials ORDER BY rowid")]
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):  # it is just being made
            return {}, []
        raise OutputError(f"{path} cannot be read: {error}; wait until the other process has ended") from error
    except (sqlite3.Error, ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(f"{path} is damaged, or no log of a search ({error}): {ANEW}") from error


def _checked(row: tuple[Any, ...]) -> Trial:
    """The trial of a row. **Raises** `ValueError` if a value is not what it must be."""
    trial = Trial(*row)
    numbers = (trial.drop, trial.least, trial.most, trial.n)
    if not (isinstance(trial.bytes, int) and isinstance(trial.digest, str) and isinstance(trial.seconds, float)):
        raise ValueError(f"a trial of {trial.bytes!r} bytes")
    if not (all(x is None for x in numbers) or all(isinstance(x, int | float) for x in numbers)):
        raise ValueError(f"a trial with a drop of {trial.drop!r}")
    if not trial.name:
        raise ValueError("a trial without a name")
    return trial
