"""Values of a quantised tensor in fp32, and what they have in common, with numpy."""

from itertools import product

import numpy as np

from ...files.grids import Arrays
from ...files.records import Array, Record


def floats(fields: Arrays, record: Record, name: str) -> Array:
    """A field of a grid in fp32."""
    array, dtype = fields[name], record.fields[name].dtype
    return (array.astype(np.uint32) << 16).view(np.float32) if dtype == "bf16" else array.astype(np.float32)


def values_of(record: Record, fields: Arrays, codes: Array) -> Array:
    """The values of codes, in the tensor's shape."""
    if record.grid == "fixed":
        return np.ldexp(codes.astype(np.float32), record.integers["exponent"])
    if record.grid == "bases":
        return _sums(record, fields, codes)
    if record.grid == "outer":
        return _outer(record, fields, codes)

    def spread(name: str) -> Array:
        return _spread(floats(fields, record, name), record)

    if record.grid == "uniform":
        zero = _spread(fields["zero_point"].astype(np.int64), record) if "zero_point" in fields else 0
        found = (codes.astype(np.int64) - zero).astype(np.float32) if "zero_point" in fields else codes.astype("<f4")
        found *= spread("scale")
    else:
        table = floats(fields, record, "values")
        if table.ndim == 2:
            channels = np.broadcast_to(_spread(np.arange(len(table)), record), record.shape)
            found = table[channels, codes]
        else:
            found = table[codes]
        found = found * spread("scale") if "scale" in fields else found
    return found + spread("offset") if "offset" in fields else found


def has_zero(record: Record, fields: Arrays) -> bool:
    """Whether 0 is exactly a value of the grid, in every unit (tensor, channel, group)."""
    if record.grid in ("fixed", "outer"):
        return True
    if record.grid == "bases":
        return _bases_have_zero(record, fields)
    offset = floats(fields, record, "offset") if "offset" in fields else np.zeros((), np.float32)
    if record.grid == "uniform":
        scale = floats(fields, record, "scale")
        return bool((np.rint(-offset / scale).astype(np.float32) * scale + offset == 0).all())
    scale = floats(fields, record, "scale") if "scale" in fields else np.ones((), np.float32)
    table = floats(fields, record, "values")
    found = table * (scale[:, None] if scale.ndim else scale) + (offset[:, None] if offset.ndim else offset)
    return bool((found == 0).any(axis=-1).all())


def is_symmetric(record: Record, fields: Arrays, lowest: int | None, highest: int | None) -> bool:
    """Whether there is a value for the opposite of each: no zero point, and an offset only in the middle."""
    if record.grid == "codebook":
        table = np.sort(floats(fields, record, "values"), axis=-1)
        return "offset" not in fields and bool((table == -table[..., ::-1]).all())
    if "offset" in fields and lowest is not None and highest is not None:
        scale, offset = floats(fields, record, "scale"), floats(fields, record, "offset")
        return "zero_point" not in fields and bool((np.float32(lowest + highest) * scale + 2 * offset == 0).all())
    return "zero_point" not in fields and "offset" not in fields


def _spread(part: Array, record: Record) -> Array:
    """A field against the tensor's shape."""
    if not part.ndim:
        return part
    if "group_size" in record.integers:
        row = record.count // record.shape[0]
        return part[:, np.arange(row) // record.integers["group_size"]].reshape(record.shape)
    return part.reshape([-1 if i == record.integers["axis"] else 1 for i in range(len(record.shape))])


def _outer(record: Record, fields: Arrays, codes: Array) -> Array:
    scale, found = floats(fields, record, "scale"), codes.astype(np.float32)
    ones = [1] * (codes.ndim - 2)
    if "rows" in fields:
        scale = scale * _factors(record, fields["rows"]).reshape(-1, 1, *ones)
    found *= scale
    return found * _factors(record, fields["columns"]).reshape(-1, *ones) if "columns" in fields else found


def _factors(record: Record, numbers: Array) -> Array:
    """Powers of two with a few digits of mantissa."""
    bits = (127 << 23) + (numbers.astype(np.int64) << (23 - record.integers["mantissa"]))
    return bits.astype(np.int32).view(np.float32)


def _coordinates(record: Record, fields: Arrays) -> Array:
    return (fields["coordinates"].astype(np.uint32) << (23 - record.integers["mantissa"])).view(np.float32)


def _sums(record: Record, fields: Arrays, codes: Array) -> Array:
    size, stride = record.integers["group_size"], record.integers["stride"]
    counts, numbers = fields["counts"].reshape(-1).astype(np.int64), _coordinates(record, fields)
    bits = codes.reshape(-1, size, stride).swapaxes(1, 2).reshape(-1, size)
    found, first = np.zeros(bits.shape, np.float32), counts.cumsum() - counts
    for i in range(int(counts.max(initial=0))):
        has = counts > i
        number = numbers[first[has] + i][:, None]
        found[has] += np.where(bits[has] >> i & 1, number, -number)
    return found.reshape(-1, stride, size).swapaxes(1, 2).reshape(record.shape)


def _bases_have_zero(record: Record, fields: Arrays) -> bool:
    counts, numbers = fields["counts"].reshape(-1).astype(np.int64), _coordinates(record, fields)
    first = counts.cumsum() - counts
    for count in range(1, int(counts.max(initial=0)) + 1):
        own = numbers[first[counts == count][:, None] + np.arange(count)]
        zero = np.zeros(len(own), bool)
        for signs in product((np.float32(1), np.float32(-1)), repeat=count - 1):
            total = own[:, 0].copy()
            for i, sign in enumerate(signs, 1):
                total += sign * own[:, i]
            zero |= total == 0
        if not zero.all():
            return False
    return True
