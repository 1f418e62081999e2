"""The constants of the file format and its records: what the index says about one tensor. See docs/format.md."""

from dataclasses import dataclass, field
from typing import Any

VERSION = 1
MAGIC = b"TERSENET"
END = b"TERSEEND"
ALIGN = 64
HEADER = 192  # bytes of the safetensors header with its length: a multiple of ALIGN
PREFIX = 64  # magic, version and zeros
TRAILER = 32
HASH = 8
CLOSE_SECTION = 1 << 18  # a section ends behind the first tensor that brings it to this many bytes
DEFAULT_CHUNK = 1 << 20
LEAST_CHUNK = 1 << 16  # codes

SIZES = {
    "f64": 8, "f32": 4, "f16": 2, "bf16": 2, "f8e4m3": 1, "f8e5m2": 1, "i64": 8, "i32": 4, "i16": 2, "i8": 1,
    "u64": 8, "u32": 4, "u16": 2, "u8": 1, "bool": 1, "c64": 8, "c128": 16,
}  # fmt: skip
GRIDS = {"uniform": ("scale", "zero_point", "offset"), "codebook": ("values", "scale", "offset"), "fixed": ()}
ACTIVATIONS = "activations"  # the one critical section
CODE_TYPES = {"i8": "int8", "i16": "int16", "i32": "int32"}
RAW_BYTES, ZSTD_BYTES, CONSTANT_BYTES = 0, 1, 2  # how a kept tensor is stored


@dataclass(frozen=True)
class Field:
    """A stored part of a grid."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return product(self.shape) * SIZES[self.dtype]


@dataclass(frozen=True)
class Record:
    """One tensor in the index: quantised (`grid` is set) or kept (`reason` is set)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    grid: str = ""
    scalars: dict[str, int] = field(default_factory=dict)
    fields: dict[str, Field] = field(default_factory=dict)
    code_type: str = ""
    coder: int = 0
    params: int = 0
    chunks: tuple[int, ...] = ()
    chunk_symbols: int = DEFAULT_CHUNK
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
        """Bytes of the decoded tensor in its original dtype (or as it is stored, if those are more)."""
        return self.count * max(SIZES[self.dtype], SIZES[self.code_type if self.grid else self.stored])

    @property
    def kept_size(self) -> int:
        """Bytes of a kept tensor as it is stored, before zstd."""
        return (min(1, self.count) if self.storage == CONSTANT_BYTES else self.count) * SIZES[self.stored]

    @property
    def original(self) -> int:
        """Bytes of the tensor in its original dtype."""
        return self.count * SIZES[self.dtype]

    @property
    def grid_size(self) -> int:
        """Bytes of the grid's fields."""
        return sum(part.size for part in self.fields.values())

    @property
    def matrix(self) -> tuple[int, ...]:
        """The shape that its codes were encoded in: rows and what is behind them."""
        return (self.shape[0], self.count // self.shape[0]) if len(self.shape) > 1 and self.count else self.shape

    @property
    def size(self) -> int:
        """Bytes in the data sections."""
        return self.stored_size if not self.grid else self.grid_size + self.params + sum(self.chunks)

    def to_json(self) -> list[Any]:
        """The record's entry in the index."""
        if not self.grid:
            return [self.name, list(self.shape), self.dtype, self.stored, self.reason, self.storage, self.stored_size]
        grid: dict[str, Any] = {"kind": self.grid, **self.scalars}
        grid |= {name: [part.dtype, list(part.shape)] for name, part in self.fields.items()}
        entry = [
            self.name,
            list(self.shape),
            self.dtype,
            grid,
            self.code_type,
            self.coder,
            self.params,
            list(self.chunks),
        ]
        return entry if self.chunk_symbols == DEFAULT_CHUNK else [*entry, self.chunk_symbols]


def product(shape: tuple[int, ...]) -> int:
    """The number of elements of a shape (exact for any size)."""
    count = 1
    for size in shape:
        count *= size
    return count
