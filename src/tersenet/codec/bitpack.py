"""Fixed-width bit packing: code i occupies bits [i*width, (i+1)*width) of a little-endian bit string."""

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int32]


def pack(symbols: npt.NDArray[np.uint32], width: int) -> bytes:
    """Pack unsigned symbols < 2**width, least significant bit first; ceil(n*width/8) bytes.

    >>> pack(np.array([1, 2, 3], np.uint32), 2).hex()
    '39'
    """
    if not 0 <= width <= 32:
        raise ValueError(f"width {width}: expected 0 to 32 bits")
    bits = (symbols[:, None] >> np.arange(width, dtype=np.uint32)) & np.uint32(1)
    return np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def unpack(data: bytes, count: int, width: int) -> npt.NDArray[np.uint32]:
    """Inverse of `pack`: the first `count` symbols."""
    if 8 * len(data) < count * width:
        raise ValueError(f"{len(data)} bytes: expected {(count * width + 7) // 8} for {count} symbols of {width} bits")
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=count * width, bitorder="little")
    weights = np.uint32(1) << np.arange(width, dtype=np.uint32)
    symbols: npt.NDArray[np.uint32] = (bits.reshape(count, width) * weights).sum(axis=1, dtype=np.uint32)
    return symbols
