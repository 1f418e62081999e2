"""Integers in as few bits each as the widest one needs, as they are or compressed with zstd."""

import numpy as np
import zstandard

from . import kernels
from .frame import inflate
from .stream import ZSTD, CodecError, Stream, get_varint, put_varint, unzigzag, zigzag
from .symbols import Kind, Values, cut, fits
from .table import Ints

ZSTD_LEVEL = 19


def raw_bits(values: Ints, count: int) -> int:
    """The cost of bit packing in 1/256 bit."""
    return count * _width(values) * 256


def _width(values: Ints) -> int:
    return int(values[-1] - values[0]).bit_length()


def packed(flat: Values, values: Ints, chunk_symbols: int, coder: int) -> Stream:
    """The stream of integers with these distinct sorted `values`."""
    low, width = int(values[0]), _width(values)
    params = bytes([width]) + put_varint(zigzag(low))
    chunks = [kernels.pack((part.astype(np.int64) - low).astype(np.uint32), width) for part in cut(flat, chunk_symbols)]
    if coder == ZSTD:
        chunks = [zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(chunk) for chunk in chunks]
    return Stream(coder, params, tuple(chunks), chunk_symbols, len(flat))


def parse_packing(params: bytes) -> tuple[int, int]:
    """Width and lowest integer of a stream. **Raises** `CodecError`."""
    if not params or params[0] > 32:
        raise CodecError("bit packing without a width of at most 32 bits")
    low, end = get_varint(params, 1)
    if end != len(params):
        raise CodecError("bytes after the parameters of bit packing")
    return params[0], unzigzag(low)


def unpacked(stream: Stream, data: bytes, count: int, kind: Kind) -> Values:
    """The integers of a chunk. **Raises** `CodecError`."""
    width, low = parse_packing(stream.params)
    size = (count * width + 7) // 8
    if stream.coder == ZSTD:
        data = inflate(data, size)
    if len(data) != size:
        raise CodecError(f"{len(data)} packed bytes, expected {size}")
    fields = kernels.unpack(data, count, width)
    if count:
        fits(low + int(fields.min()), low + int(fields.max()), kind)
    values = fields.astype(kind)  # what does not fit wraps, and so does the sum: the result fits
    half = 1 << 8 * kind.itemsize - 1
    values += kind.type((low + half) % (2 * half) - half)
    return values
