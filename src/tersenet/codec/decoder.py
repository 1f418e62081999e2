"""Decoding: chunk by chunk, each checked before it is believed; nothing larger than a chunk lies beside the result."""

from collections.abc import Iterator
from math import prod

import numpy as np
import numpy.typing as npt

from . import kernels
from .coder import Chunks
from .coders import BY_ID
from .parallel import in_parallel
from .stream import CodecError, Stream
from .symbols import Kind, Values, fits

NO_COLUMNS = np.zeros(0, np.float32)


def decode(stream: Stream, shape: tuple[int, ...], dtype: npt.DTypeLike = np.int32) -> Values:
    """The integers of a stream. **Raises** `CodecError` if it is malformed or a value does not fit `dtype`."""
    kind: Kind = np.dtype(dtype)  # type: ignore[assignment]
    chunks = _opened(stream, shape, kind)
    if chunks.constant is not None:
        return np.full(shape, chunks.constant, kind)
    out = np.empty(shape, kind)
    flat, columns = out.reshape(-1), out.reshape(shape[0], -1) if chunks.by_columns else None

    def fill(index: int) -> None:
        part, start = _chunk(stream, chunks, index, kind), index * stream.chunk_symbols
        if columns is None:
            flat[start : start + len(part)] = part
        else:
            _place(columns, start, part)

    in_parallel(fill, range(len(stream.chunks)))
    return out


def by_columns(stream: Stream) -> bool:
    """Whether its integers are in the order of a matrix' columns, as those of a trellis path are."""
    return BY_ID[stream.coder].open(stream.params).by_columns


def _place(out: Values, start: int, part: Values) -> None:
    """Put `part`, which runs down the columns, into the matrix `out` from the element `start` on (counted likewise)."""
    rows = len(out)
    column, row = divmod(start, rows)
    first = min(-start % rows, len(part))
    if first:
        out[row : row + first, column] = part[:first]
        column += 1
    whole = (len(part) - first) // rows
    last = first + whole * rows
    out[:, column : column + whole] = part[first:last].reshape(whole, rows).T
    if last < len(part):
        out[: len(part) - last, column + whole] = part[last:]


def pieces(stream: Stream, shape: tuple[int, ...], dtype: npt.DTypeLike = np.int32) -> Iterator[Values]:
    """The integers of a stream in C order, a chunk at a time. A trellis path is decoded as a whole first.

    **Raises** `CodecError` as `decode` does.
    """
    kind: Kind = np.dtype(dtype)  # type: ignore[assignment]
    chunks = _opened(stream, shape, kind)
    starts = range(0, stream.count, stream.chunk_symbols)
    if chunks.by_columns:
        whole = decode(stream, shape, kind).reshape(-1)
        yield from (whole[start : start + stream.chunk_symbols] for start in starts)
        return
    for index in range(len(starts)):
        if chunks.constant is not None:
            yield np.broadcast_to(np.array(chunks.constant, kind), stream.chunk_count(index))
        else:
            yield _chunk(stream, chunks, index, kind)


def extremes(stream: Stream, shape: tuple[int, ...], dtype: npt.DTypeLike = np.int32) -> tuple[int, int] | None:
    """The lowest and the highest integer of a stream (None if it is empty), found by decoding all of it.

    **Raises** `CodecError` as `decode` does.
    """
    kind: Kind = np.dtype(dtype)  # type: ignore[assignment]
    chunks = _opened(stream, shape, kind)
    if chunks.constant is not None:
        return (chunks.constant, chunks.constant) if stream.count else None

    def ends(index: int) -> tuple[int, int]:
        part = _chunk(stream, chunks, index, kind)
        return int(part.min()), int(part.max())

    found = in_parallel(ends, range(len(stream.chunks)))
    return (min(low for low, _ in found), max(high for _, high in found)) if found else None


def decode_chunk(stream: Stream, index: int, dtype: npt.DTypeLike = np.int32) -> Values:
    """The integers of one chunk, in the order they were coded (a trellis path: column after column)."""
    kind: Kind = np.dtype(dtype)  # type: ignore[assignment]
    return _chunk(stream, _opened(stream, (stream.count,), kind), index, kind)


def _opened(stream: Stream, shape: tuple[int, ...], kind: Kind) -> Chunks:
    """How the chunks of a stream are read, after checks of all but themselves."""
    count = prod(shape)
    if count != stream.count or not 1 <= stream.chunk_symbols <= 1 << 32:
        raise CodecError(f"a stream of {stream.count} integers where {count} are expected")
    if stream.coder not in BY_ID:
        raise CodecError(f"unknown coder {stream.coder}: upgrade tersenet")
    coder = BY_ID[stream.coder]
    chunks = coder.open(stream.params)
    expected = 0 if chunks.constant is not None else -(-count // stream.chunk_symbols)
    if len(stream.chunks) != expected:
        raise CodecError(f"coder {coder.name} with {len(stream.chunks)} chunks, expected {expected}")
    if chunks.constant is not None:
        fits(chunks.constant, chunks.constant, kind)
    if chunks.by_columns and not (shape and count):
        raise CodecError("a trellis path without rows or columns")
    return chunks


def _chunk(stream: Stream, chunks: Chunks, index: int, kind: Kind) -> Values:
    data = stream.chunks[index] if chunks.constant is None else b""
    return chunks.decode(data, index * stream.chunk_symbols, stream.chunk_count(index), kind)


def decode_uniform(
    stream: Stream,
    scale: npt.NDArray[np.float32],
    zero_point: npt.NDArray[np.int32],
    offset: npt.NDArray[np.float32],
    run: int,
    out: npt.NDArray[np.float32] | None = None,
    columns: npt.NDArray[np.float32] = NO_COLUMNS,
) -> npt.NDArray[np.float32]:
    """fp32 values `((code - zero_point) * scale + offset) * column` of a stream in C order, every operation rounded.

    The parameters belong to `run` consecutive integers each and are used cyclically; `zero_point` and `offset` may be
    empty (zero). With `columns` every run consists of as many parts of one length, each with a factor of its own.
    The values go into `out` if it is given.

    **Shapes**: `scale` `[units]`, the next two `[units]` or `[0]`; `columns` any length that divides `run`, or `[0]`;
    `out` and the result `[count]`.

    **Raises** `CodecError` if the stream is malformed or a trellis path (its integers are not in C order).
    """
    kind: Kind = np.dtype(np.int32)
    chunks = _opened(stream, (stream.count,), kind)
    if chunks.by_columns:
        raise CodecError("a trellis path decodes to integers first")
    out = np.empty(stream.count, np.float32) if out is None else out
    if len(columns) and run % len(columns):
        raise ValueError(f"{len(columns)} columns in a run of {run}")
    whole = np.ascontiguousarray
    grid = (whole(scale), whole(zero_point), whole(offset), whole(columns))
    for index, start in enumerate(range(0, stream.count, stream.chunk_symbols)):
        part = out[start : start + stream.chunk_symbols]
        if chunks.constant is None and chunks.decode_uniform(stream.chunks[index], part, start, run, grid):
            continue
        codes = _chunk(stream, chunks, index, kind)
        part[:] = kernels.values_of(codes, start, run, grid)
    return out
