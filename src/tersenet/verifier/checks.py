"""What a value has to be; JSON of which readers cannot think differently."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import zstandard

from ..errors import FormatError


class RefusedError(FormatError):
    """A file that breaks a rule of the format page, or a card that is none."""


def need(condition: object, rule: str) -> None:
    """**Raises** `RefusedError` with the rule unless it holds."""
    if not condition:
        raise RefusedError(rule)


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Whatever the bytes make go wrong in the body is a `RefusedError`."""
    try:
        yield
    except RefusedError as error:
        raise RefusedError(f"{what}: {error}") from error
    except (
        *(ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, AttributeError, StopIteration),
        *(MemoryError, zstandard.ZstdError),
    ) as error:
        raise RefusedError(f"{what}: {type(error).__name__}: {error}") from error


def parse(raw: bytes) -> Any:
    """The value of a JSON text."""

    def named(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        need(len(dict(pairs)) == len(pairs), "a member named twice")
        return dict(pairs)

    def finite(text: str) -> float:
        need(abs(float(text)) < float("inf"), "a number that fp64 cannot hold")
        return float(text)

    value = json.loads(raw.decode("utf-8"), object_pairs_hook=named, parse_float=finite, parse_constant=finite)
    json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def canonical(value: Any) -> bytes:
    """JSON with sorted members and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def depth(value: Any) -> int:
    """How deep lists and objects are nested."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(depth, parts), default=0) if isinstance(value, dict | list) else 0


def listed(value: Any) -> list[Any]:
    """A list."""
    need(isinstance(value, list), "no list")
    return list(value)


def whole(value: Any, least: int = 0, most: int = 2**48) -> int:
    """An integer from `least` to `most`."""
    need(type(value) is int and least <= value <= most, f"{value!r} is no integer from {least} to {most}")
    return int(value)


def shaped(shape: Any) -> list[int]:
    """A shape."""
    sizes = [whole(size) for size in listed(shape)]
    need(len(sizes) <= 32 and prod(max(1, size) for size in sizes) <= 2**48, "a shape that is too large")
    return sizes
