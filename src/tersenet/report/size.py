"""What a compressed network takes in the storage formats of the literature, and on disk. Never imports torch.

A ratio by value bits alone is nowhere here: indices, tags and pointers are counted, and so is what is not quantised.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..files.boundary import reading
from ..files.grids import GRIDS, Arrays
from ..files.reader import Reader
from ..files.records import Array, Encoded, Record

CountsByWidth = Mapping[int, int]
GAPS = range(2, 13)  # bits of a relative index that are tried
SHORT = 1 << 13  # gaps below this are counted by length


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


def storage(path: str | Path, *, max_output: int | None = None) -> Storage:
    """The accounting of a `.terse` file.

    Widths are those that its method gave to single weights (accgrad records them), else one per tensor: of two's
    complement that holds all its codes, or of an index where codes are positions in a codebook (0 is then not a value
    that is left out, so all weights count). Grids count as stored, biases and batch norm as kept.

    **Raises** `FormatError` for a damaged or foreign file.
    """
    with reading(path, "index"):
        reader = Reader(path, max_output)
    tensors, beside = [], 0
    for name, record in reader.index.records.items():
        beside += record.grid_size if record.grid else record.size
        if record.grid and record.count:
            with reading(path, f"tensor {name!r}"):
                codes, counts = reader.quantised(record, partial(_look, record))
                tensors.append((record, codes, _recorded(reader, record) or counts))
    tags = tag_bits({bits for _, _, counts in tensors for bits in counts})
    each = [_bits(record, codes, counts, tags) for record, codes, counts in tensors]
    csr, relative, bitmap, dense = (beside + -(-sum(bits[i] for bits in each) // 8) for i in range(4))
    return Storage(
        sum(record.count for record, _, _ in tensors),
        sum(sum(counts.values()) for _, _, counts in tensors),
        4 * sum(record.count for record in reader.index.records.values()),
        beside,
        csr,
        relative,
        bitmap,
        dense,
        reader.size,
    )


@dataclass(frozen=True)
class _Codes:
    """Of the codes of a tensor: the extremes, how many are not 0, and for every relative index of `GAPS` bits how many
    zeros have to be stored, because the gap before a non-zero is too long for it."""

    ends: tuple[int, int]
    nonzeros: int
    bridges: tuple[int, ...]


def _look(record: Record, fields: Arrays, arrays: list[Encoded]) -> tuple[_Codes, CountsByWidth]:
    """What there is to say about the codes of a tensor, and its non-zeros by width."""
    row = GRIDS[record.grid]
    codes = _survey(row.weights(record, fields, arrays))
    return codes, row.widths(record, fields, codes.ends, codes.nonzeros)


def _survey(pieces: Iterable[Array]) -> _Codes:
    """What there is to say about codes, a piece at a time."""
    ends: list[int] = []
    frequency = np.zeros(SHORT, np.int64)  # of gaps by length
    bridges = np.zeros(len(GAPS), np.int64)
    at, last, nonzeros = 0, -1, 0
    for part in pieces:
        ends += [int(part.min()), int(part.max())]
        count = int(np.count_nonzero(part))
        places = np.arange(1) if count == len(part) else np.flatnonzero(part)
        if count:
            gaps = np.diff(places, prepend=last - at) - 1
            frequency += np.bincount(gaps[gaps < SHORT], minlength=SHORT)
            frequency[0] += count - len(places)  # where all are non-zero, the first tells
            bridges += [int((gaps[gaps >= SHORT] >> bits).sum()) for bits in GAPS]
            last = at + (len(part) - 1 if count == len(part) else int(places[-1]))
        at, nonzeros = at + len(part), nonzeros + count
    lengths = np.arange(SHORT)
    short = [int((frequency * (lengths >> bits)).sum()) for bits in GAPS]
    both = tuple(int(a + b) for a, b in zip(bridges, short, strict=True))
    return _Codes((min(ends), max(ends)), nonzeros, both)


def _recorded(reader: Reader, record: Record) -> dict[int, int]:
    """The non-zeros of a tensor by width, if its method recorded them. **Raises** `ValueError` if they cannot be."""
    facts = reader.index.about["provenance"].values()
    found = next((each["nonzeros"] for each in facts if isinstance(each, dict) and "nonzeros" in each), None)
    counts = found.get(record.name, {}) if isinstance(found, dict) else {}
    right = isinstance(counts, dict) and all(
        bits.isdecimal() and 1 <= int(bits[:3]) <= 32 and type(count) is int and count >= 0
        for bits, count in counts.items()
    )
    if not right or sum(counts.values()) > record.count:
        raise ValueError("the recorded numbers of its non-zeros cannot be true")
    return {int(bits): count for bits, count in counts.items()}


def _bits(record: Record, codes: _Codes, counts: CountsByWidth, tags: int) -> tuple[int, int, int, int]:
    """Bits as sparse rows, with relative indices, with a bitmap, dense."""
    count, values = sum(counts.values()), sum(bits * number for bits, number in counts.items())
    widest = max(counts, default=0)
    sparse, dense = csr_bits(record.shape, counts, tags), record.count * widest
    if count == record.count:
        return sparse, values + count * (tags + min(GAPS)), values + count * tags + count, dense
    relative = min(
        values + count * (gap + tags) + bridges * (gap + tags + widest)
        for gap, bridges in zip(GAPS, codes.bridges, strict=True)
    )  # a gap too long for the index is bridged by zeros that are stored
    return sparse, relative, values + count * tags + record.count, dense


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
