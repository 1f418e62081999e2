"""Integers as size classes and raw low bits, for values of many magnitudes, such as wide weights among zeros.

The class of an integer v is 0 for 0, else the number of bits of |v|, with the sign of v. Classes are coded like other
small integers; of a value of n bits the low n - 1 are stored as they are.
"""

import numpy as np
import numpy.typing as npt

from . import kernels
from .stream import CodecError
from .symbols import Kind, Values, fits
from .table import Ints

MOST_BITS = 32


def classes_of(codes: Values) -> npt.NDArray[np.int8]:
    """The class of every integer.

    >>> classes_of(np.array([0, 1, -1, 5, -128])).tolist()
    [0, 1, -1, 3, -8]
    """
    bits = np.frexp(np.abs(codes.astype(np.float64)))[1]
    return (np.sign(codes) * bits).astype(np.int8)


def class_histogram(values: Ints, counts: Ints) -> tuple[Ints, Ints, int]:
    """The histogram of classes for a histogram of values, and how many low bits are stored."""
    every = classes_of(values)
    kinds, inverse = np.unique(every, return_inverse=True)
    summed = np.zeros(len(kinds), np.int64)
    np.add.at(summed, inverse, counts)
    return kinds.astype(np.int64), summed, int((np.maximum(np.abs(every.astype(np.int64)) - 1, 0) * counts).sum())


def pack_low(codes: Values, classes: npt.NDArray[np.int8]) -> bytes:
    """The low bits: all of the values of 2 bits, then all of 3 bits, and so on, each filled up to a byte."""
    magnitudes, bits = np.abs(codes.astype(np.int64)), np.abs(classes)
    return b"".join(
        kernels.pack((magnitudes[bits == n] - (1 << n - 1)).astype(np.uint32), n - 1)
        for n in np.unique(bits[bits > 1]).tolist()
    )


def unpack_low(data: bytes, classes: npt.NDArray[np.int8], kind: Kind) -> Values:
    """The integers. **Raises** `CodecError` if bytes are too few or too many, or a value does not fit `kind`."""
    if classes.size and max(-int(classes.min()), int(classes.max())) > MOST_BITS:
        raise CodecError(f"classes from {classes.min()} to {classes.max()}")
    values, bits, at = np.clip(classes, -1, 1).astype(kind), np.abs(classes), 0
    for n in range(2, 1 + int(bits.max(initial=0))):
        places = np.flatnonzero(bits == n)
        size = (len(places) * (n - 1) + 7) // 8
        if at + size > len(data):
            raise CodecError(f"values of {n} bits, of which {len(data) - at} bytes are there")
        if len(places):
            magnitudes = kernels.unpack(data[at : at + size], len(places), n - 1).astype(np.int64) + (1 << n - 1)
            found = np.where(classes[places] < 0, -magnitudes, magnitudes)
            fits(int(found.min()), int(found.max()), kind)
            values[places] = found
            at += size
    if at != len(data):
        raise CodecError(f"{len(data)} bytes of low bits, expected {at}")
    return values
