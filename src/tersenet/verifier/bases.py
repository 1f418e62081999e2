"""Sums of binary bases."""

from itertools import product

import numpy as np
import numpy.typing as npt

from .bits import Ints
from .checks import need

Floats = npt.NDArray[np.float32]


def coordinates_of(numbers: Ints, mantissa: int) -> Floats:
    """The fp32 numbers that coordinates stand for."""
    return (numbers << (23 - mantissa)).astype("<u4").view("<f4")


def sums(counts: Ints, numbers: Ints, planes: list[Ints], mantissa: int, size: int) -> Floats:
    """The values of all groups in fp32. **Shapes**: -> `[groups, size]`."""
    need(not counts.size or (counts.min() >= 0 and counts.max() <= 8), "a group of more than 8 bases")
    need(len(planes) == counts.max(initial=0), "planes of other bases")
    need(numbers.shape == (counts.sum(),), "coordinates of other bases")
    need(not numbers.size or (numbers.min() >= 2**mantissa and numbers.max() < 247 * 2**mantissa), "a coordinate")
    need([p.shape for p in planes] == [(size * int((counts > i).sum()),) for i in range(len(planes))], "a plane")
    need(all(np.isin(plane, (0, 1)).all() for plane in planes), "a plane of other than bits")
    coordinates, ends = coordinates_of(numbers, mantissa), np.cumsum(counts)
    found = np.zeros((len(counts), size), np.float32)
    for i, plane in enumerate(planes):
        groups = np.flatnonzero(counts > i)
        step = coordinates[ends[groups] - counts[groups] + i].reshape(-1, 1)
        found[groups] += np.where(plane.reshape(-1, size) == 1, step, -step)
    return found


def cancel(counts: Ints, numbers: Ints, mantissa: int) -> bool:
    """Whether every group has signs with which its bases sum to 0."""
    coordinates = coordinates_of(numbers, mantissa)
    ends = np.cumsum(counts)
    for count in sorted(set(counts.tolist()) - {0}):
        starts = ends[counts == count] - count
        own = np.stack([coordinates[starts + i] for i in range(count)])
        reached = np.zeros(own.shape[1], bool)
        for signs in product((1, -1), repeat=count):
            value = np.zeros(own.shape[1], np.float32)
            for sign, row in zip(signs, own, strict=True):
                value = value + row if sign > 0 else value - row
            reached |= value == 0
        if not reached.all():
            return False
    return True
