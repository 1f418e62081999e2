"""The numbers of a card that stand for one quantised tensor, from its codes and fields."""

from math import ceil, log2, prod
from typing import Any

import numpy as np

from .bases import cancel
from .bits import Ints
from .grids import FLOATS, Array
from .reader import Tensor

CODERS = ("raw", "rans", "zstd", "classes")


def layer(tensor: Tensor, input_bits: int | None, uses: int | None, outputs: int | None) -> dict[str, Any]:
    """What a card says of a quantised tensor."""
    count, kind = prod(tensor.shape), tensor.grid["kind"]
    alone = tensor.arrays[0].integers if len(tensor.arrays) == 1 and count else None
    ends = (int(alone.min()), int(alone.max())) if alone is not None else (None, None)
    histograms = [np.unique(array.integers, return_counts=True)[1] for array in tensor.arrays]
    bits = _bits(tensor, *ends)
    size = tensor.grid_size + sum(array.tables + array.chunks for array in tensor.arrays)
    return {
        "name": tensor.name,
        "shape": tensor.shape,
        "weights": count,
        "dtype": tensor.dtype,
        "grid": kind,
        "granularity": _granularity(tensor),
        "axis": tensor.grid.get("axis"),
        "group_size": tensor.grid.get("group_size"),
        "symmetric": _symmetric(tensor, *ends),
        "zero": _zero(tensor),
        "scale": _scale(tensor),
        "coders": list(dict.fromkeys(CODERS[array.coder] for array in tensor.arrays)),
        "trellis": any(array.trellis for array in tensor.arrays),
        "bits": bits,
        "lowest": ends[0],
        "highest": ends[1],
        "levels": len(histograms[0]) if alone is not None else None,
        "entropy_bits": sum(map(_entropy, histograms)) / count if count else 0.0,
        "zeros": float((tensor.values == 0).sum() / count) if count else 0.0,
        "smallest": float(tensor.values.min()) if count else None,
        "largest": float(tensor.values.max()) if count else None,
        "bytes": {
            "grid": tensor.grid_size,
            "tables": sum(array.tables for array in tensor.arrays),
            "codes": sum(array.chunks for array in tensor.arrays),
        },
        "stored_bits": 8 * size / count if count else 0.0,
        "uses": uses,
        "macs": None if uses is None else uses * count,
        "outputs": outputs,
        "input_bits": input_bits,
        "accumulator_bits": _accumulator(tensor, bits, input_bits),
    }


def _granularity(tensor: Tensor) -> str:
    if tensor.grid["kind"] == "outer":
        named = [word for word, key in (("row", "rows"), ("column", "columns")) if key in tensor.grid]
        return " and ".join(named) or "tensor"
    return "group" if "group_size" in tensor.grid else "channel" if "axis" in tensor.grid else "tensor"


def _bits(tensor: Tensor, lowest: int | None, highest: int | None) -> float:
    if tensor.grid["kind"] == "codebook":
        return ceil(log2(tensor.fields["values"].shape[-1])) if tensor.fields["values"].shape[-1] else 0
    if tensor.grid["kind"] == "bases":
        return float(tensor.fields["counts"].mean())
    return 0 if lowest is None or highest is None else (highest - lowest).bit_length()


def _accumulator(tensor: Tensor, bits: float, input_bits: int | None) -> int | None:
    kind = tensor.grid["kind"]
    if input_bits is None or kind == "bases" or (kind == "outer" and "columns" in tensor.grid):
        return None
    if kind == "codebook":
        if tensor.grid["values"][0] in FLOATS:
            return None
        values = tensor.fields["values"]
        bits = int(values.max() - values.min()).bit_length()
    channels = tensor.shape[tensor.grid.get("axis", 0)] if tensor.shape else 1
    fan_in = max(1, prod(tensor.shape) // max(1, channels))
    return int(bits) + input_bits + (fan_in - 1).bit_length()


def _entropy(counts: Ints) -> float:
    share = counts / counts.sum() if counts.size else counts
    return float(-(counts * np.log2(share)).sum()) if counts.size else 0.0


def _scale(tensor: Tensor) -> dict[str, Any] | None:
    if tensor.grid["kind"] == "fixed":
        step = float(np.ldexp(1.0, tensor.grid["exponent"]))
        return {"stored": "power of two", "smallest": step, "largest": step}
    scale = abs(tensor.fields["scale"]) if "scale" in tensor.fields else np.zeros(0)
    if not scale.size:
        return None
    return {"stored": tensor.grid["scale"][0], "smallest": float(scale.min()), "largest": float(scale.max())}


def _columns(part: Array) -> Array:
    """A field that broadcasts against levels in the last place."""
    return part.reshape(-1, 1) if part.ndim else part


def _zero(tensor: Tensor) -> bool:
    kind, fields = tensor.grid["kind"], tensor.fields
    if kind == "bases":
        return cancel(fields["counts"].reshape(-1), fields["coordinates"], tensor.grid["mantissa"])
    if kind == "codebook":
        levels = fields["values"] * _columns(fields["scale"]) if "scale" in fields else fields["values"]
        levels = levels + _columns(fields["offset"]) if "offset" in fields else levels
        return bool((levels == 0).any(axis=-1).all())
    if "offset" not in fields:
        return True
    steps = np.rint(-fields["offset"] / fields["scale"]).astype(np.float32)
    return bool((steps * fields["scale"] + fields["offset"] == 0).all())


def _symmetric(tensor: Tensor, lowest: int | None, highest: int | None) -> bool:
    fields = tensor.fields
    if tensor.grid["kind"] == "codebook":
        levels = np.sort(fields["values"], axis=-1)
        return "offset" not in fields and bool((levels + np.flip(levels, -1) == 0).all())
    if "offset" in fields and lowest is not None and highest is not None and "zero_point" not in fields:
        return bool((np.float32(lowest + highest) * fields["scale"] + 2 * fields["offset"] == 0).all())
    return "offset" not in fields and "zero_point" not in fields
