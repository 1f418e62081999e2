"""Encoded arrays as bytes that a fuzzer can change, and what the decoders make of them."""

import json
from typing import Any

import numpy as np

from tersenet.codec.stream import Stream

KINDS = ("int8", "int16", "int32")


def to_bytes(stream: Stream, rows: int, kind: Any) -> bytes:
    """A line of JSON, then the parameters and the chunks."""
    head = [stream.coder, stream.count, stream.chunk_symbols, rows, KINDS.index(str(kind)), len(stream.params)]
    return json.dumps([*head, *map(len, stream.chunks)]).encode() + b"\n" + stream.params + b"".join(stream.chunks)


def from_bytes(data: bytes) -> tuple[Stream, tuple[int, ...], np.dtype] | None:
    """The stream, the shape and the type of its integers; None if the bytes are no stream at all."""
    line, _, rest = data.partition(b"\n")
    try:
        numbers = json.loads(line)
        coder, count, chunk_symbols, rows, kind, params, *sizes = numbers
        parts = cut(rest, [params, *sizes])
        shape = (count,) if rows == 1 else (rows, count // rows)
        stream = Stream(coder, parts[0], tuple(parts[1:]), chunk_symbols, count)
        if not all(type(number) is int and number >= 0 for number in numbers) or len(sizes) > 1000:
            return None
        return stream, shape, np.dtype(KINDS[kind])
    except (ValueError, TypeError, IndexError, ZeroDivisionError, RecursionError):
        return None


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Pieces of these sizes (shorter at the end)."""
    parts, at = [], 0
    for size in sizes:
        parts.append(data[at : at + size])
        at += size
    return parts
