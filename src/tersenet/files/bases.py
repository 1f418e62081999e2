"""How sums of binary bases lie in a file: counts and coordinates are coded, and every basis is a plane of signs."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .records import Array, Encoded, Record
from .strict import need

MOST = 8  # bases of a group
INTEGERS = {"mantissa": (0, 10), "group_size": (1, 1 << 48), "stride": (1, 1 << 48)}
Arrays = Mapping[str, Array]
Ends = tuple[int, int]


def check(record: Record) -> None:
    """**Raises** `ValueError` unless the groups are those of the tensor's shape."""
    need(
        set(record.fields) == {"counts", "coordinates"} and set(record.integers) == set(INTEGERS), "a field is missing"
    )
    need(record.count > 0 and len(record.shape) > 0, "groups of nothing")
    row, size = record.count // record.shape[0], record.integers["group_size"]
    need(row % (size * record.integers["stride"]) == 0, f"groups of {size}, which do not divide a row of {row}")
    need(record.fields["counts"].shape == (record.shape[0], row // size), "counts of other groups")


def describe(record: Record) -> str:
    """The number of coordinates, and of which groups."""
    stride = record.integers["stride"]
    groups = f"groups of {record.integers['group_size']}{f' every {stride}' if stride > 1 else ''}"
    return f"{record.fields['coordinates'].shape[0]} for {groups}"


def in_range(counts: Array) -> bool:
    """Whether these are numbers of bases."""
    return not counts.size or bool(0 <= counts.min() <= counts.max() <= MOST)


def limits(record: Record, fields: Arrays) -> list[Ends | None]:
    """Planes are bits. **Raises** `ValueError` unless there are coordinates and planes for just these counts."""
    counts, size = fields["counts"], record.integers["group_size"]
    coordinates, first = fields["coordinates"], 1 << record.integers["mantissa"]
    need(coordinates.shape == (int(counts.sum()),), "coordinates of other bases")
    need(bool(((coordinates >= first) & (coordinates < 247 * first)).all()), "a coordinate that is too small or large")
    planes = [(int((counts > i).sum()) * size,) for i in range(int(counts.max(initial=0)))]
    need([part.shape for part in record.codes] == planes, "planes of other bases")
    return [(0, 1)] * len(planes)


def split(codes: Array, fields: Arrays, integers: Mapping[str, int]) -> list[Array]:
    """Plane i: the signs of basis i (1: plus), of the groups that have it, one after the other."""
    size, stride = integers["group_size"], integers["stride"]
    counts = fields["counts"].reshape(-1)
    grouped = codes.reshape(-1, size, stride).swapaxes(1, 2).reshape(-1, size)
    need(len(grouped) == len(counts), "counts of other groups")
    need(bool((grouped >> counts[:, None] == 0).all()), "a code with a bit for a basis that its group does not have")
    return [(grouped[counts > i] >> i & 1).astype(np.int8).reshape(-1) for i in range(int(counts.max(initial=0)))]


def join(record: Record, fields: Arrays, planes: Sequence[Array]) -> Array:
    """The codes of these planes, in the tensor's shape."""
    size, stride = record.integers["group_size"], record.integers["stride"]
    counts = fields["counts"].reshape(-1)
    kind = np.int8 if len(planes) < MOST else np.int16
    grouped = np.zeros((len(counts), size), kind)
    for i, plane in enumerate(planes):
        grouped[counts > i] |= np.left_shift(plane.astype(kind).reshape(-1, size), i)
    return np.ascontiguousarray(grouped.reshape(-1, stride, size).swapaxes(1, 2)).reshape(record.shape)


def weights(record: Record, fields: Arrays, planes: Sequence[Encoded]) -> Iterator[Array]:
    """The number of bases of every weight."""
    size, stride = record.integers["group_size"], record.integers["stride"]
    yield fields["counts"].reshape(-1, 1, stride).repeat(size, axis=1).reshape(-1)


def widths(record: Record, fields: Arrays, ends: Ends, nonzeros: int) -> dict[int, int]:
    """A weight takes a bit for each basis of its group."""
    bits, groups = np.unique(fields["counts"], return_counts=True)
    size = record.integers["group_size"]
    return {bit: count * size for bit, count in zip(bits.tolist(), groups.tolist(), strict=True) if bit}
