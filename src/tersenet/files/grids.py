"""How every grid lies in a file: one table, without torch. See "Grids" in docs/format.md, and docs/design/0013.

A grid has fields (tensors) and integers (members of the index). Its codes are one array in the shape of the tensor,
unless `several` arrays are made of them; a field may be coded as well. A new grid is a class in `core.grid`, a row
here, a paragraph of docs/format.md, an entry in the golden file, and the second reader in tests.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import OutputError
from . import bases, blocks
from .records import CODE_TYPES, FLOATS, INTEGERS, Array, Encoded, Record
from .strict import MAX_SIZE, need

INT32 = np.iinfo(np.int32)
Arrays = Mapping[str, Array]
Ends = tuple[int, int]


@dataclass(frozen=True)
class FieldRule:
    """Which dtypes a field may have, what its entries must be (floats: as they round to fp32), and whether it is coded
    (then it has integers of a code type)."""

    dtypes: Sequence[str]
    right: Callable[[Array], bool]
    coded: bool = False


def _one(codes: Array, fields: Arrays, integers: Mapping[str, int]) -> list[Array]:
    return [codes]


def _same(record: Record, fields: Arrays, codes: Sequence[Array]) -> Array:
    return codes[0].reshape(record.shape)


def _any_code(record: Record, fields: Arrays) -> list[Ends | None]:
    return [None]


def _by_code(record: Record, fields: Arrays, codes: Sequence[Encoded]) -> Iterator[Array]:
    return codes[0].pieces()


@dataclass(frozen=True)
class StoredGrid:
    """A row of the table.

    * `grid`: the name of its class in `core.grid`, whose arguments are `fields`, in the order in which they are stored,
      and `integers`, with the least and the greatest that each may be.
    * `check(record)` **Raises** `ValueError` unless fields and integers go together and belong to the tensor's shape.
    * `describe(record)`: what people are told about it, in a few words.
    * `widths(record, fields, ends, nonzeros)`: how many weights are stored in how many bits, where a format stores only
      weights that are not left out; `ends` and `nonzeros` are the extremes of `weights` and how many are not 0.
    * `limits(record, fields)`: the least and the greatest code of every array, None for any. **Raises** `ValueError`
      unless the fields go together with each other, and with the shapes of the arrays.
    * `several`: whether the index lists arrays of codes, with their shapes, in place of one in the tensor's shape.
    * `split(codes, fields, integers)` makes these arrays (one- or two-dimensional, of i8, i16 or i32), and
      `join(record, fields, arrays)` the codes in the tensor's shape.
    * `thorough`: whether every coder is tried at any effort, where files are compared with those of other tools.
    * `weights(record, fields, arrays)`: in C order, piece by piece, numbers that are 0 where a weight is left out.
    """

    grid: str
    fields: Mapping[str, FieldRule]
    describe: Callable[[Record], str]
    widths: Callable[[Record, Arrays, Ends, int], dict[int, int]]
    check: Callable[[Record], None]
    integers: Mapping[str, Ends] = field(default_factory=dict)
    limits: Callable[[Record, Arrays], list[Ends | None]] = _any_code
    several: bool = False
    split: Callable[[Array, Arrays, Mapping[str, int]], list[Array]] = _one
    join: Callable[[Record, Arrays, Sequence[Array]], Array] = _same
    weights: Callable[[Record, Arrays, Sequence[Encoded]], Iterator[Array]] = _by_code
    thorough: bool = False


def kind_of(grid: object) -> str:
    """What a grid is called in files. **Raises** `OutputError` for one that files do not have."""
    kinds = {row.grid: kind for kind, row in GRIDS.items()}
    if type(grid).__name__ not in kinds:
        raise OutputError(f"got a grid of class {type(grid).__name__}: a file can hold {', '.join(kinds)}")
    return kinds[type(grid).__name__]


def check_fields(record: Record, fields: Arrays) -> None:
    """**Raises** `ValueError` unless the entries of all fields are what they must be."""
    for name, array in fields.items():
        if not GRIDS[record.grid].fields[name].right(_rounded(array, record.fields[name].dtype)):
            raise ValueError(f"{record.name}: {name} has entries that are 0, not finite or too large")


def check_codes(record: Record, fields: Arrays, ends: Callable[[int], Ends | None]) -> None:
    """**Raises** `ValueError` unless the grid has a value for every code; `ends` gives the lowest and the highest of an
    array, by its number, None if it is empty."""
    for number, limit in enumerate(GRIDS[record.grid].limits(record, fields)):
        found = None if limit is None else ends(number)
        if limit and found and not limit[0] <= found[0] <= found[1] <= limit[1]:
            raise ValueError(
                f"{record.name}: codes from {found[0]} to {found[1]}; a {record.grid} has {limit[0]} to {limit[1]}"
            )


def ends_of(array: Array) -> Ends | None:
    """The lowest and the highest of an array, None if it is empty."""
    return (int(array.min()), int(array.max())) if array.size else None


def _rounded(array: Array, dtype: str) -> Array:
    """Floats in fp32, integers as they are."""
    if dtype == "bf16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        return array.astype(np.float32) if dtype in FLOATS else array


def _finite(values: Array) -> bool:
    return bool(np.isfinite(values).all())


def _fits(values: Array) -> bool:
    return not values.size or (INT32.min <= int(values.min()) and int(values.max()) <= INT32.max)


SCALE = FieldRule(FLOATS, lambda values: _finite(values) and bool(values.all()))
OFFSET = FieldRule(FLOATS, _finite)
ZERO_POINT = FieldRule(INTEGERS, _fits)
VALUES = FieldRule(FLOATS + INTEGERS, _finite)
FACTORS = FieldRule(CODE_TYPES, _fits, coded=True)
MOST_OCTAVES = 60  # either way, of a factor
PLACE = {"axis": (0, MAX_SIZE), "group_size": (1, MAX_SIZE)}


def _units(record: Record) -> tuple[int, ...]:
    """The shape of a field with an entry for every channel or group. **Raises** `ValueError`."""
    axis, group = record.integers.get("axis"), record.integers.get("group_size")
    need(axis is None or (axis < len(record.shape) and group is None), f"axis {axis}")
    if axis is not None:
        return (record.shape[axis],)
    if group is None:
        return ()
    need(record.count > 0 and len(record.shape) > 0, "groups of nothing")
    return (record.shape[0], -(-(record.count // record.shape[0]) // group))


def _check_uniform(record: Record) -> None:
    lead = _units(record)
    need("scale" in record.fields, "no scale")
    need(all(part.shape in (lead, ()) for part in record.fields.values()), "a grid for another shape")


def _check_codebook(record: Record) -> None:
    lead, values = _units(record), record.fields.get("values")
    rest = [part.shape for name, part in record.fields.items() if name != "values"]
    levels = values is not None and len(values.shape) > 0 and values.shape[:-1] in ((), () if rest else lead)
    need(levels and all(shape in (lead, ()) for shape in rest), "a codebook of another shape")


def _check_fixed(record: Record) -> None:
    need("exponent" in record.integers, "no exponent")


def _check_outer(record: Record) -> None:
    need(record.count > 0 and len(record.shape) > 1, "rows and columns of nothing")
    need(set(record.integers) == {"mantissa"} and "scale" in record.fields, "a field is missing")
    places = {"scale": (), "rows": record.shape[:1], "columns": record.shape[1:2]}
    need(all(part.shape == places[name] for name, part in record.fields.items()), "a grid for another shape")


def _factor_limits(record: Record, fields: Arrays) -> list[Ends | None]:
    """Any code. **Raises** `ValueError` for a factor beyond 2^60 either way."""
    most = MOST_OCTAVES << record.integers["mantissa"]
    found = (ends_of(fields[name]) for name in ("rows", "columns") if name in fields)
    need(all(-most <= ends[0] and ends[1] <= most for ends in found if ends), "a factor that is too small or large")
    return [None]


def _per_unit(record: Record) -> str:
    part = record.fields.get("scale") or record.fields["values"]
    per = f"axis {record.integers['axis']}" if "axis" in record.integers else "tensor"
    per = f"groups of {record.integers['group_size']}" if "group_size" in record.integers else per
    return f"{part.dtype} per {per}"


def _complement(record: Record, fields: Arrays, ends: Ends, nonzeros: int) -> dict[int, int]:
    """Two's complement that holds all codes, for those that are not 0."""
    return {max(ends[1], -ends[0] - 1, 1).bit_length() + 1: nonzeros} if nonzeros else {}


def _index(record: Record, fields: Arrays, ends: Ends, nonzeros: int) -> dict[int, int]:
    """A position among the levels; code 0 is a value like the others."""
    return {max(1, (ends[1] - ends[0]).bit_length()): record.count}


def _uniform_widths(record: Record, fields: Arrays, ends: Ends, nonzeros: int) -> dict[int, int]:
    moved = "zero_point" in fields or "offset" in fields
    return (_index if moved else _complement)(record, fields, ends, nonzeros)


def _before_zero_points(record: Record, fields: Arrays) -> list[Ends | None]:
    """Codes that stay 32-bit integers when zero points are subtracted."""
    zero = ends_of(fields["zero_point"]) if "zero_point" in fields else None
    return [zero and (INT32.min + zero[1], INT32.max + zero[0])]


def _levels(record: Record, fields: Arrays) -> list[Ends | None]:
    return [(0, fields["values"].shape[-1] - 1)]


GRIDS = {
    "uniform": StoredGrid(
        "Uniform",
        {"scale": SCALE, "zero_point": ZERO_POINT, "offset": OFFSET},
        describe=_per_unit,
        widths=_uniform_widths,
        check=_check_uniform,
        integers=PLACE,
        limits=_before_zero_points,
    ),
    "codebook": StoredGrid(
        "Codebook",
        {"values": VALUES, "scale": SCALE, "offset": OFFSET},
        describe=_per_unit,
        widths=_index,
        check=_check_codebook,
        integers={"axis": PLACE["axis"]},
        limits=_levels,
    ),
    "fixed": StoredGrid(
        "FixedPoint",
        {},
        describe=lambda record: f"times 2^{record.integers['exponent']}",
        widths=_complement,
        check=_check_fixed,
        integers={"exponent": (-126, 126)},
    ),
    "outer": StoredGrid(
        "Outer",
        {"scale": SCALE, "rows": FACTORS, "columns": FACTORS},
        describe=lambda record: f"{record.fields['scale'].dtype} by {' and '.join([*record.fields][1:]) or 'nothing'}",
        widths=_complement,
        check=_check_outer,
        integers={"mantissa": (0, 10)},
        limits=_factor_limits,
    ),
    "blocks": StoredGrid(
        "Blocks",
        dict.fromkeys(("scale", "offset"), FieldRule(tuple(blocks.DTYPES), blocks.finite, coded=True)),
        describe=blocks.describe,
        widths=blocks.widths,
        check=blocks.check,
        integers=blocks.INTEGERS,
        limits=blocks.limits,
        thorough=True,
    ),
    "bases": StoredGrid(
        "BinaryBases",
        {
            "counts": FieldRule(("i8",), bases.in_range, coded=True),
            "coordinates": FieldRule(CODE_TYPES, _fits, coded=True),
        },
        describe=bases.describe,
        widths=bases.widths,
        check=bases.check,
        integers=bases.INTEGERS,
        limits=bases.limits,
        several=True,
        split=bases.split,
        join=bases.join,
        weights=bases.weights,
    ),
}
