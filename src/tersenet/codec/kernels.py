"""The inner loops: native where the extension is there, else the references. Both give the same integers and bytes."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from . import bitpack, rans, reference, trellis
from .native import isa, native
from .stream import CodecError
from .symbols import Model, Values, read_exceptions, ungrouped
from .table import Ints

Floats: TypeAlias = npt.NDArray[np.float32]
Grid: TypeAlias = tuple[Floats, npt.NDArray[np.int32], Floats, Floats]  # scale, zero point, offset, columns
BINS = 1 << 20  # histograms up to this range are counted in an array


def encode_symbols(
    symbols: npt.NDArray[np.uint8], tables: list[Ints], which: npt.NDArray[np.uint8] | None = None
) -> bytes:
    """See `rans.encode_symbols`."""
    module = native()
    if module is None:
        return rans.encode_symbols(symbols, tables, which)
    encoded: bytes = module.encode_symbols(np.ascontiguousarray(symbols), [t.tolist() for t in tables], which)
    return encoded


def decode_parts(data: bytes, count: int, model: Model) -> npt.NDArray[np.uint8]:
    """The `count` window symbols (coded part minus `low`) of a chunk without trellis."""
    module, number = native(), -(-count // model.group)
    if module is None or not number:
        return ungrouped(rans.decode_symbols(data, number, model.tables), model, count)
    symbols = np.empty(number, np.uint8)
    try:
        module.decode_symbols(data, model.tables[0].tolist(), symbols, isa())
    except ValueError as error:
        raise CodecError(str(error)) from error
    return ungrouped(symbols, model, count)


def decode_trellis(
    data: bytes, count: int, model: Model, state: int, positions: list[int], differences: list[int]
) -> npt.NDArray[np.int32]:
    """See `trellis.decode_trellis`."""
    module = native()
    if module is None or not count:
        return trellis.decode_trellis(data, count, model, state, positions, differences)
    codes = np.empty(count, np.int32)
    tables = [table.tolist() for table in model.tables]
    outside = list(zip(positions, differences, strict=True))
    try:
        module.decode_trellis(data, tables, model.low, model.plain, state, outside, codes)
    except ValueError as error:
        raise CodecError(str(error)) from error
    return codes


def decode_uniform(
    data: bytes,
    out: npt.NDArray[np.float32],
    model: Model,
    start: int,
    run: int,
    grid: Grid,
) -> bool:
    """Decode a plain chunk to fp32 straight into `out`; False if that needs the long way."""
    module = native()
    inside = model.low << model.split >= -1 << 31 and (model.low + model.size) << model.split <= 1 << 31
    if module is None or model.trellis or not len(out) or not inside:
        return False
    positions, differences, at = read_exceptions(data, len(out)) if model.exceptions else ([], [], 0)
    raw = (len(out) * model.split + 7) // 8
    window = (model.group, model.size, model.low, model.split, data[at : at + raw])
    outside = list(zip(positions, differences, strict=True))
    table = model.tables[0].tolist()
    try:
        module.decode_uniform(data[at + raw :], table, *window, outside, start, run, *grid, out, isa())
    except ValueError as error:
        raise CodecError(str(error)) from error
    return True


def values_of(codes: npt.NDArray[np.integer], start: int, run: int, grid: Grid) -> npt.NDArray[np.float32]:
    """See `decoder.decode_uniform`, of the codes from number `start` on."""
    scale, zero_point, offset, columns = grid
    place = np.arange(start, start + len(codes))
    unit = (place // run) % len(scale)
    values: npt.NDArray[np.float32] = (codes - zero_point[unit] if len(zero_point) else codes).astype(
        np.float32
    ) * scale[unit]
    if len(offset):
        values += offset[unit]
    if len(columns):
        values *= columns[place // (run // len(columns)) % len(columns)]
    return values


def to_indices(codes: Values, plain: bool) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]] | None:
    """See `trellis.to_indices`."""
    module, whole = native(), codes.astype(np.int32)
    if module is None:
        return trellis.to_indices(whole, plain)
    indices, states = np.empty(len(codes), np.int32), np.empty(len(codes), np.uint8)
    return (indices, states) if module.trellis_indices(whole, plain, indices, states) else None


def histogram(flat: Values) -> tuple[Ints, Ints]:
    """Distinct values in ascending order, and how often each occurs."""
    module, low, high = native(), int(flat.min()), int(flat.max())
    if module is None or high - low >= BINS:
        return reference.histogram(flat)
    counts = np.zeros(high - low + 1, np.int64)
    module.histogram(flat, low, counts)
    present = np.flatnonzero(counts)
    return present + low, counts[present]


def pack(values: npt.NDArray[np.uint32], width: int) -> bytes:
    """See `bitpack.pack`."""
    module = native()
    if module is None:
        return bitpack.pack(values, width)
    packed: bytes = module.pack(np.ascontiguousarray(values), width)
    return packed


def unpack(data: bytes, count: int, width: int) -> npt.NDArray[np.uint32]:
    """See `bitpack.unpack`."""
    module = native()
    if module is None:
        return bitpack.unpack(data, count, width)
    values = np.empty(count, np.uint32)
    try:
        module.unpack(data, width, values)
    except ValueError as error:
        raise CodecError(str(error)) from error
    return values
