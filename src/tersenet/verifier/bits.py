"""Numbers in bytes: zstd frames, varints, fields of a few bits."""

import numpy as np
import numpy.typing as npt
import zstandard

from .checks import need

Ints = npt.NDArray[np.int64]


def number(data: bytes) -> int:
    """A little-endian integer."""
    return int.from_bytes(data, "little")


def inflate(data: bytes, size: int | None = None) -> bytes:
    """One zstd frame that states its size (`size`, if given), and nothing else."""
    need(data[:4] == b"\x28\xb5\x2f\xfd", "no zstd frame")
    stated = zstandard.frame_content_size(data)
    need(stated >= 0 and size in (None, stated), "a zstd frame of another size")
    opened = zstandard.ZstdDecompressor().decompressobj()
    content = opened.decompress(data)
    need(opened.eof and not opened.unused_data and len(content) == stated, "something beside a zstd frame")
    return content


def varint(data: bytes, at: int) -> tuple[int, int]:
    """An integer, and where it ends."""
    value = shift = 0
    while True:
        need(shift < 63, "a varint of more than 63 bits")
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at


def unzigzag(value: int) -> int:
    """0, -1, 1, -2 ... of 0, 1, 2, 3 ..."""
    return value // 2 if value % 2 == 0 else -(value + 1) // 2


def fields(data: bytes, count: int, width: int) -> Ints:
    """`count` fields of `width` bits, least significant bit first."""
    found = np.zeros(count, np.int64)
    if count and width:
        stored = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        bits = np.zeros(count * width, np.uint8)
        bits[: len(stored)] = stored[: count * width]
        for place, column in enumerate(bits.reshape(count, width).T):
            found |= column.astype(np.int64) << place
    return found
