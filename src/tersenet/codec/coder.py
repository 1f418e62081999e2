"""Encoding of whole arrays: chooses a coder, cuts chunks."""

import numpy as np

from . import kernels
from .choice import SAMPLE, choose, choose_trellis, group_counts
from .classes import class_histogram, classes_of, pack_low
from .packed import packed, raw_bits
from .parallel import in_parallel
from .stream import CLASSES, RANS, RAW, ZSTD, Stream, put_varint
from .symbols import Model, Values, constant_params, cut, window_symbols
from .table import Ints

PREFIX = 4096  # integers
WORTH = 7  # the least range of integers that classes are tried for


def encode(codes: Values, *, effort: str = "fast", chunk_symbols: int = 1 << 20) -> Stream:
    """Encode int8, int16 or int32 `codes` with the coder of the lowest estimated cost.

    A 2-D array is also tried as a trellis path, column after column, and what is not nearly constant as size classes,
    which are taken where they are smaller. With `effort="best"` zstd is tried too.

    >>> from .decoder import decode
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
