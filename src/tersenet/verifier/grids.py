"""Grids: what their entries have to be, and the values of codes."""

from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from .bits import Ints
from .blocks import check_blocks, in_blocks
from .checks import need, shaped, whole

DTYPES = {
    "f64": "<f8",
    "f32": "<f4",
    "f16": "<f2",
    "bf16": "<u2",
    "f8e4m3": "u1",
    "f8e5m2": "u1",
    "i64": "<i8",
    "i32": "<i4",
    "i16": "<i2",
    "i8": "<i1",
    "u64": "<u8",
    "u32": "<u4",
    "u16": "<u2",
    "u8": "u1",
    "bool": "?",
    "c64": "<c8",
    "c128": "<c16",
}
FLOATS = ("f64", "f32", "f16", "bf16")
INTEGERS = ("i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8")
ORDER = {
    "uniform": ("scale", "zero_point", "offset"),
    "codebook": ("values", "scale", "offset"),
    "fixed": (),
    "outer": ("scale", "rows", "columns"),
    "blocks": ("scale", "offset"),
}
PLACES = ("rows", "columns")  # of factors
TYPES = {"zero_point": INTEGERS, "values": FLOATS + INTEGERS, "scale": FLOATS, "offset": FLOATS}
Array = npt.NDArray[Any]


def single(array: Array, dtype: str, name: str) -> Array:
    """The entries of a field: zero points as 64-bit integers that fit 32 bits, others in fp32."""
    if name == "zero_point":
        need(all(-(2**31) <= value < 2**31 for value in array.reshape(-1).tolist()), "a zero point beyond 32 bits")
        return array.astype(np.int64)
    with np.errstate(over="ignore"):
        found: Array = (array.astype("<u4") << 16).view("<f4") if dtype == "bf16" else array.astype("<f4")
    need(np.isfinite(found).all() and (name != "scale" or found.all()), f"an entry of {name}")
    return found


def check_grid(grid: Any, shape: list[int], dtype: str) -> None:
    """The members of a grid, for a tensor of this shape."""
    kind, names = grid["kind"], set(grid) - {"kind"}
    need(dtype in FLOATS, "a quantised tensor that has no floats")
    if kind == "fixed":
        need(names == {"exponent"}, "members of a grid")
        whole(grid["exponent"], -126, 126)
        return
    if kind == "blocks":
        check_blocks(grid, shape)
        return
    if kind == "outer":
        own = {*ORDER[kind], "mantissa"}
        need({"scale", "mantissa"} <= names <= own and len(shape) > 1 and prod(shape), "members of a grid")
        need(len(grid["scale"]) == 2 and grid["scale"][0] in FLOATS and grid["scale"][1] == [], "the scale of a grid")
        places = ((axis, key) for axis, key in enumerate(PLACES) if key in grid)
        need(all(grid[key][1] == [shape[axis]] for axis, key in places), "the shape of a field")
        whole(grid["mantissa"], 0, 10)
        return
    known = {*ORDER[kind], "axis", "group_size"}
    need(names <= known and not {"axis", "group_size"} <= names, "members of a grid")
    given = {name: shaped(grid[name][1]) for name in ORDER[kind] if name in grid}
    need(all(len(grid[name]) == 2 and grid[name][0] in TYPES[name] for name in given), "the dtype of a field")
    lead = []
    if "axis" in grid:
        lead = [shape[whole(grid["axis"])]]
    if "group_size" in grid:
        need(kind == "uniform" and prod(shape) and shape, "groups of nothing")
        lead = [shape[0], -(-prod(shape[1:]) // whole(grid["group_size"], 1))]
    if kind == "codebook":
        of_values = given.pop("values")
        need(of_values and of_values[:-1] in ([], [] if given else lead), "the shape of values")
    else:
        need("scale" in given, "no scale")
    need(all(each in ([], lead) for each in given.values()), "the shape of a field")


def values(grid: dict[str, Any], parts: dict[str, Array], codes: Ints) -> Array:
    """The values of codes, in fp32."""
    shape = codes.shape
    if grid["kind"] == "fixed":
        exact: Array = codes.astype(np.float32) * np.float32(2.0) ** grid["exponent"]
        return exact
    if grid["kind"] == "blocks":
        return in_blocks(grid, parts, codes)
    if grid["kind"] == "outer":
        return _outer(grid, parts, codes)
    if grid["kind"] == "codebook":
        most = parts["values"].shape[-1]
        need(not codes.size or (codes.min() >= 0 and codes.max() < most), "a code outside the codebook")
        if parts["values"].ndim == 2:
            axis = grid["axis"]
            channel = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
            rows: Array = parts["values"][channel, codes]
            return rows
        found: Array = parts["values"][codes]
        found = found * spread(parts["scale"], grid, shape) if "scale" in parts else found
    else:
        if "zero_point" in parts and codes.size:
            zero = parts["zero_point"]
            need(codes.min() - zero.max() >= -(2**31) and codes.max() - zero.min() < 2**31, "codes beyond 32 bits")
            codes = codes - spread(zero, grid, shape)
        found = codes.astype(np.float32) * spread(parts["scale"], grid, shape)
    return found + spread(parts["offset"], grid, shape) if "offset" in parts else found


def _outer(grid: dict[str, Any], parts: dict[str, Array], codes: Ints) -> Array:
    scale, ahead = parts["scale"], codes.ndim - 1
    if "rows" in parts:
        scale = scale * factors(parts["rows"], grid["mantissa"]).reshape(-1, *[1] * ahead)
    found: Array = codes.astype(np.float32) * scale
    if "columns" in parts:
        found = found * factors(parts["columns"], grid["mantissa"]).reshape(-1, *[1] * (ahead - 1))
    return found


def factors(numbers: Ints, mantissa: int) -> Array:
    """The fp32 numbers that factors stand for."""
    need(not numbers.size or abs(numbers).max() <= 60 * 2**mantissa, "a factor beyond 2^60")
    found: Array = (127 * 2**23 + numbers * 2 ** (23 - mantissa)).astype("<i4").view("<f4")
    return found


def spread(part: Array, grid: dict[str, Any], shape: tuple[int, ...]) -> Array:
    """A field against the shape of the tensor."""
    if not part.shape:
        return part
    if "group_size" in grid:
        row = prod(shape[1:])
        return np.repeat(part, min(row, grid["group_size"]), axis=1)[:, :row].reshape(shape)
    along: Array = part.reshape([-1 if i == grid["axis"] else 1 for i in range(len(shape))])
    return along
