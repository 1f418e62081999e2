"""Encoding of whole arrays: every coder makes an offer, the smallest one is written."""

import numpy as np

from . import kernels
from .coder import Numbers, Offer
from .coders import CODERS
from .stream import Stream
from .symbols import Values
from .windows import constant_stream


def encode(codes: Values, *, effort: str = "fast", chunk_symbols: int = 1 << 20) -> Stream:
    """Encode int8, int16 or int32 `codes` with the coder of the lowest estimated cost.

    An array of rows is also tried as a trellis path, column after column, and what is not nearly constant as size
    classes, which are taken where they are smaller. With `effort="best"` context mixing and zstd are tried too.

    >>> from .decoder import decode
    >>> decode(encode(np.array([[1, -1], [0, 1]], np.int8)), (2, 2)).tolist()
    [[1, -1], [0, 1]]
    """
    flat = np.ascontiguousarray(codes).reshape(-1)
    if not len(flat):
        return constant_stream(0, 0, chunk_symbols)
    values, counts = kernels.histogram(flat)
    if len(values) == 1:
        return constant_stream(int(values[0]), len(flat), chunk_symbols)
    matrix = codes.reshape(len(codes), -1) if codes.ndim > 2 else codes
    numbers = Numbers(matrix, flat, values, counts, codes.shape, chunk_symbols, effort, encode)
    best = Offer(1 << 62, lambda: constant_stream(0, 0, chunk_symbols))  # which the first coder undercuts
    for coder in CODERS:
        best = coder.offer(numbers, best) or best
    return best.stream
