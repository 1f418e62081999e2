"""Rows and columns of the second reader, written from docs/format.md alone; imports nothing of tersenet."""

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
