"""The log of a search: every trial in a SQLite file, so that the same search goes on where it was stopped."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

from ..core.method import Method
from ..errors import UsageError


@dataclass(frozen=True)
class Trial:
    """One file that was made: by what (`key`), its bytes, its hash, seconds; its drop in points on `n` validation
    samples with the ends of the 95 % interval, or None where nothing judged it."""

    key: str
    bytes: int
    digest: str
    seconds: float
    drop: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @property
    def name(self) -> str:
        """The method with its fields that are not defaults."""
        described = json.loads(self.key)
        return " ".join([described["method"], *(f"{key}={value}" for key, value in described["fields"].items())])


def key_of(method: Method, start: str = "") -> str:
    """What tells trials apart: the method, its fields that are not defaults, and what a training starts from."""
    plain = type(method)()
    changed = {key: value for key, value in asdict(method).items() if value != getattr(plain, key)}
    described = {"method": method.name, "fields": changed, **({"start": start} if start else {})}
    return json.dumps(described, sort_keys=True, default=str)


class Trials:
    """The log in `path`; `identity` (JSON) says which search it is.

    **Raises** `UsageError` if the file holds another search.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.base = sqlite3.connect(path)
        with self.base:
            self.base.execute("CREATE TABLE IF NOT EXISTS search (identity TEXT)")
            columns = ", ".join(f'"{field.name}"' for field in fields(Trial))
            self.base.execute(f"CREATE TABLE IF NOT EXISTS trials ({columns})")
            self.base.execute("CREATE TABLE IF NOT EXISTS tests (digest TEXT, result TEXT)")
            text = json.dumps(identity, sort_keys=True, default=str)
            row = self.base.execute("SELECT identity FROM search").fetchone()
            if row is None:
                self.base.execute("INSERT INTO search VALUES (?)", (text,))
        if row is not None and row[0] != text:
            old, new = json.loads(row[0]), json.loads(text)
            other = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
            raise UsageError(
                f"{path.parent} holds another search (other {', '.join(other)}): repeat its command to go on with it, "
                "or begin a new one with force=True"
            )

    @property
    def all(self) -> list[Trial]:
        """Every finished trial, in order."""
        return [Trial(*row) for row in self.base.execute("SELECT * FROM trials ORDER BY rowid")]

    def find(self, key: str) -> Trial | None:
        """The finished trial with this key."""
        return next((trial for trial in self.all if trial.key == key), None)

    def add(self, trial: Trial) -> None:
        """Log a finished trial."""
        with self.base:
            self.base.execute(f"INSERT INTO trials VALUES ({', '.join('?' * len(fields(Trial)))})", astuple(trial))

    def forget(self, trial: Trial) -> None:
        """Take a trial out whose file is gone, so that it is made again."""
        with self.base:
            self.base.execute("DELETE FROM trials WHERE key = ?", (trial.key,))

    def tested(self, digest: str) -> dict[str, Any] | None:
        """What the file with this hash scored on the test split, if it was ever judged there."""
        row = self.base.execute("SELECT result FROM tests WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else dict(json.loads(row[0]))

    def add_test(self, digest: str, result: Mapping[str, Any]) -> None:
        """Log a look at the test split."""
        with self.base:
            self.base.execute("INSERT INTO tests VALUES (?, ?)", (digest, json.dumps(result)))

    @property
    def looks(self) -> int:
        """How many files have been judged on the test split."""
        return int(self.base.execute("SELECT COUNT(*) FROM tests").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self.base.close()
