"""Blocks of weights with a scale each, as docs/format.md has them."""

from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from .bits import Ints
from .checks import need, whole

Array = npt.NDArray[Any]
FIELDS = ("scale", "offset")
NF4 = (
    *(-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1),
)


def check_blocks(grid: Any, shape: list[int]) -> None:
    """The members of the grid, for a tensor of this shape."""
    names = set(grid) - {"kind"}
    known = {*FIELDS, "group_size", "levels"}
    need({"scale", "group_size", "levels"} <= names <= known and shape and prod(shape), "members of a grid")
    groups = [shape[0], -(-prod(shape[1:]) // whole(grid["group_size"], 1))]
    need(all(grid[key][1] == groups and grid[key][0] in ("i16", "i32") for key in FIELDS if key in grid), "a field")
    whole(grid["levels"], 0, 1)


def in_blocks(grid: dict[str, Any], parts: dict[str, Ints], codes: Ints) -> Array:
    """The values of codes, in fp32."""
    levels: Array = codes.astype(np.float32)
    if grid["levels"]:
        need(codes.min() >= 0 and codes.max() < len(NF4), "a code outside NF4")
        levels = np.array(NF4, np.float32)[codes]
    found = levels * _numbers(grid, "scale", parts, codes.shape)
    return found + _numbers(grid, "offset", parts, codes.shape) if "offset" in parts else found


def _numbers(grid: dict[str, Any], name: str, parts: dict[str, Ints], shape: tuple[int, ...]) -> Array:
    """The numbers whose bits a field has, against the shape of the tensor."""
    size = 2 if grid[name][0] == "i16" else 4
    found = parts[name].reshape(grid[name][1]).astype(f"<i{size}").view(f"<f{size}").astype(np.float32)
    need(np.isfinite(found).all(), f"an entry of {name}")
    row = prod(shape[1:])
    return np.repeat(found, min(row, grid["group_size"]), axis=1)[:, :row].reshape(shape)
