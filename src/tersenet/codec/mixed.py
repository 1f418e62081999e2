"""Integers coded by context mixing: the densest way, at some million integers a second."""

import numpy as np
import numpy.typing as npt

from . import mixing
from .coder import Chunks, Coder, Numbers, Offer
from .mixing import Layout
from .native import native
from .parallel import in_parallel
from .stream import CodecError, Stream, get_varint, put_varint, unzigzag, zigzag
from .symbols import Kind, Values, cut, fits

LONGEST_ROW = 1 << 20
MOST_BITS = 31


class Cm(Coder):
    """Context mixing, with effort only."""

    id, name = 4, "cm"
    reference = """@techreport{mahoney2005mixing,
  title = {Adaptive Weighing of Context Models for Lossless Data Compression},
  author = {Mahoney, Matthew V.}, institution = {Florida Institute of Technology}, number = {CS-2005-16}, year = {2005}
}"""

    def offer(self, numbers: Numbers, best: Offer) -> Offer | None:
        """What it takes is known when it is done."""
        if numbers.effort != "best":
            return None
        low, high = int(numbers.values[0]), int(numbers.values[-1])
        center = 0 if low < 0 < high else int(numbers.values[np.argmax(numbers.counts)])
        most = max(center - low, high - center).bit_length()
        if most > MOST_BITS:
            return None
        layout, symbols = _layout(numbers.shape, most), numbers.chunk_symbols
        centered = (numbers.flat.astype(np.int64) - center).astype(np.int32)
        parts = cut(centered, symbols)
        chunks = in_parallel(lambda i: _encode(parts[i], i * symbols, layout), range(len(parts)))
        params = bytes([most]) + b"".join(map(put_varint, (zigzag(center), layout.row, layout.kernel, layout.line)))
        stream = Stream(self.id, params, tuple(chunks), symbols, len(centered))
        return Offer.of(stream) if stream.size < best.stream.size else None

    def open(self, params: bytes) -> Chunks:
        """Magnitudes around a center, in rows, kernels and lines."""
        if not params or not 1 <= params[0] <= MOST_BITS:
            raise CodecError("context mixing without a number of bits from 1 to 31")
        numbers, at = [], 1
        for _ in range(4):
            number, at = get_varint(params, at)
            numbers.append(number)
        center, row, kernel, line = numbers
        if at != len(params) or not (1 <= row <= LONGEST_ROW and 1 <= line <= kernel <= row):
            raise CodecError("context mixing in rows, kernels or lines of no length")
        if row % kernel or kernel % line:
            raise CodecError(f"rows of {row}, kernels of {kernel} and lines of {line}")
        return Mixed(unzigzag(center), Layout(row, kernel, line, params[0]))


class Mixed(Chunks):
    """Binary decisions."""

    def __init__(self, center: int, layout: Layout) -> None:
        self.center, self.layout = center, layout

    def decode(self, data: bytes, start: int, count: int, kind: Kind) -> Values:
        """One after the other, then moved to where the center is."""
        found = _decode(data, count, start, self.layout).astype(np.int64) + self.center
        if count:
            fits(int(found.min()), int(found.max()), kind)
        return found.astype(kind)


def _layout(shape: tuple[int, ...], most: int) -> Layout:
    """Rows after the first dimension, kernels after the second, lines of the last; one row, if that is too long."""
    row, kernel = (int(np.prod(shape[at:], dtype=np.int64)) for at in (1, 2))
    if len(shape) < 2 or row > LONGEST_ROW:
        return Layout(min(LONGEST_ROW, int(np.prod(shape, dtype=np.int64))), 1, 1, most)
    return Layout(row, kernel, shape[-1] if len(shape) > 2 else 1, most)


def _encode(part: npt.NDArray[np.int32], start: int, layout: Layout) -> bytes:
    module = native()
    if module is None:
        return mixing.encode(part, start, layout)
    encoded: bytes = module.mix_encode(np.ascontiguousarray(part), start, *layout)
    return encoded


def _decode(data: bytes, count: int, start: int, layout: Layout) -> npt.NDArray[np.int32]:
    module = native()
    if module is None:
        return mixing.decode(data, count, start, layout)
    values = np.empty(count, np.int32)
    try:
        module.mix_decode(data, start, *layout, values)
    except ValueError as error:
        raise CodecError(str(error)) from error
    return values
