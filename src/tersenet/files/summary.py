"""What is in a file, byte by byte, and whether all of it decodes. Never imports torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import codec
from .boundary import reading
from .grids import GRIDS
from .layout import ACTIVATIONS, HASH, HEADER, PREFIX, RESULTS, TRAILER, VERSION, entry_of
from .reader import Reader
from .records import Record
from .writer import canonical


@dataclass(frozen=True)
class Row:
    """One tensor: `bytes` in the data sections, of which `grid_bytes` scales and `table_bytes` frequency tables."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    grid: str
    coder: str
    weights: int
    bytes: int
    grid_bytes: int
    table_bytes: int
    index_bytes: float
    reason: str

    @property
    def bits_per_weight(self) -> float:
        """8 x bytes / weights."""
        return 8 * self.bytes / self.weights if self.weights else 0.0


@dataclass(frozen=True)
class Summary:
    """A file: its tensors, what else takes bytes (`overhead`, by name), and where it comes from.

    `sum(row.bytes for row in rows) + sum(overhead.values()) == size`, exactly.
    """

    path: str
    version: int
    size: int
    original_bytes: int
    rows: list[Row]
    overhead: dict[str, int]
    aliases: dict[str, str]
    batch_norm: str
    provenance: dict[str, Any]
    activations: dict[str, str]  # layer -> levels of its input

    @property
    def bits_per_weight(self) -> float:
        """The rate: 8 x bytes of all that belongs to the quantised tensors (index entries too) / their weights."""
        quantised = [row for row in self.rows if row.grid]
        weights = sum(row.weights for row in quantised)
        return 8 * sum(row.bytes + row.index_bytes for row in quantised) / weights if weights else 0.0


def summarize(path: str | Path, *, max_output: int | None = None) -> Summary:
    """The contents of a file. **Raises** `FormatError` if it is damaged or foreign."""
    with reading(path, "index"):
        return _summary(Reader(path, max_output))


def provenance_of(path: str | Path, *, max_output: int | None = None) -> dict[str, Any]:
    """How a file was made. **Raises** `FormatError` if it is damaged or foreign."""
    with reading(path, "index"):
        provenance: dict[str, Any] = Reader(path, max_output).index.about["provenance"]
        return provenance


def verify(path: str | Path, *, max_output: int | None = None) -> Summary:
    """The contents of a file, after checking every checksum and decoding every tensor, a chunk at a time.

    **Raises** `FormatError` (or `ChecksumError`, `VersionError`, `SizeLimitError`) saying what is wrong and where.
    """
    with reading(path, "index"):
        reader = Reader(path, max_output)
        reader.check_all()
    for record in reader.index.records.values():
        with reading(path, f"tensor {record.name!r}"):
            reader.check(record)
    for name in reader.index.files:
        with reading(path, f"attachment {name!r}"):
            reader.file(name)
    with reading(path, "index"):
        return _summary(reader)


def _summary(reader: Reader) -> Summary:
    records = list(reader.index.records.values())
    texts = [len(canonical({"": entry_of(record)})) - 5 for record in records]
    share = reader.index_size / max(1, sum(texts) + len(canonical(reader.index.about)))
    rows = [_row(record, text * share) for record, text in zip(records, texts, strict=True)]
    files = sum(size for size, _ in reader.index.files.values())
    overhead = {
        "header and trailer": HEADER + PREFIX + TRAILER,
        "index": reader.index_size,
        "checksums": HASH * len(reader.index.sections),
        "attachments": files,
        RESULTS: sum(section.size for section in reader.index.sections if section.kind == RESULTS),
        "activations": sum(section.size for section in reader.index.sections if section.kind == ACTIVATIONS),
    }
    overhead["padding and unknown sections"] = reader.size - sum(row.bytes for row in rows) - sum(overhead.values())
    about = reader.index.about
    return Summary(
        str(reader.path),
        VERSION,
        reader.size,
        sum(record.original for record in records),
        rows,
        {name: size for name, size in overhead.items() if size},
        about["aliases"],
        reader.batch_norm,
        about["provenance"],
        {path: _levels(*levels) for path, levels in reader.activations().items()},
    )


def _levels(scale: float, numbers: list[int], plain: bool) -> str:
    return f"{numbers[0]} .. {numbers[-1]}{'' if plain else f' ({len(numbers)} levels)'} times {scale:.4g}"


def _row(record: Record, index_bytes: float) -> Row:
    grid, coder = "", ("raw", "zstd", "constant")[record.storage]
    if record.grid:
        grid = f"{record.grid}, {GRIDS[record.grid].describe(record)}"
        coder = ", ".join(dict.fromkeys(codec.coder_name(part.coder) for part in record.codes))
    return Row(
        record.name,
        record.shape,
        record.dtype,
        grid,
        coder,
        record.count,
        record.size,
        record.grid_size,
        sum(part.params for part in record.codes),
        index_bytes,
        record.reason and f"{record.reason}, kept as {record.stored}",
    )
