"""Integers in as few bits each as the widest one needs, as they are or compressed with zstd."""

from collections.abc import Callable
from functools import partial

import numpy as np
import zstandard

from . import kernels
from .coder import Chunks, Coder, Numbers, Offer
from .frame import inflate
from .stream import CodecError, Stream, get_varint, put_varint, unzigzag, zigzag
from .symbols import Kind, Values, cut, fits

ZSTD_LEVEL = 19


class Raw(Coder):
    """Bit packing."""

    id, name = 0, "raw"

    def offer(self, numbers: Numbers, best: Offer) -> Offer | None:
        """The exact cost."""
        bits = 256 * len(numbers.flat) * _width(numbers)
        return Offer(bits, partial(_stream, numbers, self.id)) if bits < best.bits else None

    def open(self, params: bytes) -> Chunks:
        """Packed bits."""
        return Packed(params, inflated=False)


class Zstd(Coder):
    """Bit packing, then zstd; only tried with effort, because it hardly ever wins."""

    id, name = 2, "zstd"
    reference = """@misc{rfc8878,
  title = {Zstandard Compression and the 'application/zstd' Media Type},
  author = {Collet, Yann and Kucherawy, Murray}, howpublished = {RFC 8878}, year = {2021}
}"""

    def offer(self, numbers: Numbers, best: Offer) -> Offer | None:
        """What it takes is known when it is done."""
        if numbers.effort != "best":
            return None
        stream = _stream(numbers, self.id, zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress)
        return Offer.of(stream) if stream.size < best.stream.size else None

    def open(self, params: bytes) -> Chunks:
        """Packed bits in zstd frames."""
        return Packed(params, inflated=True)


class Packed(Chunks):
    """Integers in as few bits each as the widest one needs, above the lowest of them."""

    def __init__(self, params: bytes, inflated: bool) -> None:
        if not params or params[0] > 32:
            raise CodecError("bit packing without a width of at most 32 bits")
        low, end = get_varint(params, 1)
        if end != len(params):
            raise CodecError("bytes after the parameters of bit packing")
        self.width, self.low, self.inflated = params[0], unzigzag(low), inflated

    def decode(self, data: bytes, start: int, count: int, kind: Kind) -> Values:
        """Unpacked, and moved to where the lowest is."""
        size = (count * self.width + 7) // 8
        if self.inflated:
            data = inflate(data, size)
        if len(data) != size:
            raise CodecError(f"{len(data)} packed bytes, expected {size}")
        fields = kernels.unpack(data, count, self.width)
        if count:
            fits(self.low + int(fields.min()), self.low + int(fields.max()), kind)
        values = fields.astype(kind)  # what does not fit wraps, and so does the sum: the result fits
        half = 1 << 8 * kind.itemsize - 1
        values += kind.type((self.low + half) % (2 * half) - half)
        return values


def _width(numbers: Numbers) -> int:
    return int(numbers.values[-1] - numbers.values[0]).bit_length()


def _stream(numbers: Numbers, coder: int, deflate: Callable[[bytes], bytes] = bytes) -> Stream:
    low, width = int(numbers.values[0]), _width(numbers)
    parts = cut(numbers.flat, numbers.chunk_symbols)
    chunks = [deflate(kernels.pack((part.astype(np.int64) - low).astype(np.uint32), width)) for part in parts]
    params = bytes([width]) + put_varint(zigzag(low))
    return Stream(coder, params, tuple(chunks), numbers.chunk_symbols, len(numbers.flat))
