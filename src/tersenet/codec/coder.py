"""Encoding and decoding of whole arrays: chooses a coder, cuts chunks, checks what it reads."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import zstandard

from . import kernels
from .choice import choose, choose_trellis, group_counts
from .stream import RANS, RAW, ZSTD, CodecError, Stream, get_varint, put_varint, unzigzag, zigzag
from .symbols import Model, Values, constant_params, parse, read_exceptions, window_symbols
from .table import Ints

T = TypeVar("T")
R = TypeVar("R")
ZSTD_LEVEL = 19
PREFIX = 4096  # integers
Kind: TypeAlias = np.dtype[np.signedinteger]


def encode(codes: Values, *, effort: str = "fast", chunk_symbols: int = 1 << 20) -> Stream:
    """Encode int8, int16 or int32 `codes` with the coder of the lowest estimated cost.

    A 2-D array is also tried as a trellis path, column after column. With `effort="best"` zstd is tried too.

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
    best = _trellis(codes, bits, chunk_symbols) if codes.ndim == 2 else None
    if best is None and bits < _raw_bits(values, len(flat)):
        if model.group > 1:
            counted = [group_counts(part, model) for part in _cut(flat, chunk_symbols)]  # chunks group on their own
            model = model.with_counts([np.sum(counted, axis=0)])
        chunks = in_parallel(lambda part: _encode_chunk(part, model), _cut(flat, chunk_symbols))
        best = Stream(RANS, model.to_bytes(), tuple(chunks), chunk_symbols, len(flat))
    if best is None:
        best = _packed(flat, values, chunk_symbols, RAW)
    if effort == "best":
        best = min(best, _packed(flat, values, chunk_symbols, ZSTD), key=lambda stream: stream.size)
    return best


def cost(values: Ints, counts: Ints) -> float:
    """Estimated bits of an array with this histogram (distinct sorted values), parameters included, groups left out."""
    if len(values) == 1:
        return 8.0 * len(constant_params(int(values[0])))
    bits = choose(values, counts, np.zeros(0, np.int64))[1]
    return min(bits, _raw_bits(values, int(counts.sum()))) / 256


def decode(stream: Stream, shape: tuple[int, ...], dtype: npt.DTypeLike = np.int32) -> Values:
    """The integers of a stream. **Raises** `CodecError` if it is malformed or a value does not fit `dtype`."""
    count = int(np.prod(shape, dtype=object)) if shape else 1
    _check(stream, count)
    model = parse(stream.params) if stream.coder == RANS else None
    kind: Kind = np.dtype(dtype)  # type: ignore[assignment]
    if isinstance(model, int):
        _fits(model, model, kind)
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
    model = parse(stream.params) if stream.coder == RANS else None
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
    if stream.coder not in (RAW, RANS, ZSTD) or len(stream.chunks) != expected:
        raise CodecError(f"coder {stream.coder} with {len(stream.chunks)} chunks, expected {expected}")


def _fits(low: int, high: int, kind: Kind) -> None:
    if low < np.iinfo(kind).min or high > np.iinfo(kind).max:
        raise CodecError(f"integers from {low} to {high} do not fit {kind}")


def _cut(flat: Values, chunk_symbols: int) -> list[Values]:
    return [flat[start : start + chunk_symbols] for start in range(0, len(flat), chunk_symbols)]


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
        return _unpacked(stream, data, count, kind)
    if model.trellis:
        return _decode_trellis_chunk(data, count, model, kind)
    _fits(model.low << model.split, ((model.low + model.size) << model.split) - 1, kind)
    positions, differences, at = read_exceptions(data, count) if model.exceptions else ([], [], 0)
    raw_bytes = (count * model.split + 7) // 8
    parts = kernels.decode_parts(data[at + raw_bytes :], count, model).astype(kind)
    parts += kind.type(model.low)
    for position, difference in zip(positions, differences, strict=True):
        value = int(parts[position]) + difference
        _fits(value << model.split, ((value + 1) << model.split) - 1, kind)
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
    _fits(-2 * widest, 2 * widest, kind)
    codes = kernels.decode_trellis(data[1 + at :], count, model, data[0], positions, differences)
    return codes.astype(kind)


def _raw_bits(values: Ints, count: int) -> int:
    """The cost of bit packing in 1/256 bit."""
    return count * _width(values) * 256


def _width(values: Ints) -> int:
    return int(values[-1] - values[0]).bit_length()


def _packed(flat: Values, values: Ints, chunk_symbols: int, coder: int) -> Stream:
    low, width = int(values[0]), _width(values)
    params = bytes([width]) + put_varint(zigzag(low))
    chunks = [
        kernels.pack((part.astype(np.int64) - low).astype(np.uint32), width) for part in _cut(flat, chunk_symbols)
    ]
    if coder == ZSTD:
        chunks = [zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(chunk) for chunk in chunks]
    return Stream(coder, params, tuple(chunks), chunk_symbols, len(flat))


def _unpacked(stream: Stream, data: bytes, count: int, kind: Kind) -> Values:
    if not stream.params or stream.params[0] > 32:
        raise CodecError("bit packing without a width of at most 32 bits")
    width = stream.params[0]
    low, end = get_varint(stream.params, 1)
    low = unzigzag(low)
    if end != len(stream.params):
        raise CodecError("bytes behind the parameters of bit packing")
    size = (count * width + 7) // 8
    if stream.coder == ZSTD:
        try:
            data = zstandard.ZstdDecompressor().decompress(data, max_output_size=size + 1, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise CodecError(f"zstd: {error}") from error
    if len(data) != size:
        raise CodecError(f"{len(data)} packed bytes, expected {size}")
    values = kernels.unpack(data, count, width).astype(np.int64) + low
    if count:
        _fits(int(values.min()), int(values.max()), kind)
    return values.astype(kind)


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
    model = parse(stream.params) if stream.coder == RANS else None
    if isinstance(model, Model) and model.trellis:
        raise CodecError("a trellis path decodes to integers first")
    out = np.empty(stream.count, np.float32) if out is None else out
    grid = (np.ascontiguousarray(scale), np.ascontiguousarray(zero_point), np.ascontiguousarray(offset))
    for index, start in enumerate(range(0, stream.count, stream.chunk_symbols)):
        part = out[start : start + stream.chunk_symbols]
        if isinstance(model, Model) and kernels.decode_uniform(stream.chunks[index], part, model, start, run, grid):
            continue
        codes = decode_chunk(stream, index) if not isinstance(model, int) else np.full(len(part), model, np.int32)
        unit = (np.arange(start, start + len(part)) // run) % len(scale)
        part[:] = kernels.values_of(codes, unit, grid)
    return out
