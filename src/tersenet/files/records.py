"""Records: what the index says about one tensor. `layout` reads and writes them; see docs/format.md."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import codec
from ..codec import Stream

DEFAULT_CHUNK = 1 << 20
SIZES = {
    **dict.fromkeys(("c128",), 16),
    **dict.fromkeys(("f64", "i64", "u64", "c64"), 8),
    **dict.fromkeys(("f32", "i32", "u32"), 4),
    **dict.fromkeys(("f16", "bf16", "i16", "u16"), 2),
    **dict.fromkeys(("f8e4m3", "f8e5m2", "i8", "u8", "bool"), 1),
}
KINDS = {
    "f64": "<f8",
    "f32": "<f4",
    "f16": "<f2",
    "bf16": "<u2",
    "i64": "<i8",
    "i32": "<i4",
    "i16": "<i2",
    "i8": "i1",
    "u64": "<u8",
    "u32": "<u4",
    "u16": "<u2",
    "u8": "u1",
}
FLOATS = ("f64", "f32", "f16", "bf16")
INTEGERS = ("i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8")
CODE_TYPES = ("i8", "i16", "i32")
RAW_BYTES, ZSTD_BYTES, CONSTANT_BYTES = 0, 1, 2  # how a kept tensor is stored

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Field:
    """A stored part of a grid, as its numbers are."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes in the data sections."""
        return product(self.shape) * SIZES[self.dtype]

    @property
    def output(self) -> int:
        """Bytes of its numbers."""
        return self.size

    def array(self, data: bytes) -> Array:
        """Its numbers; those of `bf16` as their bits."""
        return np.frombuffer(data, KINDS[self.dtype]).reshape(self.shape)


@dataclass(frozen=True)
class Coded:
    """Integers that a coder has written: all codes of a tensor, some of them, or a part of its grid."""

    dtype: str
    shape: tuple[int, ...]
    coder: int
    params: int
    chunks: tuple[int, ...]
    chunk_symbols: int = DEFAULT_CHUNK

    @classmethod
    def of(cls, stream: Stream, shape: tuple[int, ...], dtype: str) -> "Coded":
        """What the index says of a stream."""
        return cls(dtype, shape, stream.coder, len(stream.params), tuple(map(len, stream.chunks)), stream.chunk_symbols)

    @property
    def size(self) -> int:
        """Bytes in the data sections."""
        return self.params + sum(self.chunks)

    @property
    def output(self) -> int:
        """Bytes of its integers."""
        return product(self.shape) * SIZES[self.dtype]

    def array(self, data: bytes) -> Array:
        """Its integers. **Raises** `CodecError`."""
        return Encoded(self, data).array()


@dataclass(frozen=True)
class Encoded:
    """Coded integers with their bytes, not decoded yet. Every method **Raises** `CodecError` if they are malformed."""

    coded: Coded
    data: bytes

    def array(self) -> Array:
        """All of them, in their shape."""
        return codec.decode(self._stream, self.coded.shape, KINDS[self.coded.dtype])

    def extremes(self) -> tuple[int, int] | None:
        """The lowest and the highest (None if there are none), found by decoding all of them, a chunk at a time."""
        return codec.extremes(self._stream, self.coded.shape, KINDS[self.coded.dtype])

    def pieces(self) -> Iterator[Array]:
        """All of them in C order, a chunk at a time."""
        return codec.pieces(self._stream, self.coded.shape, KINDS[self.coded.dtype])

    @property
    def by_columns(self) -> bool:
        """Whether they are in the order of a matrix' columns: a path of the trellis."""
        return codec.by_columns(self._stream)

    @property
    def _stream(self) -> Stream:
        parts, at = [], 0
        for length in (self.coded.params, *self.coded.chunks):
            parts.append(self.data[at : at + length])
            at += length
        count = product(self.coded.shape)
        return Stream(self.coded.coder, parts[0], tuple(parts[1:]), self.coded.chunk_symbols, count)


@dataclass(frozen=True)
class Record:
    """One tensor in the index: quantised (`grid` is set) or kept (`reason` is set).

    `integers` and `fields` are the members of its grid, `codes` its codes: one array, or what the grid makes of them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    grid: str = ""
    integers: dict[str, int] = field(default_factory=dict)
    fields: dict[str, Field | Coded] = field(default_factory=dict)
    codes: tuple[Coded, ...] = ()
    reason: str = ""
    stored: str = ""
    storage: int = RAW_BYTES
    stored_size: int = 0

    @property
    def count(self) -> int:
        """The number of elements."""
        return product(self.shape)

    @property
    def output(self) -> int:
        """Bytes of the decoded tensor in its original dtype (or as it is stored, if those are more), and of what its
        grid has decoded beside it."""
        if not self.grid:
            return self.count * max(SIZES[self.dtype], SIZES[self.stored])
        beside = sum(part.output for part in self.fields.values() if isinstance(part, Coded))
        return max(self.original, sum(part.output for part in self.codes)) + beside

    @property
    def kept_size(self) -> int:
        """Bytes of a kept tensor as it is stored, before zstd."""
        return (min(1, self.count) if self.storage == CONSTANT_BYTES else self.count) * SIZES[self.stored]

    @property
    def original(self) -> int:
        """Bytes of the tensor in its original dtype."""
        return self.count * SIZES[self.dtype]

    @property
    def coded(self) -> list[Coded]:
        """All that coders have written of it."""
        return [*(part for part in self.fields.values() if isinstance(part, Coded)), *self.codes]

    @property
    def grid_size(self) -> int:
        """Bytes of the grid's fields."""
        return sum(part.size for part in self.fields.values())

    @property
    def size(self) -> int:
        """Bytes in the data sections."""
        return self.stored_size if not self.grid else self.grid_size + sum(part.size for part in self.codes)


def matrix(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that codes of a tensor are encoded in: rows and what follows them."""
    count = product(shape)
    return (shape[0], count // shape[0]) if len(shape) > 1 and count else shape


def product(shape: tuple[int, ...]) -> int:
    """The number of elements of a shape (exact for any size)."""
    count = 1
    for size in shape:
        count *= size
    return count
