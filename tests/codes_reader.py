"""A reader of `decompress --as codes`, made from the section "Codes" of docs/format.md with numpy alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PLAIN = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1",
         "BOOL": "?", "BF16": "u2"}  # fmt: skip

NF4 = (
    *(-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1),
)
FIELDS = ("scale", "zero_point", "offset", "values", "rows", "columns", "counts", "coordinates")


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str], dict[str, Any]]:
    """Tensors and dtypes of a safetensors file (bfloat16 as its bits), and the metadata."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    about = json.loads(header.pop("__metadata__")["tersenet.codes"])
    arrays = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        raw = np.frombuffer(data[8 + size + begin : 8 + size + end], PLAIN[entry["dtype"]])
        arrays[name] = raw.reshape(entry["shape"])
    return arrays, {name: entry["dtype"] for name, entry in header.items()}, about


def values(path: Path) -> dict[str, np.ndarray]:
    """Every tensor in its dtype (bfloat16 as its bits)."""
    arrays, dtypes, about = read(path)
    found = {}
    for name, facts in about["tensors"].items():
        if "kind" in facts:
            fields = {key: arrays[f"{name}:{key}"] for key in FIELDS if f"{name}:{key}" in arrays}
            wide = {key: widened(value, dtypes[f"{name}:{key}"]) for key, value in fields.items()}
            found[name] = rounded(decoded(arrays[name], facts, wide), facts["dtype"])
        elif dtypes[name] == facts["dtype"]:
            found[name] = arrays[name]
        else:
            found[name] = rounded(widened(arrays[name], dtypes[name]), facts["dtype"])
    return found


def widened(array: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array if dtype.startswith("I") else array.astype(np.float32)


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    if dtype != "BF16":
        return array.astype(PLAIN[dtype])
    whole = np.ascontiguousarray(array).view(np.uint32)
    return ((whole + 0x7FFF + ((whole >> 16) & 1)) >> 16).astype(np.uint16)


def decoded(codes: np.ndarray, facts: dict[str, Any], fields: dict[str, np.ndarray]) -> np.ndarray:
    if facts["kind"] == "fixed":
        return np.ldexp(codes.astype(np.float32), facts["exponent"])
    if facts["kind"] == "bases":
        return summed(codes, facts, **fields)
    if facts["kind"] == "outer":
        return by_rows_and_columns(codes, facts["mantissa"], **fields)
    if facts["kind"] == "blocks":
        return in_blocks(codes, facts, **fields)
    shape, axis = codes.shape, facts.get("axis")

    def spread(field: np.ndarray) -> np.ndarray:
        if field.ndim == 0:
            return field
        if (group := facts.get("group_size")) is not None:
            row = codes.size // max(1, shape[0])
            return field[:, np.arange(row) // group].reshape(shape)
        return field.reshape([-1 if i == axis else 1 for i in range(len(shape))])

    if facts["kind"] == "uniform":
        zero = spread(fields["zero_point"]).astype(np.int32) if "zero_point" in fields else np.int32(0)
        found = (codes.astype(np.int32) - zero).astype(np.float32) * spread(fields["scale"])
    else:
        table = fields["values"].astype(np.float32)
        channel = () if table.ndim == 1 else (np.broadcast_to(spread(np.arange(len(table))), shape),)
        found = table[(*channel, codes)]
        found = found * spread(fields["scale"]) if "scale" in fields else found
    return found + spread(fields["offset"]) if "offset" in fields else found


def in_blocks(codes: np.ndarray, facts: dict[str, Any], **fields: np.ndarray) -> np.ndarray:
    block = np.arange(codes.size // len(codes)) // facts["group_size"]
    bits = {key: field.view(f"<f{field.itemsize}").astype(np.float32) for key, field in fields.items()}
    spread = {key: field[:, block].reshape(codes.shape) for key, field in bits.items()}
    level = np.array(NF4, np.float32)[codes] if facts["levels"] else codes.astype(np.float32)
    found = level * spread["scale"]
    return found + spread["offset"] if "offset" in spread else found


def by_rows_and_columns(codes: np.ndarray, mantissa: int, scale: np.ndarray, **fields: np.ndarray) -> np.ndarray:
    factor = {
        name: ((127 << 23) + (field.astype(np.int32) << (23 - mantissa))).view(np.float32)
        for name, field in fields.items()
    }
    step = scale * factor["rows"].reshape(-1, *[1] * (codes.ndim - 1)) if "rows" in factor else scale
    found = codes.astype(np.float32) * step
    return found * factor["columns"].reshape(-1, *[1] * (codes.ndim - 2)) if "columns" in factor else found


def summed(codes: np.ndarray, facts: dict[str, Any], counts: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    size, stride = facts["group_size"], facts["stride"]
    numbers = (coordinates.astype(np.uint32) << (23 - facts["mantissa"])).view(np.float32)
    ends = counts.reshape(-1).astype(int).cumsum()
    bits = codes.reshape(-1, size, stride).swapaxes(1, 2).reshape(-1, size)
    found = np.zeros(bits.shape, np.float32)
    for group, (end, count) in enumerate(zip(ends, counts.reshape(-1), strict=True)):
        for i, number in enumerate(numbers[end - count : end]):
            found[group] += np.where(bits[group] >> i & 1, number, -number)
    return found.reshape(-1, stride, size).swapaxes(1, 2).reshape(codes.shape)


def roundings(path: Path) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """What every layer does to its inputs (fp32 -> fp32)."""
    return {layer: rounding(*entry) for layer, entry in read(path)[2]["activations"].items()}


def rounding(kind: str, scale: float, levels: list[int]) -> Callable[[np.ndarray], np.ndarray]:
    step = np.float32(scale)
    if kind == "integers":
        return lambda inputs: np.clip(np.rint(inputs / step), *map(np.float32, levels)) * step
    points = np.array(levels, np.float32)
    middles = (points[1:] + points[:-1]) / 2
    return lambda inputs: points[np.searchsorted(middles, inputs / step)] * step
