"""The numbers of a card that stand for one tensor, from its bytes. What each means is said in docs/cards.md."""

import math
from collections import Counter
from typing import Any

import numpy as np

from ... import codec
from ...files.grids import GRIDS, Arrays, check_codes, ends_of
from ...files.records import FLOATS, INTEGERS, SIZES, Encoded, Record
from .values import floats, has_zero, is_symmetric, values_of

DIGITS = 6  # after the point, of what is computed


def quantised(record: Record, fields: Arrays, arrays: list[Encoded]) -> dict[str, Any]:
    """What a card says of a quantised tensor, without what depends on others."""
    counts = [_histogram(array) for array in arrays]
    decoded = [array.array() for array in arrays]
    check_codes(record, fields, lambda number: ends_of(decoded[number]))
    codes = GRIDS[record.grid].join(record, fields, decoded)
    values = values_of(record, fields, codes)
    plain = len(arrays) == 1 and record.count > 0
    lowest, highest = (int(codes.min()), int(codes.max())) if plain else (None, None)
    coded = record.codes
    return {
        "name": record.name,
        "shape": list(record.shape),
        "weights": record.count,
        "dtype": record.dtype,
        "grid": record.grid,
        "granularity": granularity(record),
        "axis": record.integers.get("axis"),
        "group_size": record.integers.get("group_size"),
        "symmetric": is_symmetric(record, fields, lowest, highest),
        "zero": has_zero(record, fields),
        "scale": _scale(record, fields),
        "coders": list(dict.fromkeys(codec.coder_name(part.coder) for part in coded)),
        "trellis": any(array.by_columns for array in arrays),
        "bits": _bits(record, fields, lowest, highest),
        "lowest": lowest,
        "highest": highest,
        "levels": len(counts[0]) if plain else None,
        "entropy_bits": _entropy(counts, record.count),
        "zeros": round(1 - int(np.count_nonzero(values)) / record.count, DIGITS) if record.count else 0.0,
        "smallest": float(values.min()) if values.size else None,
        "largest": float(values.max()) if values.size else None,
        "bytes": {
            "grid": record.grid_size,
            "tables": sum(part.params for part in coded),
            "codes": sum(sum(part.chunks) for part in coded),
        },
        "stored_bits": round(8 * record.size / record.count, DIGITS) if record.count else 0.0,
    }


def granularity(record: Record) -> str:
    """What shares a scale."""
    if "group_size" in record.integers:
        return "group"
    if record.grid == "outer":
        return " and ".join(name[:-1] for name in ("rows", "columns") if name in record.fields) or "tensor"
    return "channel" if "axis" in record.integers else "tensor"


def _bits(record: Record, fields: Arrays, lowest: int | None, highest: int | None) -> float:
    """The width of an index into the levels from the lowest code to the highest, or into a codebook; of sums of bases,
    their mean number."""
    if record.grid == "codebook":
        return int(fields["values"].shape[-1] - 1).bit_length()
    if lowest is None or highest is None:
        return round(float(fields["counts"].mean()), DIGITS) if "counts" in fields else 0
    return (highest - lowest).bit_length()


def accumulator_bits(layer: dict[str, Any], integer_bits: int | None, input_bits: int | None) -> int | None:
    """`weight bits + input bits + ceil(log2 fan-in)`; None unless both are whole multiples of a step."""
    if integer_bits is None or input_bits is None:
        return None
    channels = layer["shape"][layer["axis"] or 0] if layer["shape"] else 1
    fan_in = max(1, layer["weights"] // max(1, channels))
    return integer_bits + input_bits + math.ceil(math.log2(fan_in))


def integer_bits(record: Record, fields: Arrays, bits: float) -> int | None:
    """The bits of a weight as a whole number of steps; None if it is none."""
    if record.grid in ("uniform", "fixed") or (record.grid == "outer" and "columns" not in fields):
        return int(bits)
    if record.grid == "codebook" and record.fields["values"].dtype in INTEGERS:
        return (int(fields["values"].max()) - int(fields["values"].min())).bit_length()
    return None


def kept(record: Record) -> dict[str, Any]:
    """What a card says of a tensor of two or more dimensions that is not quantised."""
    return {
        "name": record.name,
        "shape": list(record.shape),
        "weights": record.count,
        "stored": record.stored,
        "bits": 8 * SIZES[record.stored],
        "reason": record.reason,
        "bytes": record.stored_size,
    }


def is_matrix(record: Record) -> bool:
    """Whether a tensor is counted among the weights of layers: floats of two or more dimensions."""
    return len(record.shape) > 1 and record.dtype in FLOATS


def _scale(record: Record, fields: Arrays) -> dict[str, Any] | None:
    if record.grid == "fixed":
        step = 2.0 ** record.integers["exponent"]
        return {"stored": "power of two", "smallest": step, "largest": step}
    if "scale" not in fields:
        return None
    dtype = record.fields["scale"].dtype
    scale = np.abs(floats(fields, record, "scale"))
    return {"stored": dtype, "smallest": float(scale.min()), "largest": float(scale.max())} if scale.size else None


def _histogram(array: Encoded) -> Counter[int]:
    found: Counter[int] = Counter()
    for piece in array.pieces():
        values, counts = np.unique(piece, return_counts=True)
        found.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    return found


def _entropy(histograms: list[Counter[int]], weights: int) -> float:
    """Bits per weight of an ideal code without context: the sum over arrays of `-sum n log2(n / N)`, over weights."""
    bits = 0.0
    for counts in histograms:
        total = sum(counts.values())
        bits += sum(count * math.log2(total / count) for count in sorted(counts.values()))
    return round(bits / weights, DIGITS) if weights else 0.0
