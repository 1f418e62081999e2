"""Sums of binary bases of the second reader, written from docs/format.md alone; imports nothing of tersenet."""

import numpy as np


def sums(counts: np.ndarray, numbers: np.ndarray, planes: list[np.ndarray], mantissa: int, size: int) -> np.ndarray:
    """The values of all groups in fp32. **Shapes**: -> `[groups, size]`."""
    assert counts.min() >= 0 and counts.max() <= 8 and len(planes) == counts.max()
    assert numbers.shape == (counts.sum(),)
    assert all(2**mantissa <= n < 247 * 2**mantissa for n in numbers.tolist())
    coordinates = iter((numbers << (23 - mantissa)).astype("<u4").view("<f4"))
    assert [plane.shape for plane in planes] == [(size * (counts > i).sum(),) for i in range(len(planes))]
    assert all(set(plane.tolist()) <= {0, 1} for plane in planes)
    bits = [iter(plane.reshape(-1, size)) for plane in planes]
    found = []
    for count in counts:
        value = np.zeros(size, np.float32)
        for i in range(count):
            coordinate = next(coordinates)
            value = value + np.where(next(bits[i]) == 1, coordinate, -coordinate)
        found.append(value)
    return np.array(found)
