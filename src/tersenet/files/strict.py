"""JSON of which two readers cannot think differently, and values in it that are what they must be. Without torch."""

import json
from collections.abc import Collection
from math import prod
from typing import Any

MAX_DEPTH = 64
MAX_SIZE = 1 << 48  # elements of a tensor, bytes of a section
MAX_DIMENSIONS = 32


def parse_json(raw: bytes) -> Any:
    """The value of a JSON text.

    **Raises** `ValueError` unless it is UTF-8 without a byte order mark, names no member twice, has only finite numbers
    and only text that UTF-8 can hold; `RecursionError` if it is nested very deep.
    """
    text = raw.decode("utf-8")
    value = json.loads(text, object_pairs_hook=_object, parse_float=_finite, parse_constant=_finite)
    if "\\u" in text:  # an escape may stand for half of a character
        json.dumps(value, ensure_ascii=False).encode()
    return value


def check_depth(members: dict[str, Any]) -> None:
    """**Raises** `ValueError` if lists and objects in a member are nested more than 64 deep."""
    level: list[Any] = [members]
    for _ in range(MAX_DEPTH + 1):
        inside = (each.values() if isinstance(each, dict) else each for each in level)
        level = [part for parts in inside for part in parts if isinstance(part, dict | list)]
    if level:
        raise ValueError(f"lists and objects nested more than {MAX_DEPTH} deep")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the member {twice!r} is there twice")
    return made


def _finite(text: str) -> float:
    number = float(text)
    if not abs(number) < float("inf"):
        raise ValueError(f"{text} is no finite number")
    return number


def check_bools(name: str, data: bytes) -> None:
    """**Raises** `ValueError` if truth values have a byte other than 0 and 1."""
    if data and max(data) > 1:
        raise ValueError(f"{name}: a bool that is {max(data)}")


def need(condition: bool, problem: str) -> None:
    """**Raises** `ValueError` with the `problem` unless the condition holds."""
    if not condition:
        raise ValueError(problem)


def list_of(value: Any, what: str) -> list[Any]:
    """A list. **Raises** `ValueError`."""
    need(isinstance(value, list), f"{what} is no list")
    return list(value)


def integer(value: Any, least: int, what: str, most: int = MAX_SIZE) -> int:
    """An integer from `least` to `most`. **Raises** `ValueError`."""
    right = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    need(right, f"{what}: {value!r} is out of range")
    return int(value)


def shape_of(value: Any, what: str) -> tuple[int, ...]:
    """A shape. **Raises** `ValueError`."""
    shape = tuple(integer(size, 0, what) for size in list_of(value, what))
    if len(shape) > MAX_DIMENSIONS or prod(size or 1 for size in shape) > MAX_SIZE:
        raise ValueError(f"{what}: a shape of {len(shape)} dimensions with too many elements")
    return shape


def one_of(value: Any, names: Collection[str], what: str) -> str:
    """A text that is one of `names`. **Raises** `ValueError`."""
    if not (isinstance(value, str) and value in names):
        raise ValueError(f"{what}: {value!r} is none of {', '.join(names)}")
    return value
