"""A card beside the bytes of its file."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checks import canonical, need, refusing
from .container import Taker, opened
from .numbers import numbers
from .reader import attachments, tensors

CLOSE = 2e-6  # of numbers that are rounded to 6 places


@dataclass(frozen=True)
class Difference:
    """A number of a card, by its place, that is not what the bytes say."""

    place: str
    card: Any
    file: Any

    def __str__(self) -> str:
        return f"{self.place} is {_short(self.card)}, but the bytes of the file say {_short(self.file)}"


def check(path: str | Path, card: Any) -> list[Difference]:
    """Where a card says other than the file at `path`; none if it is right. Every number is computed from the bytes.

    **Raises** `RefusedError` if the file breaks a rule of the format, or the card is no card.
    """
    with refusing(str(path)):
        container = opened(path)
        taker = Taker(container.contents)
        found = numbers(container, list(tensors(container, taker)))
        need(len(list(attachments(container, taker))) >= 0, "attachments")
    with refusing("the card"):
        need(isinstance(card, dict) and type(card.get("card")) is int, "no version")
        parts = sum(card["cost"]["parts"].values())
        own = {key: value for key, value in card.items() if key != "hash"}
        digest = hashlib.sha256(canonical(own)).hexdigest()
        differences = list(_compared("", card, found))
        if parts != container.size:
            differences.append(Difference("cost.parts, their sum", parts, container.size))
        if card.get("hash") != digest:
            differences.append(Difference("hash", card.get("hash"), digest))
        return differences


def _compared(place: str, card: Any, file: Any) -> Iterator[Difference]:
    """Everything in `file` that `card` says otherwise, or does not say."""
    if isinstance(file, dict) and isinstance(card, dict):
        for name, value in file.items():
            yield from _compared(f"{place}.{name}" if place else name, card.get(name), value)
        if _closed(place):
            for name in card.keys() - file.keys():
                yield Difference(f"{place}.{name}", card[name], None)
    elif isinstance(file, list) and isinstance(card, list) and len(file) == len(card):
        for number, (ours, theirs) in enumerate(zip(card, file, strict=True)):
            named = file[number].get("name", file[number].get("layer")) if isinstance(theirs, dict) else None
            yield from _compared(f"{place}[{number if named is None else _short(named)}]", ours, theirs)
    elif not _same(card, file):
        yield Difference(place, card, file)


def _closed(place: str) -> bool:
    """Whether a card may say nothing more there than the bytes do."""
    return place in ("cost.parts", "weights.bits", "left_out.others", "identity.given")


def _same(card: Any, file: Any) -> bool:
    if {type(card), type(file)} not in ({int, float}, {float}):
        return type(card) is type(file) and bool(card == file)
    return math.isclose(card, file, rel_tol=CLOSE, abs_tol=CLOSE)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
