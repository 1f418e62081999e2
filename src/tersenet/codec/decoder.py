"""Decoding: chunk by chunk, each checked before it is believed; nothing larger than a chunk lies beside the result."""

from collections.abc import Iterator
from math import prod

import numpy as np
import numpy.typing as npt

from . import kernels
from .classes import unpack_low
from .packed import parse_packing, unpacked
from .parallel import in_parallel
from .stream import CLASSES, RANS, RAW, ZSTD, CodecError, Stream, get_varint
from .symbols import Kind, Model, Values, constant_params, fits, parse, read_exceptions

WIDE: Kind = np.dtype(np.int64)


def decode(stream: Stream, shape: tuple[int, ...], dtype: npt.DTypeLike = np.int32) -> Values:
    """The integers of a stream. **Raises** `CodecError` if it is malformed or a value does not fit `dtype`."""
    kind: Kind = np.dtype(dtype)  # type: ignore[assignment]
    model = _model(stream, shape, kind)
    if isinstance(model, int):
        return np.full(shape, model, kind)
    out = np.empty(shape, kind)
    flat, columns = out.reshape(-1), out.reshape(shape[0], -1) if model is not None and model.trellis else None

    def fill(index: int) -> None:
        part, start = _decode_chunk(stream, model, index, kind), index * stream.chunk_symbols
        if columns is None:
            flat[start : start + len(part)] = part
        else:
            _place(columns, start, part)

    in_parallel(fill, range(len(stream.chunks)))
    return out


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
    model = _model(stream, shape, kind)
    starts = range(0, stream.count, stream.chunk_symbols)
    if isinstance(model, Model) and model.trellis:
        whole = decode(stream, shape, kind).reshape(-1)
        yield from (whole[start : start + stream.chunk_symbols] for start in starts)
        return
    for index in range(len(starts)):
        if isinstance(model, int):
            yield np.broadcast_to(np.array(model, kind), stream.chunk_count(index))
        else:
            yield _decode_chunk(stream, model, index, kind)


def extremes(stream: Stream, shape: tuple[int, ...], dtype: npt.DTypeLike = np.int32) -> tuple[int, int] | None:
    """The lowest and the highest integer of a stream (None if it is empty), found by decoding all of it.

    **Raises** `CodecError` as `decode` does.
    """
    kind: Kind = np.dtype(dtype)  # type: ignore[assignment]
    model = _model(stream, shape, kind)
    if isinstance(model, int):
        return (model, model) if stream.count else None

    def ends(index: int) -> tuple[int, int]:
        part = _decode_chunk(stream, model, index, kind)
        return int(part.min()), int(part.max())

    found = in_parallel(ends, range(len(stream.chunks)))
    return (min(low for low, _ in found), max(high for _, high in found)) if found else None


def decode_chunk(stream: Stream, index: int, dtype: npt.DTypeLike = np.int32) -> Values:
    """The integers of one chunk, in the order they were coded (a trellis path: column after column)."""
    kind: Kind = np.dtype(dtype)  # type: ignore[assignment]
    model = _model(stream, (stream.count,), kind)
    if isinstance(model, int):
        return np.full(stream.chunk_count(index), model, kind)
    return _decode_chunk(stream, model, index, kind)


def _model(stream: Stream, shape: tuple[int, ...], kind: Kind) -> Model | int | None:
    """The model of a stream that has one, or the value of a constant one, after checks of all but the chunks."""
    count = prod(shape)
    if count != stream.count or not 1 <= stream.chunk_symbols <= 1 << 32:
        raise CodecError(f"a stream of {stream.count} integers where {count} are expected")
    constant = stream.coder == RANS and stream.params[:1] == constant_params(0)[:1]
    expected = 0 if constant else -(-count // stream.chunk_symbols)
    if stream.coder not in (RAW, RANS, ZSTD, CLASSES) or len(stream.chunks) != expected:
        raise CodecError(f"coder {stream.coder} with {len(stream.chunks)} chunks, expected {expected}")
    if stream.coder not in (RANS, CLASSES):
        parse_packing(stream.params)
        return None
    model = parse(stream.params)
    if isinstance(model, int):
        fits(model, model, kind)
    if stream.coder == CLASSES and (isinstance(model, int) or model.trellis):
        raise CodecError("classes as a constant or a trellis path")
    if isinstance(model, Model) and model.trellis and not (shape and count):
        raise CodecError("a trellis path without rows or columns")
    return model


def _decode_chunk(stream: Stream, model: Model | None, index: int, kind: Kind) -> Values:
    data, count = stream.chunks[index], stream.chunk_count(index)
    if model is None:
        return unpacked(stream, data, count, kind)
    if stream.coder == CLASSES:
        return _decode_classes(data, count, model, kind)
    if model.trellis:
        return _decode_trellis_chunk(data, count, model, kind)
    return _decode_window(data, count, model, kind)


def _decode_classes(data: bytes, count: int, model: Model, kind: Kind) -> Values:
    size, at = get_varint(data, 0)
    if at + size > len(data):
        raise CodecError(f"classes of {size} bytes in a chunk of {len(data)}")
    classes = _decode_window(data[at : at + size], count, model, np.dtype(np.int8))
    return unpack_low(data[at + size :], classes, kind)


def _decode_window(data: bytes, count: int, model: Model, kind: Kind) -> Values:
    low, high = model.low << model.split, ((model.low + model.size) << model.split) - 1
    fits(low, high, WIDE)
    inside = np.iinfo(kind).min <= low and high <= np.iinfo(kind).max
    work = kind if inside else WIDE  # a window may reach beyond the type although no integer does
    positions, differences, at = read_exceptions(data, count) if model.exceptions else ([], [], 0)
    raw_bytes = (count * model.split + 7) // 8
    parts = kernels.decode_parts(data[at + raw_bytes :], count, model).astype(work)
    parts += work.type(model.low)
    for position, difference in zip(positions, differences, strict=True):
        value = int(parts[position]) + difference
        fits(value << model.split, ((value + 1) << model.split) - 1, kind)
        parts[position] = value
    if model.split:
        parts <<= work.type(model.split)
        parts |= kernels.unpack(data[at : at + raw_bytes], count, model.split).astype(work)
    if not inside and count:
        fits(int(parts.min()), int(parts.max()), kind)
    return parts if inside else parts.astype(kind)


def _decode_trellis_chunk(data: bytes, count: int, model: Model, kind: Kind) -> Values:
    if not data or data[0] > 7:
        raise CodecError("a trellis chunk without a start state")
    positions, differences, at = read_exceptions(data[1:], count) if model.exceptions else ([], [], 0)
    widest = max((abs(d) for d in differences), default=0) + abs(model.low) + model.size
    fits(-2 * widest, 2 * widest, np.dtype(np.int32))
    codes = kernels.decode_trellis(data[1 + at :], count, model, data[0], positions, differences)
    fits(int(codes.min()), int(codes.max()), kind)
    return codes.astype(kind)


def decode_uniform(
    stream: Stream,
    scale: npt.NDArray[np.float32],
    zero_point: npt.NDArray[np.int32],
    offset: npt.NDArray[np.float32],
    run: int,
    out: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """fp32 values `(code - zero_point) * scale + offset` of a stream in C order, every operation rounded on its own.

    The parameters belong to `run` consecutive integers each and are used cyclically; `zero_point` and `offset` may be
    empty (zero). The values go into `out` if it is given.

    **Shapes**: `scale` `[units]`, the others `[units]` or `[0]`; `out` and the result `[count]`.

    **Raises** `CodecError` if the stream is malformed or a trellis path (its integers are not in C order).
    """
    model = _model(stream, (stream.count,), np.dtype(np.int32))
    if isinstance(model, Model) and model.trellis:
        raise CodecError("a trellis path decodes to integers first")
    out = np.empty(stream.count, np.float32) if out is None else out
    grid = (np.ascontiguousarray(scale), np.ascontiguousarray(zero_point), np.ascontiguousarray(offset))
    for index, start in enumerate(range(0, stream.count, stream.chunk_symbols)):
        part = out[start : start + stream.chunk_symbols]
        if (
            isinstance(model, Model)
            and stream.coder == RANS
            and kernels.decode_uniform(stream.chunks[index], part, model, start, run, grid)
        ):
            continue
        codes = decode_chunk(stream, index) if not isinstance(model, int) else np.full(len(part), model, np.int32)
        unit = (np.arange(start, start + len(part)) // run) % len(scale)
        part[:] = kernels.values_of(codes, unit, grid)
    return out
