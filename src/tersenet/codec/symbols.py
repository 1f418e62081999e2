"""From integers to at most 32 symbols and back: the model that the rANS coder runs on.

An integer v is split into a coded part `t = v >> split` and `split` raw low bits. The window `[low, low + size)` of
coded parts becomes symbols; what lies outside is clamped to the window and listed as an exception (position,
difference). With `group` 2 or 3, that many consecutive window symbols form one symbol (base `size`, first one highest),
which catches what neighbours tell about each other; the tail is padded with the middle of the window. A trellis path is
coded as its indices, with one frequency table per class. A mirrored table is symmetric and stores its upper half only.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .stream import CodecError, get_varint, put_varint, unzigzag, zigzag
from .table import MAX_SYMBOLS, Ints, frequencies, levels_of, pack_levels, unpack_levels

EXCEPTIONS, MIRRORED, TRELLIS, PLAIN, CONSTANT = 4, 8, 16, 32, 128
Values = npt.NDArray[np.signedinteger]
Kind: TypeAlias = np.dtype[np.signedinteger]


@dataclass(frozen=True)
class Model:
    """Window, split, group, tables (levels, one per class) and flags: the parameters of a rANS stream."""

    low: int
    size: int
    split: int = 0
    group: int = 1
    exceptions: bool = False
    mirrored: bool = False
    trellis: bool = False
    plain: bool = False
    levels: tuple[Ints, ...] = ()

    @property
    def alphabet(self) -> int:
        """The number of symbols."""
        return int(self.size**self.group)

    @cached_property
    def tables(self) -> list[Ints]:
        """The 12-bit frequencies, one table per class."""
        return [frequencies(levels) for levels in self.levels]

    @property
    def middle(self) -> int:
        """The coded part that pads the last group."""
        return self.low + self.size // 2

    def with_counts(self, counts: list[Ints]) -> "Model":
        """The same model with tables for these symbol counts (one array per class)."""
        if self.mirrored:
            counts = [each + each[::-1] for each in counts]
        return replace(self, levels=tuple(levels_of(each) for each in counts))

    def to_bytes(self) -> bytes:
        """The parameters of the stream."""
        flags = self.group - 1 | EXCEPTIONS * self.exceptions | MIRRORED * self.mirrored
        flags |= TRELLIS * self.trellis | PLAIN * self.plain
        head = bytes([flags, self.size - 1 | min(self.split, 7) << 5])
        head += bytes([self.split]) if self.split >= 7 else b""
        start = self.alphabet // 2 if self.mirrored else 0
        return head + put_varint(zigzag(self.low)) + pack_levels(np.concatenate([x[start:] for x in self.levels]))


def constant_params(value: int) -> bytes:
    """The parameters of a stream without chunks: every integer is `value`."""
    return bytes([CONSTANT]) + put_varint(zigzag(value))


def parse(params: bytes) -> Model | int:
    """The model of a stream, or the value of a constant one. **Raises** `CodecError` unless an encoder wrote it."""
    if not params:
        raise CodecError("a rANS stream without parameters")
    if params[0] == CONSTANT:
        value, end = get_varint(params, 1)
        if end != len(params):
            raise CodecError("bytes after the value of a constant stream")
        return unzigzag(value)
    flags, at = params[0], 2
    if len(params) < 3 or flags & 0xC0 or flags & 3 == 3 or (flags & PLAIN and not flags & TRELLIS):
        raise CodecError(f"unknown flags {flags:#x} of a rANS stream")
    group, size, split = (flags & 3) + 1, (params[1] & 31) + 1, params[1] >> 5
    if split == 7:
        split, at = params[2], 3
    if not (split <= 31 and size**group <= MAX_SYMBOLS and (group == 1 or split == 0)):
        raise CodecError(f"a window of {size} with groups of {group} and {split} raw bits")
    low, at = get_varint(params, at)
    model = Model(
        unzigzag(low),
        size,
        split,
        group,
        exceptions=bool(flags & EXCEPTIONS),
        mirrored=bool(flags & MIRRORED),
        trellis=bool(flags & TRELLIS),
        plain=bool(flags & PLAIN),
    )
    if model.trellis and (group > 1 or split):
        raise CodecError("a trellis path with groups or raw bits")
    return replace(model, levels=_read_levels(params[at:], model))


def _read_levels(data: bytes, model: Model) -> tuple[Ints, ...]:
    stored = model.alphabet - model.alphabet // 2 if model.mirrored else model.alphabet
    count = stored * (2 if model.trellis else 1)
    if len(data) != (6 * count + 7) // 8:
        raise CodecError(f"{len(data)} bytes of frequency tables, expected {(6 * count + 7) // 8}")
    levels = np.split(unpack_levels(data, count), 2 if model.trellis else 1)
    if model.mirrored:
        levels = [np.concatenate((each[::-1], each[model.alphabet % 2 :])) for each in levels]
    return tuple(levels)


def window_symbols(parts: Values, model: Model) -> tuple[npt.NDArray[np.uint8], bytes]:
    """Symbols of the coded parts of a chunk, and its exceptions as bytes (empty if the model has none)."""
    listed = b""
    if model.exceptions:
        clamped = np.clip(parts, model.low, model.low + model.size - 1)
        where = np.flatnonzero(clamped != parts)
        gaps = np.diff(where, prepend=-1) - 1
        outside = (parts[where].astype(np.int64) - clamped[where]).tolist()
        listed = put_varint(len(where)) + b"".join(
            put_varint(gap) + put_varint(zigzag(d)) for gap, d in zip(gaps.tolist(), outside, strict=True)
        )
        parts = clamped
    symbols = (parts - model.low).astype(np.uint8)
    return grouped(symbols, model), listed


def grouped(symbols: npt.NDArray[np.uint8], model: Model) -> npt.NDArray[np.uint8]:
    """Every `group` consecutive window symbols as one symbol."""
    if model.group == 1:
        return symbols
    padding = np.full(-len(symbols) % model.group, model.size // 2, np.uint8)
    padded = np.concatenate((symbols, padding))
    joined = padded[:: model.group].copy()
    for place in range(1, model.group):
        joined *= np.uint8(model.size)
        joined += padded[place :: model.group]
    return joined


def ungrouped(symbols: npt.NDArray[np.uint8], model: Model, count: int) -> npt.NDArray[np.uint8]:
    """Inverse of `grouped`."""
    if model.group == 1:
        return symbols
    every = np.arange(model.alphabet)
    digits = np.stack([every // model.size**i % model.size for i in range(model.group - 1, -1, -1)], axis=1)
    return digits.astype(np.uint8)[symbols].reshape(-1)[:count]


def read_exceptions(data: bytes, count: int) -> tuple[list[int], list[int], int]:
    """Positions and differences of a chunk's exceptions, and the offset after them. **Raises** `CodecError`."""
    number, at = get_varint(data, 0)
    if number > count or 2 * number > len(data) - at:
        raise CodecError(f"{number} exceptions listed among {count} symbols")
    positions, differences, position = [], [], -1
    for _ in range(number):
        gap, at = get_varint(data, at)
        difference, at = get_varint(data, at)
        position += gap + 1
        if position >= count or difference == 0:
            raise CodecError("an exception lies outside its chunk")
        positions.append(position)
        differences.append(unzigzag(difference))
    return positions, differences, at


def fits(low: int, high: int, kind: Kind) -> None:
    """**Raises** `CodecError` unless integers from `low` to `high` fit `kind`."""
    if low < np.iinfo(kind).min or high > np.iinfo(kind).max:
        raise CodecError(f"integers from {low} to {high} do not fit {kind}")


def cut(flat: Values, chunk_symbols: int) -> list[Values]:
    """The chunks of an array."""
    return [flat[start : start + chunk_symbols] for start in range(0, len(flat), chunk_symbols)]
