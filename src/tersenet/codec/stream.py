"""The encoded form of an integer array, and the variable-length integers inside it."""

from dataclasses import dataclass


class CodecError(ValueError):
    """The bytes are not what an encoder could have written."""


@dataclass(frozen=True)
class Stream:
    """`count` integers as bytes: a coder id, its parameters, and chunks of `chunk_symbols` integers each.

    The last chunk may be short. Every chunk decodes on its own. A constant array has no chunks.
    """

    coder: int
    params: bytes
    chunks: tuple[bytes, ...]
    chunk_symbols: int
    count: int

    @property
    def size(self) -> int:
        """Bytes of parameters and chunks."""
        return len(self.params) + sum(map(len, self.chunks))

    def chunk_count(self, index: int) -> int:
        """How many integers chunk `index` holds."""
        return min(self.chunk_symbols, self.count - index * self.chunk_symbols)


def put_varint(value: int) -> bytes:
    """Seven bits a byte, lowest first, high bit set on all bytes but the last.

    >>> put_varint(300).hex()
    'ac02'
    """
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def get_varint(data: bytes, at: int) -> tuple[int, int]:
    """The integer at offset `at` and the offset after it. **Raises** `CodecError` past the end or beyond 63 bits."""
    value = 0
    for shift in range(0, 63, 7):
        if at >= len(data):
            raise CodecError("parameters end inside an integer")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise CodecError("an integer of the parameters has more than 63 bits")


def zigzag(value: int) -> int:
    """0, -1, 1, -2, ... as 0, 1, 2, 3, ..."""
    return 2 * value if value >= 0 else -2 * value - 1


def unzigzag(value: int) -> int:
    """Inverse of `zigzag`."""
    return value >> 1 if value % 2 == 0 else -(value + 1 >> 1)
