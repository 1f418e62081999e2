"""Rows and columns of the second reader, written from docs/format.md alone; imports nothing of tersenet."""

from math import prod
from typing import Any

import numpy as np


def by_rows_and_columns(codes: np.ndarray, mantissa: int, scale: np.ndarray, **numbers: np.ndarray) -> np.ndarray:
    """The values in fp32; `numbers` are those of `rows` and `columns`, as far as they are there."""
    rest = codes.ndim - 1
    if "rows" in numbers:
        scale = scale * factors(numbers["rows"], mantissa).reshape(-1, *[1] * rest)
    found = codes.astype(np.float32) * scale
    if "columns" in numbers:
        found = found * factors(numbers["columns"], mantissa).reshape(-1, *[1] * (rest - 1))
    return found


def factors(numbers: np.ndarray, mantissa: int) -> np.ndarray:
    """What integers stand for."""
    assert all(abs(n) <= 60 * 2**mantissa for n in numbers.tolist())
    return (127 * 2**23 + numbers * 2 ** (23 - mantissa)).astype("<i4").view("<f4")


def check_outer(grid: dict[str, Any], shape: list[int]) -> None:
    """What an index may say of such a grid."""
    fields = ("rows", "columns")
    assert {"scale", "mantissa"} <= set(grid) - {"kind"} <= {"scale", "mantissa", *fields}
    assert len(shape) > 1 and prod(shape) and type(grid["mantissa"]) is int and 0 <= grid["mantissa"] <= 10
    assert len(grid["scale"]) == 2 and grid["scale"][0] in ("f64", "f32", "f16", "bf16") and grid["scale"][1] == []
    assert all(grid[key][1] == [shape[axis]] for axis, key in enumerate(fields) if key in grid)
