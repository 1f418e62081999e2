"""How blocks with a scale each lie in a file: scales and offsets are coded, as the bits of their numbers."""

from collections.abc import Mapping

import numpy as np

from .records import Array, Record
from .strict import need

INTEGERS = {"group_size": (1, 1 << 48), "levels": (0, 1)}
DTYPES = {"i16": "f16", "i32": "f32"}
NF4 = (0, 15)  # the codes that its levels have
Arrays = Mapping[str, Array]
Ends = tuple[int, int]


def finite(integers: Array) -> bool:
    """Whether these bits are finite numbers."""
    return bool(np.isfinite(integers.view(f"<f{integers.itemsize}")).all())


def check(record: Record) -> None:
    """**Raises** `ValueError` unless the blocks are those of the tensor's shape."""
    need("scale" in record.fields and set(record.integers) == set(INTEGERS), "a field is missing")
    need(record.count > 0 and len(record.shape) > 0, "blocks of nothing")
    shape = (record.shape[0], -(-(record.count // record.shape[0]) // record.integers["group_size"]))
    need(all(part.shape == shape for part in record.fields.values()), "scales of other blocks")


def describe(record: Record) -> str:
    """The scales, the offsets, and how many weights share one."""
    each = " and ".join(f"{name} {DTYPES[part.dtype]}" for name, part in record.fields.items())
    return f"{'NF4, ' if record.integers['levels'] else ''}{each} for {record.integers['group_size']}"


def limits(record: Record, fields: Arrays) -> list[Ends | None]:
    """The codes of NF4's levels, else any."""
    return [NF4 if record.integers["levels"] else None]


def widths(record: Record, fields: Arrays, ends: Ends, nonzeros: int) -> dict[int, int]:
    """A position among the levels, for every weight."""
    return {max(1, (ends[1] - ends[0]).bit_length()): record.count}
