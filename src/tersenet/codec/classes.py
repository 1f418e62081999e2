"""Integers as size classes and raw low bits, for values of many magnitudes, such as wide weights among zeros.

The class of an integer v is 0 for 0, else the number of bits of |v|, with the sign of v. Classes are coded like other
small integers; of a value of n bits the low n - 1 are stored as they are.
"""

import numpy as np
import numpy.typing as npt

from . import kernels
from .choice import choose, choose_grouped, sampled
from .coder import Chunks, Coder, Numbers, Offer
from .stream import CodecError, Stream, get_varint, put_varint
from .symbols import Kind, Model, Values, cut, fits, parse
from .table import Ints
from .windows import Rans, Window, windowed

MOST_BITS = 32
WORTH = 7  # the least range of integers that classes are tried for
INDEX = 8  # bytes that they must win: the index says more, too


class Classes(Coder):
    """Classes in windows, and low bits; of many integers only where that wins on a sample of them."""

    id, name = 3, "classes"
    reference = Rans.reference

    def offer(self, numbers: Numbers, best: Offer) -> Offer | None:
        """Estimated first, within a sixteenth of the best, then by size."""
        if int(numbers.values[-1] - numbers.values[0]) < WORTH:
            return None
        kinds, kind_counts, low = class_histogram(numbers.values, numbers.counts)
        if len(kinds) == 1:
            return None
        bits = choose(kinds, kind_counts)[1] + low * 256
        if bits > best.stream.size * 8 * (256 + 16):
            return None
        sample = sampled(numbers.flat, numbers.chunk_symbols)
        if len(sample) < len(numbers.flat) and numbers.trial(sample).coder != self.id:
            return None
        classes = classes_of(numbers.flat)
        model, _ = choose_grouped(kinds, kind_counts, classes, numbers.chunk_symbols)
        parts = windowed(classes, model, numbers.chunk_symbols)
        flat, own = (cut(each, numbers.chunk_symbols) for each in (numbers.flat, classes))
        each = zip(parts, flat, own, strict=True)
        chunks = [put_varint(len(part)) + part + pack_low(codes, kinds) for part, codes, kinds in each]
        stream = Stream(self.id, model.to_bytes(), tuple(chunks), numbers.chunk_symbols, len(numbers.flat))
        return Offer.of(stream) if stream.size + INDEX < best.stream.size else None

    def open(self, params: bytes) -> Chunks:
        """Windows of classes, and low bits."""
        model = parse(params)
        if isinstance(model, int) or model.trellis:
            raise CodecError("classes as a constant or a trellis path")
        return Classed(model)


class Classed(Chunks):
    """The bytes of the classes (their number first), then the low bits."""

    def __init__(self, model: Model) -> None:
        self.classes = Window(model)

    def decode(self, data: bytes, start: int, count: int, kind: Kind) -> Values:
        """Classes first, which say how many low bits there are."""
        size, at = get_varint(data, 0)
        if at + size > len(data):
            raise CodecError(f"classes of {size} bytes in a chunk of {len(data)}")
        return unpack_low(
            data[at + size :], self.classes.decode(data[at : at + size], start, count, np.dtype(np.int8)), kind
        )


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
