"""What a compressed network takes in the storage formats of the literature, and on disk. Never imports torch.

A ratio by value bits alone is nowhere here: indices, tags and pointers are counted, and so is what is not quantised.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .. import codec
from ..files.layout import Record
from ..files.reader import Reader

CountsByWidth = Mapping[int, int]
GAPS = range(2, 13)  # bits of a relative index that are tried


@dataclass(frozen=True)
class Storage:
    """Bytes of a network as compressed sparse rows (`csr`), with relative indices (`relative`), a bitmap (`bitmap`),
    packed densely (`dense`), and as the file is (`file`); its weights, the non-zeros among them, the bytes it had in
    fp32 (`fp32`), and those of what is not quantised, which every format has (`beside`)."""

    weights: int
    nonzeros: int
    fp32: int
    beside: int
    csr: int
    relative: int
    bitmap: int
    dense: int
    file: int

    @property
    def smallest(self) -> str:
        """The name of the format with the fewest bytes."""
        return min(("csr", "relative", "bitmap", "dense", "file"), key=lambda name: int(getattr(self, name)))


def storage(path: str | Path, *, max_output: int | None = None) -> Storage:
    """The accounting of a `.terse` file.

    Widths are those that its method gave to single weights (accgrad records them), else one per tensor: of two's
    complement that holds all its codes, or of an index where codes are positions in a codebook (0 is then not a value
    that is left out, so all weights count). Grids count as stored, biases and batch norm as kept.

    **Raises** `FormatError` for a damaged or foreign file.
    """
    reader = Reader(path, max_output)
    found = reader.index.about["provenance"].get("accgrad")
    recorded = found.get("nonzeros", {}) if isinstance(found, dict) else {}
    tensors, beside = [], 0
    for name, record in reader.index.records.items():
        beside += record.grid_size if record.grid else record.size
        if record.grid and record.count:
            codes = _codes(reader, record)
            counts = {int(bits): int(n) for bits, n in recorded.get(name, {}).items()}
            tensors.append((record.shape, codes, counts or _counts(record, codes)))
    tags = tag_bits({bits for _, _, counts in tensors for bits in counts})
    each = [_bits(shape, codes, counts, tags) for shape, codes, counts in tensors]
    csr, relative, bitmap, dense = (beside + -(-sum(bits[i] for bits in each) // 8) for i in range(4))
    return Storage(
        sum(codes.size for _, codes, _ in tensors),
        sum(sum(counts.values()) for _, _, counts in tensors),
        4 * sum(record.count for record in reader.index.records.values()),
        beside,
        csr,
        relative,
        bitmap,
        dense,
        reader.size,
    )


def _codes(reader: Reader, record: Record) -> npt.NDArray[np.int32]:
    _, stream = reader.stream(record)
    shape = record.shape
    matrix = (shape[0], record.count // shape[0]) if len(shape) > 1 else shape
    try:
        return codec.decode(stream, matrix, "int32").reshape(-1)
    except codec.CodecError as error:
        raise reader.broken(record.name, error) from error


def _counts(record: Record, codes: npt.NDArray[np.int32]) -> dict[int, int]:
    low, high = int(codes.min()), int(codes.max())
    if record.grid == "codebook" or "zero_point" in record.fields or "offset" in record.fields:
        return {max(1, (high - low).bit_length()): codes.size}  # code 0 is a value like the others
    count = int(np.count_nonzero(codes))
    return {max(high, -low - 1, 1).bit_length() + 1: count} if count else {}


def _bits(
    shape: tuple[int, ...], codes: npt.NDArray[np.int32], counts: CountsByWidth, tags: int
) -> tuple[int, int, int, int]:
    """Bits as sparse rows, with relative indices, with a bitmap, dense."""
    count, values = sum(counts.values()), sum(bits * number for bits, number in counts.items())
    widest = max(counts, default=0)
    dense = codes.size * widest
    if count == codes.size:
        return csr_bits(shape, counts, tags), values + count * (tags + min(GAPS)), values + count * tags + count, dense
    gaps = np.diff(np.flatnonzero(codes), prepend=-1) - 1
    relative = min(
        values + count * (gap + tags) + int((gaps >> gap).sum()) * (gap + tags + widest) for gap in GAPS
    )  # a gap too long for the index is bridged by zeros that are stored
    return csr_bits(shape, counts, tags), relative, values + count * tags + codes.size, dense


def csr_bits(shape: tuple[int, ...], nonzeros: CountsByWidth, tag_bits: int) -> int:
    """Bits of a tensor as compressed sparse rows: values, column indices, row pointers, cluster tags.

    `sum over widths b of n_b * b + nnz * (ceil(log2 columns) + tag_bits) + (rows + 1) * ceil(log2(nnz + 1))`; rows are
    axis 0 (a vector is one row), `nonzeros` the number n_b of non-zeros of every width b.

    >>> csr_bits((300, 784), {4: 1000}, 0)
    17010
    """
    rows = shape[0] if len(shape) > 1 else 1
    columns = math.prod(shape) // max(1, rows)
    count = sum(nonzeros.values())
    values = sum(bits * number for bits, number in nonzeros.items())
    return values + count * (max(0, columns - 1).bit_length() + tag_bits) + (rows + 1) * count.bit_length()


def tag_bits(widths: set[int]) -> int:
    """Bits that tell the width of a non-zero: `ceil(log2 n)` for n different widths, 0 for one."""
    return max(0, len(widths) - 1).bit_length()
