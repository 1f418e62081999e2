"""The last section of a file: what was measured of it. See "Results" in docs/format.md. Never imports torch.

Its size is always the same, so that measuring changes neither the size of a file nor any other byte of it.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import OutputError
from .atomic import replacing_file
from .boundary import reading
from .layout import HASH, RESULTS, ROOM
from .reader import Reader
from .strict import integer, list_of, need
from .writer import canonical, results_section

Numbers = tuple[float | None, float | None, float | None]  # mean, lower and upper end of its interval
OF = 16  # hexadecimal digits of the content hash
DIGITS = (6, 5, 4, 3, 2, 1)  # that numbers keep: the first that fit
NAME = 16  # bytes of a name that are kept


@dataclass(frozen=True)
class Results:
    """What was measured of a file whose content hash begins with `of`, decoded, on `n` samples of a `split`.

    `score` and `drop` (against the network before compression) are means in units of the `metric` with the ends of
    their 95 % intervals, None where nothing is known; `reference` is what that network scores. `worst` is the class
    whose accuracy falls most, and by how much. `data` is the beginning of a SHA-256 over the samples.
    """

    of: str
    split: str
    metric: str
    n: int
    score: Numbers
    reference: float | None
    drop: Numbers | None
    worst: tuple[int, float] | None
    data: str

    @classmethod
    def parse(cls, value: Any) -> "Results | None":
        """Results as JSON has them; None for those that were not measured. **Raises** `ValueError`."""
        members = list_of(value, "results")
        if not members:
            return None
        need(len(members) >= 9, f"results of {len(members)} members")
        of, split, metric, n, score, reference, drop, worst, data = members[:9]
        need(all(isinstance(text, str) for text in (of, split, metric, data)), "results without a name")
        pair = None if worst is None else list_of(worst, "the worst class")
        if pair is not None:
            need(len(pair) == 2, "a worst class of unknown form")
            pair = [integer(pair[0], 0, "the worst class"), _number(pair[1])]
        return cls(
            of,
            split,
            metric,
            integer(n, 1, "samples"),
            _numbers(score),
            _number(reference),
            None if drop is None else _numbers(drop),
            None if pair is None else (pair[0], pair[1] or 0.0),
            data,
        )

    def as_json(self) -> list[Any]:
        """As JSON, with as many digits as there is room for."""
        names = (_short(self.split), _short(self.metric))
        for digits in DIGITS:
            numbers = (self.n, self.score, self.reference, self.drop, self.worst)
            found = [self.of[:OF], *names, *(rounded(each, digits) for each in numbers), self.data[:OF]]
            if len(canonical(found)) <= ROOM:
                break
        return found


def rounded(value: Any, digits: int = DIGITS[0]) -> Any:
    """Numbers with the digits that a file keeps, tuples as lists; None for what is not finite.

    >>> rounded((0.123456789, float("inf"), 1.0))
    [0.123457, None, 1]
    """
    if isinstance(value, tuple):
        return [rounded(each, digits) for each in value]
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1 << 53 else short


def _short(name: str) -> str:
    """A name that takes at most 16 bytes of JSON."""
    plain = "".join(char if char.isprintable() and char not in '"\\' else "?" for char in name)
    return plain.encode(errors="replace")[:NAME].decode(errors="ignore")


def results_of(path: str | Path, max_output: int | None = None) -> Results | None:
    """What was measured of the file at `path`; None if nothing was. **Raises** `FormatError`."""
    with reading(path, RESULTS):
        return Results.parse(Reader(path, max_output).results() or [])


def content_hash(path: str | Path, max_output: int | None = None) -> str:
    """SHA-256 of a file whose results, and the hash after them, are taken as zeros; measuring does not change it.

    **Raises** `FormatError` for what is no `.terse` file.
    """
    reader = Reader(path, max_output)
    at = reader.room
    digest = hashlib.sha256()
    with reader.path.open("rb") as stream:
        while block := bytearray(stream.read(1 << 22)):
            start = stream.tell() - len(block)
            if at is not None:
                for place in range(max(at, start), min(at + ROOM + HASH, start + len(block))):
                    block[place - start] = 0
            digest.update(block)
    return digest.hexdigest()


def record(path: str | Path, results: list[Any]) -> None:
    """Write results (as JSON) into the room that the file at `path` keeps for them; nothing else in it changes.

    **Raises** `OutputError` if it keeps none, or cannot be written.
    """
    reader = Reader(path, 1 << 62)
    at = reader.room
    if at is None:
        raise OutputError(f"{path} keeps no room for results: compress it with module= and task=")
    data = bytearray(reader.path.read_bytes())
    data[at : at + ROOM + HASH] = results_section(results)
    with replacing_file(reader.path, overwrite=True) as stream:
        stream.write(data)


def _number(value: Any) -> float | None:
    need(value is None or (isinstance(value, int | float) and not isinstance(value, bool)), f"a result {value!r}")
    return None if value is None else float(value)


def _numbers(value: Any) -> Numbers:
    each = [_number(part) for part in list_of(value, "a result")]
    need(len(each) == 3, "a result of unknown form")
    return each[0], each[1], each[2]
