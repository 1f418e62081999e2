"""One zstd frame that states its size: inflated only after that size was found to be the expected one."""

import zstandard

from .stream import CodecError

MAGIC = b"\x28\xb5\x2f\xfd"
EMPTY = 32  # a frame with nothing in it has at most so many bytes


def stated_size(data: bytes) -> int:
    """The bytes that a zstd frame says it holds; -1 if it does not say, or is no frame."""
    try:
        return int(zstandard.frame_content_size(data)) if data[:4] == MAGIC else -1
    except zstandard.ZstdError:
        return -1


def inflate(data: bytes, size: int) -> bytes:
    """The `size` bytes of one zstd frame. **Raises** `CodecError`, before it allocates, if `data` is anything else."""
    stated = stated_size(data)
    if stated != size:
        said = f"says it holds {stated} bytes" if stated >= 0 else "does not say what it holds"
        raise CodecError(f"a zstd frame {said}, expected are {size}")
    try:
        if size:
            return zstandard.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False)
        opened = zstandard.ZstdDecompressor().decompressobj()
        if len(data) <= EMPTY and not opened.decompress(data) and opened.eof and not opened.unused_data:
            return b""
    except zstandard.ZstdError as error:
        raise CodecError(f"zstd: {error}") from error
    raise CodecError("an empty zstd frame with bytes in it or after it")
