"""A grid from outside, with all that the table of grids allows: a number of bases for each group, planes of signs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tersenet.core.grid import Grid
from tersenet.files.grids import Arrays, Ends, FieldRule, StoredGrid
from tersenet.files.records import Array, Encoded, Record
from tersenet.files.strict import need


@dataclass(frozen=True)
class SumsOfSigns(Grid):
    """Every `group_size` consecutive weights of a row are the sum of as many signs times coordinates as its count says.

    Bit i of a code is the sign of basis i. **Shapes**: `counts` `[rows, groups]`, `coordinates` `[sum of counts]`.
    """

    counts: Tensor
    coordinates: Tensor
    group_size: int

    def decode(self, codes: Tensor) -> Tensor:
        counts, bits = self.counts.reshape(-1, 1), codes.reshape(self.counts.numel(), -1)
        table = torch.zeros(len(counts), int(counts.max()))
        table[torch.arange(table.shape[1]) < counts] = self.coordinates.float()
        values = torch.zeros(bits.shape)
        for i in range(table.shape[1]):
            values += table[:, i : i + 1] * ((bits >> i & 1) * 2 - 1)
        return values.reshape(codes.shape)

    def part(self, dim: int, start: int, length: int) -> "SumsOfSigns":
        rows, groups = slice(None), slice(start // self.group_size, -(-(start + length) // self.group_size))
        if dim == 0:
            rows, groups = slice(start, start + length), slice(None)
        own = torch.zeros(self.counts.shape, dtype=torch.bool)
        own[rows, groups] = True
        chosen = self.coordinates[own.reshape(-1).repeat_interleave(self.counts.reshape(-1).int())]
        return replace(self, counts=self.counts[rows, groups], coordinates=chosen)

    @property
    def run(self) -> int:
        return self.group_size


def split(codes: Array, fields: Arrays, integers: Mapping[str, int]) -> list[Array]:
    """Plane i: the signs of basis i, of the groups that have it."""
    counts = fields["counts"].reshape(-1)
    flat = codes.reshape(len(counts), -1)
    return [(flat[counts > i] >> i & 1).astype(np.int8).reshape(-1) for i in range(int(counts.max(initial=0)))]


def join(record: Record, fields: Arrays, planes: Sequence[Array]) -> Array:
    counts, size = fields["counts"].reshape(-1), record.integers["group_size"]
    codes = np.zeros((len(counts), size), np.int16)
    for i, plane in enumerate(planes):
        codes[counts > i] |= plane.astype(np.int16).reshape(-1, size) << i
    return codes.reshape(record.shape)


def check(record: Record) -> None:
    size = record.integers.get("group_size", 0)
    need(set(record.fields) == {"counts", "coordinates"} and size > 0, "a field is missing")
    row = record.count // record.shape[0] if record.count else 0
    need(row % size == 0 and record.fields["counts"].shape == (record.shape[0], row // size), "other groups")


def limits(record: Record, fields: Arrays) -> list[Ends | None]:
    counts, size = fields["counts"], record.integers["group_size"]
    need(fields["coordinates"].shape == (int(counts.sum()),), "coordinates for other bases")
    planes = [(int((counts > i).sum()) * size,) for i in range(int(counts.max(initial=0)))]
    need([part.shape for part in record.codes] == planes, "planes for other bases")
    return [(0, 1)] * len(planes)


def weights(record: Record, fields: Arrays, planes: Sequence[Encoded]) -> Iterator[Array]:
    yield fields["counts"].reshape(-1).repeat(record.integers["group_size"])


def widths(record: Record, fields: Arrays, ends: Ends, nonzeros: int) -> dict[int, int]:
    bits, groups = np.unique(fields["counts"], return_counts=True)
    size = record.integers["group_size"]
    return {bit: count * size for bit, count in zip(bits.tolist(), groups.tolist(), strict=True) if bit}


ROW = StoredGrid(
    "SumsOfSigns",
    {
        "counts": FieldRule(
            ("i8",), lambda values: not values.size or 0 <= values.min() <= values.max() <= 8, coded=True
        ),
        "coordinates": FieldRule(
            ("f16", "f32"), lambda values: bool(np.isfinite(values).all() and (values >= 0).all())
        ),
    },
    describe=lambda record: f"{record.fields['coordinates'].dtype} for groups of {record.integers['group_size']}",
    widths=widths,
    check=check,
    integers={"group_size": (1, 1 << 20)},
    limits=limits,
    several=True,
    split=split,
    join=join,
    weights=weights,
)
