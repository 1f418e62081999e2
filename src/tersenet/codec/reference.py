"""References of the small kernels, in numpy."""

import numpy as np

from .symbols import Values
from .table import Ints

BLOCK = 1 << 20


def histogram(flat: Values) -> tuple[Ints, Ints]:
    """Distinct values in ascending order, and how often each occurs."""
    low, high = int(flat.min()), int(flat.max())
    if high - low >= BLOCK:
        values, counts = np.unique(flat, return_counts=True)
        return values.astype(np.int64), counts.astype(np.int64)
    counts = np.zeros(high - low + 1, np.int64)
    for start in range(0, len(flat), BLOCK):
        counts += np.bincount(flat[start : start + BLOCK].astype(np.int64) - low, minlength=len(counts))
    present = np.flatnonzero(counts)
    return present + low, counts[present]
