"""Encoding and decoding of whole arrays: chooses a coder, cuts chunks, checks what it reads."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from . import kernels
from .choice import SAMPLE, choose, choose_trellis, group_counts
from .classes import class_histogram, classes_of, pack_low, unpack_low
from .packed import packed, raw_bits, unpacked
from .stream import CLASSES, RANS, RAW, ZSTD, CodecError, Stream, get_varint, put_varint
from .symbols import Kind, Model, Values, constant_params, cut, fits, parse, read_exceptions, window_symbols
from .table import Ints

T = TypeVar("T")
R = TypeVar("R")
PREFIX = 4096  # integers
WORTH = 7  # the least range of integers that classes are tried for


def encode(codes: Values, *, effort: str = "fast", chunk_symbols: int = 1 << 20) -> Stream:
    """Encode int8, int16 or int32 `codes` with the coder of the lowest estimated cost.

    A 2-D array is also tried as a trellis path, column after column, and what is not nearly constant as size classes,
    which are taken where they are smaller. With `effort="best"` zstd is tried too.

    >>> decode(encode(np.array([[1, -1], [0, 1]], np.int8)), (2, 2)).tolist()
    [[1, -1], [0, 1]]
    """
    flat = np.ascontiguousarray(codes).reshape(-1)
    if not len(flat):
        return Stream(RANS, constant_params(0), (), chunk_symbols, 0)
    values, counts = kernels.histogram(flat)
    if len(values) == 1:
        return Stream(RANS, constant_params(int(values[0])), (), chunk_symbols, len(flat))
    model, bits = choose(values, counts, flat)
    raw = raw_bits(values, len(flat))
    best = _trellis(codes, min(bits, raw), chunk_symbols) if codes.ndim == 2 else None
    if best is None and bits < raw:
        model, chunks = _windowed(flat, model, chunk_symbols)
        best = Stream(RANS, model.to_bytes(), tuple(chunks), chunk_symbols, len(flat))
    if best is None:
        best = packed(flat, values, chunk_symbols, RAW)
    rival = _classes(flat, values, counts, best.size, chunk_symbols)
    if rival is not None and rival.size + 8 < best.size:  # the index says more, too
        best = rival
    if effort == "best":
        best = min(best, packed(flat, values, chunk_symbols, ZSTD), key=lambda stream: stream.size)
    return best


def decode(stream: Stream, shape: tuple[int, ...], dtype: npt.DTypeLike = np.int32) -> Values:
    """The integers of a stream. **Raises** `CodecError` if it is malformed or a value does not fit `dtype`."""
    count = int(np.prod(shape, dtype=object)) if shape else 1
    _check(stream, count)
    model = _model(stream)
    kind: Kind = np.dtype(dtype)  # type: ignore[assignment]
    if isinstance(model, int):
        fits(model, model, kind)
        return np.full(shape, model, kind)
    out = np.empty(count, kind)

    def fill(index: int) -> None:
        part = out[index * stream.chunk_symbols : (index + 1) * stream.chunk_symbols]
        part[:] = _decode_chunk(stream, model, index, kind)

    in_parallel(fill, range(len(stream.chunks)))
    if model is not None and model.trellis:
        rows = shape[0]
        return np.ascontiguousarray(out.reshape(count // rows, rows).T).reshape(shape)
    return out.reshape(shape)


def decode_chunk(stream: Stream, index: int, dtype: npt.DTypeLike = np.int32) -> Values:
    """The integers of one chunk, in the order they were coded (a trellis path: column after column)."""
    _check(stream, stream.count)
    model = _model(stream)
    if isinstance(model, int):
        return np.full(stream.chunk_count(index), model, dtype)
    kind: Kind = np.dtype(dtype)  # type: ignore[assignment]
    return _decode_chunk(stream, model, index, kind)


def in_parallel(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`work` of every item, in order, on all cores: the native loops do not hold the interpreter's lock."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(work, items))


def _check(stream: Stream, count: int) -> None:
    if count != stream.count or not 1 <= stream.chunk_symbols <= 1 << 32:
        raise CodecError(f"a stream of {stream.count} integers where {count} are expected")
    constant = stream.coder == RANS and stream.params[:1] == constant_params(0)[:1]
    expected = 0 if constant else -(-count // stream.chunk_symbols)
    if stream.coder not in (RAW, RANS, ZSTD, CLASSES) or len(stream.chunks) != expected:
        raise CodecError(f"coder {stream.coder} with {len(stream.chunks)} chunks, expected {expected}")


def _model(stream: Stream) -> Model | int | None:
    """The model of a stream that has one, or the value of a constant one."""
    if stream.coder not in (RANS, CLASSES):
        return None
    model = parse(stream.params)
    if stream.coder == CLASSES and (isinstance(model, int) or model.trellis):
        raise CodecError("classes as a constant or a trellis path")
    return model


def _windowed(flat: Values, model: Model, chunk_symbols: int) -> tuple[Model, list[bytes]]:
    """The model (with the tables of its groups), and the chunks of a stream without trellis."""
    parts = cut(flat, chunk_symbols)
    if model.group > 1:  # chunks group on their own
        model = model.with_counts([np.sum([group_counts(part, model) for part in parts], axis=0)])
    return model, in_parallel(lambda part: _encode_chunk(part, model), parts)


def _classes(flat: Values, values: Ints, counts: Ints, size: int, chunk_symbols: int) -> Stream | None:
    """`flat` coded as classes and low bits, if that is not estimated to take more than `size` bytes by a sixteenth, and
    if the first of many integers take less so."""
    if int(values[-1] - values[0]) < WORTH:
        return None
    kinds, kind_counts, low = class_histogram(values, counts)
    if len(kinds) == 1:
        return None
    if choose(kinds, kind_counts, np.zeros(0, np.int64))[1] + low * 256 > size * 8 * (256 + 16):
        return None
    if len(flat) > SAMPLE and encode(flat[:SAMPLE]).coder != CLASSES:
        return None
    classes = classes_of(flat)
    model, parts = _windowed(classes, choose(kinds, kind_counts, classes)[0], chunk_symbols)
    each = zip(cut(flat, chunk_symbols), cut(classes, chunk_symbols), parts, strict=True)
    chunks = [put_varint(len(part)) + part + pack_low(codes, own) for codes, own, part in each]
    return Stream(CLASSES, model.to_bytes(), tuple(chunks), chunk_symbols, len(flat))


def _encode_chunk(part: Values, model: Model) -> bytes:
    if model.split == 0:
        symbols, listed = window_symbols(part, model)
        return listed + kernels.encode_symbols(symbols, model.tables)
    symbols, listed = window_symbols(part >> model.split, model)
    raw = kernels.pack((part & ((1 << model.split) - 1)).astype(np.uint32), model.split)
    return listed + raw + kernels.encode_symbols(symbols, model.tables)


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
    fits(model.low << model.split, ((model.low + model.size) << model.split) - 1, kind)
    positions, differences, at = read_exceptions(data, count) if model.exceptions else ([], [], 0)
    raw_bytes = (count * model.split + 7) // 8
    parts = kernels.decode_parts(data[at + raw_bytes :], count, model).astype(kind)
    parts += kind.type(model.low)
    for position, difference in zip(positions, differences, strict=True):
        value = int(parts[position]) + difference
        fits(value << model.split, ((value + 1) << model.split) - 1, kind)
        parts[position] = value
    if model.split:
        parts <<= kind.type(model.split)
        parts |= kernels.unpack(data[at : at + raw_bytes], count, model.split).astype(kind)
    return parts


def _trellis(codes: Values, bits: int, chunk_symbols: int) -> Stream | None:
    """`codes` coded as a trellis path, if they are one and that is cheaper than `bits` (1/256 bit)."""
    first = codes[:, : -(-PREFIX // max(1, len(codes)))].T.reshape(-1)  # most arrays are no path: a few columns tell
    variants = [plain for plain in (False, True) if kernels.to_indices(first, plain) is not None]
    columns = np.ascontiguousarray(codes.T).reshape(-1) if variants else first
    for plain in variants:
        found = kernels.to_indices(columns, plain)
        if found is None:
            continue
        indices, states = found
        model, trellis_bits = choose_trellis(indices, (states & 1).astype(np.uint8), plain)
        if trellis_bits >= bits:
            continue
        chunks = []
        for start in range(0, len(columns), chunk_symbols):
            part = slice(start, start + chunk_symbols)
            symbols, listed = window_symbols(indices[part], model)
            start_state = bytes([states[start]])
            chunks.append(
                start_state
                + listed
                + kernels.encode_symbols(symbols, model.tables, (states[part] & 1).astype(np.uint8))
            )
        return Stream(RANS, model.to_bytes(), tuple(chunks), chunk_symbols, len(columns))
    return None


def _decode_trellis_chunk(data: bytes, count: int, model: Model, kind: Kind) -> Values:
    if not data or data[0] > 7:
        raise CodecError("a trellis chunk without a start state")
    positions, differences, at = read_exceptions(data[1:], count) if model.exceptions else ([], [], 0)
    widest = max((abs(d) for d in differences), default=0) + abs(model.low) + model.size
    fits(-2 * widest, 2 * widest, kind)
    codes = kernels.decode_trellis(data[1 + at :], count, model, data[0], positions, differences)
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
    _check(stream, stream.count)
    model = _model(stream)
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
