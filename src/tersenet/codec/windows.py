"""Integers as symbols of a window, or as a trellis path, coded by rANS; and arrays that are constant."""

from functools import partial

import numpy as np
import numpy.typing as npt

from . import kernels
from .choice import choose_grouped, choose_trellis
from .coder import Chunks, Coder, Numbers, Offer
from .parallel import in_parallel
from .stream import CodecError, Stream
from .symbols import Kind, Model, Values, constant_params, cut, fits, parse, read_exceptions, window_symbols

PREFIX = 4096  # integers that tell whether a matrix may be a trellis path
WIDE: Kind = np.dtype(np.int64)


class Rans(Coder):
    """The model that fits the histogram best; or the columns of a matrix as a trellis path, if they are one."""

    id, name = 1, "rans"
    reference = """@misc{duda2013ans,
  title = {Asymmetric numeral systems: entropy coding combining speed of {Huffman} coding with compression rate of
           arithmetic coding},
  author = {Duda, Jarek}, year = {2013}, eprint = {1311.2540}
}"""

    def offer(self, numbers: Numbers, best: Offer) -> Offer | None:
        """The model's own estimate."""
        model, bits = choose_grouped(numbers.values, numbers.counts, numbers.flat, numbers.chunk_symbols)
        path = _path(numbers, min(bits, best.bits)) if numbers.codes.ndim == 2 else None
        if path is not None:
            return path
        return Offer(bits, partial(_stream, numbers, model)) if bits < best.bits else None

    def open(self, params: bytes) -> Chunks:
        """Windows, a path, or the value of a constant stream."""
        model = parse(params)
        if isinstance(model, int):
            return Constant(model)
        return Path(model) if model.trellis else Window(model)


class Constant(Chunks):
    """No chunks: every integer is the same."""

    def __init__(self, value: int) -> None:
        self.constant = value

    def decode(self, data: bytes, start: int, count: int, kind: Kind) -> Values:
        """`count` times the value."""
        return np.full(count, self.constant, kind)


class Window(Chunks):
    """Exceptions, raw low bits, and symbols."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def decode(self, data: bytes, start: int, count: int, kind: Kind) -> Values:
        """See `symbols`: from symbols to coded parts, to integers."""
        model = self.model
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

    def decode_uniform(
        self, data: bytes, out: npt.NDArray[np.float32], start: int, run: int, grid: kernels.Grid
    ) -> bool:
        """In one native loop, where there is one."""
        return kernels.decode_uniform(data, out, self.model, start, run, grid)


class Path(Chunks):
    """A start state, exceptions, and the symbols of indices, of a path that runs down the columns."""

    by_columns = True

    def __init__(self, model: Model) -> None:
        self.model = model

    def decode(self, data: bytes, start: int, count: int, kind: Kind) -> Values:
        """See `trellis`: from indices to integers."""
        if not data or data[0] > 7:
            raise CodecError("a trellis chunk without a start state")
        positions, differences, at = read_exceptions(data[1:], count) if self.model.exceptions else ([], [], 0)
        widest = max((abs(d) for d in differences), default=0) + abs(self.model.low) + self.model.size
        fits(-2 * widest, 2 * widest, np.dtype(np.int32))
        codes = kernels.decode_trellis(data[1 + at :], count, self.model, data[0], positions, differences)
        fits(int(codes.min()), int(codes.max()), kind)
        return codes.astype(kind)


def constant_stream(value: int, count: int, chunk_symbols: int) -> Stream:
    """`count` times one integer, without chunks."""
    return Stream(Rans.id, constant_params(value), (), chunk_symbols, count)


def windowed(flat: Values, model: Model, chunk_symbols: int) -> list[bytes]:
    """The chunks of a stream without trellis."""
    return in_parallel(lambda part: _encode_chunk(part, model), cut(flat, chunk_symbols))


def _stream(numbers: Numbers, model: Model) -> Stream:
    chunks = windowed(numbers.flat, model, numbers.chunk_symbols)
    return Stream(Rans.id, model.to_bytes(), tuple(chunks), numbers.chunk_symbols, len(numbers.flat))


def _encode_chunk(part: Values, model: Model) -> bytes:
    if model.split == 0:
        symbols, listed = window_symbols(part, model)
        return listed + kernels.encode_symbols(symbols, model.tables)
    symbols, listed = window_symbols(part >> model.split, model)
    raw = kernels.pack((part & ((1 << model.split) - 1)).astype(np.uint32), model.split)
    return listed + raw + kernels.encode_symbols(symbols, model.tables)


def _path(numbers: Numbers, bits: int) -> Offer | None:
    """A matrix as a trellis path, if it is one and that is cheaper than `bits` (1/256 bit)."""
    codes = numbers.codes
    first = codes[:, : -(-PREFIX // max(1, len(codes)))].T.reshape(-1)  # most arrays are no path: a few columns tell
    variants = [plain for plain in (False, True) if kernels.to_indices(first, plain) is not None]
    columns = np.ascontiguousarray(codes.T).reshape(-1) if variants else first
    for plain in variants:
        found = kernels.to_indices(columns, plain)
        if found is None:
            continue
        indices, states = found
        classes = (states & 1).astype(np.uint8)
        model, cost = choose_trellis(indices, classes, plain)
        if cost < bits:
            return Offer(cost, partial(_path_stream, indices, states, model, numbers.chunk_symbols))
    return None


def _path_stream(indices: Values, states: npt.NDArray[np.uint8], model: Model, chunk_symbols: int) -> Stream:
    chunks = []
    for start in range(0, len(indices), chunk_symbols):
        part = slice(start, start + chunk_symbols)
        symbols, listed = window_symbols(indices[part], model)
        coded = kernels.encode_symbols(symbols, model.tables, (states[part] & 1).astype(np.uint8))
        chunks.append(bytes([states[start]]) + listed + coded)
    return Stream(Rans.id, model.to_bytes(), tuple(chunks), chunk_symbols, len(indices))
