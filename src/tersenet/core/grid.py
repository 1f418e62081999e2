"""Grids: the finite sets of values that codes point into. How each lies in a file is in the table of `files.grids`."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

G = TypeVar("G", "Uniform", "Codebook")


def _along(values: Tensor, shape: torch.Size, axis: int | None) -> Tensor:
    """`values` ([] or [shape[axis]]) as fp32, shaped to broadcast against a tensor of `shape`."""
    values = values.to(torch.float32)
    if axis is None or values.dim() == 0:
        return values
    return values.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def _by_group(values: Tensor, shape: torch.Size, group_size: int) -> Tensor:
    """`values` ([rows, groups]) as fp32, repeated to a tensor of `shape`; the last group of a row may be short."""
    row = shape.numel() // shape[0]
    return values.to(torch.float32).repeat_interleave(min(group_size, row), dim=1)[:, :row].reshape(shape)


class Grid(ABC):
    """A finite set of values; its subclasses are frozen dataclasses of tensors, integers and None, and final."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """fp32 values of integer `codes`, same shape."""

    @abstractmethod
    def part(self, dim: int, start: int, length: int) -> "Grid":
        """The grid of a slice of the tensor along `dim`.

        With a `run`, along dimension 0, or along dimension 1 of a tensor that is one row: from the beginning of a run
        on, or inside one.
        """

    @property
    def run(self) -> int | None:
        """How many consecutive elements of a row have something in common; None where rows can be cut anywhere."""
        return None


@dataclass(frozen=True)
class Uniform(Grid):
    """Equally spaced values: `value = (code - zero_point) * scale + offset`, in fp32.

    The three operations are rounded one after the other to fp32 (no fused multiply-add), so every reader gets the
    same bits. A symmetric grid has no zero point and no offset; symmetric 1-bit `+-s` is codes {0, 1} with scale 2s and
    offset -s. The number of codes is not limited: a grid has no clipping of its own.

    **Shapes**: of `scale`, `zero_point` (integer) and `offset`: `[]` per tensor; `[shape[axis]]` per channel of
    `axis`; `[shape[0], ceil(row / group_size)]` for groups of `group_size` consecutive elements of a row, where a row
    is everything after axis 0 in C order. With `axis` or groups, any of them may be `[]`.

    >>> Uniform(torch.tensor(0.5)).decode(torch.tensor([[-1, 2]]))
    tensor([[-0.5000,  1.0000]])
    """

    scale: Tensor
    zero_point: Tensor | None = None
    offset: Tensor | None = None
    axis: int | None = None
    group_size: int | None = None

    def decode(self, codes: Tensor) -> Tensor:
        """fp32 values of integer `codes`, same shape."""
        whole = codes.to(torch.int32)
        if self.zero_point is not None:
            whole = whole - self._spread(self.zero_point.to(torch.int32), codes.shape).to(torch.int32)
        values = whole.to(torch.float32).mul_(self._spread(self.scale, codes.shape))
        if self.offset is not None:
            values.add_(self._spread(self.offset, codes.shape))
        return values

    def part(self, dim: int, start: int, length: int) -> Grid:
        """The grid of a slice: of rows or channels, or of groups in a row."""
        if self.group_size is None:
            return _each(self, lambda field: field[start : start + length]) if dim == self.axis else self
        if dim == 0:
            return _each(self, lambda field: field[start : start + length])
        first, last = start // self.group_size, -(-(start + length) // self.group_size)
        return _each(self, lambda field: field[:, first:last])

    @property
    def run(self) -> int | None:
        """The elements of a group."""
        return self.group_size

    def _spread(self, values: Tensor, shape: torch.Size) -> Tensor:
        if self.group_size is not None and values.dim():
            return _by_group(values, shape, self.group_size)
        return _along(values, shape, self.axis)


@dataclass(frozen=True)
class Codebook(Grid):
    """Arbitrary values: `value = values[code] * scale + offset`, in fp32, rounded after every operation.

    **Shapes**: `values` is `[levels]` (of any real dtype) and codes are in `[0, levels)`. `scale` and `offset`, which
    may be absent, are `[]`, or `[shape[axis]]` per channel of `axis`. Without `scale`, `values` may be
    `[shape[axis], levels]`: one codebook per channel.

    >>> Codebook(torch.tensor([-1, 0, 3]), scale=torch.tensor(0.5)).decode(torch.tensor([2, 0]))
    tensor([ 1.5000, -0.5000])
    """

    values: Tensor
    scale: Tensor | None = None
    offset: Tensor | None = None
    axis: int | None = None

    def decode(self, codes: Tensor) -> Tensor:
        """fp32 values of integer `codes`, same shape."""
        index = codes.to(torch.int64)
        values = self.values.to(torch.float32)
        if values.dim() == 1:
            found = values[index]
        else:
            channel = _along(torch.arange(len(values)), codes.shape, self.axis).to(torch.int64)
            found = values[channel.expand(codes.shape), index]
        if self.scale is not None:
            found.mul_(_along(self.scale, codes.shape, self.axis))
        if self.offset is not None:
            found.add_(_along(self.offset, codes.shape, self.axis))
        return found

    def part(self, dim: int, start: int, length: int) -> Grid:
        """The grid of some channels."""
        if dim != self.axis:
            return self
        part = _each(self, lambda field: field[start : start + length])
        return replace(part, values=self.values[start : start + length]) if self.values.dim() == 2 else part


@dataclass(frozen=True)
class FixedPoint(Grid):
    """Multiples of a power of two: `value = code * 2^exponent`, exact in fp32 while codes are below 2^24.

    Where weights have different widths, `exponent` is that of the finest step, and the codes of wider steps are
    multiples of theirs.

    >>> FixedPoint(-3).decode(torch.tensor([-4, 1]))
    tensor([-0.5000,  0.1250])
    """

    exponent: int

    def decode(self, codes: Tensor) -> Tensor:
        """fp32 values of integer `codes`, same shape."""
        return torch.ldexp(codes.to(torch.float32), torch.tensor(self.exponent))

    def part(self, dim: int, start: int, length: int) -> Grid:
        """The same grid."""
        return self


@dataclass(frozen=True)
class Outer(Grid):
    """Equally spaced values whose step is a product: `value = code * (scale * row) * column`, in fp32.

    A `row` belongs to an index of dimension 0, a `column` to one of dimension 1. Both are factors of few bits: the
    integer n stands for the fp32 number whose bits are those of 1 plus n shifted left by `23 - mantissa`, so 0 is 1 and
    `2^mantissa` steps double it (linear in between). `scale * row` is rounded to fp32, then every product.

    **Shapes**: `scale` `[]`, `rows` `[shape[0]]`, `columns` `[shape[1]]`, both integers of at most `60 * 2^mantissa`
    either way; either may be absent: factors of 1.

    >>> Outer(torch.tensor(0.5), torch.tensor([0, 4]), torch.tensor([0, -8]), 2).decode(torch.ones(2, 2))
    tensor([[0.5000, 0.1250],
            [1.0000, 0.2500]])
    """

    scale: Tensor
    rows: Tensor | None = None
    columns: Tensor | None = None
    mantissa: int = 3

    def decode(self, codes: Tensor) -> Tensor:
        """fp32 values of integer `codes`, same shape."""
        scale = self.scale.to(torch.float32)
        if self.rows is not None:
            scale = scale * _along(factors(self.rows, self.mantissa), codes.shape, 0)
        values = codes.to(torch.float32).mul_(scale)
        if self.columns is not None:
            values.mul_(_along(factors(self.columns, self.mantissa), codes.shape, 1))
        return values

    def part(self, dim: int, start: int, length: int) -> Grid:
        """The grid of some rows or some columns."""
        if dim == 0 and self.rows is not None:
            return replace(self, rows=self.rows[start : start + length])
        if dim == 1 and self.columns is not None:
            return replace(self, columns=self.columns[start : start + length])
        return self


def factors(numbers: Tensor, mantissa: int) -> Tensor:
    """The fp32 factors that integers stand for, see `Outer`.

    >>> factors(torch.tensor([-4, 0, 1, 2]), 2)
    tensor([0.5000, 1.0000, 1.2500, 1.5000])
    """
    return ((127 << 23) + (numbers.to(torch.int32) << (23 - mantissa))).view(torch.float32)


@dataclass(frozen=True)
class BinaryBases(Grid):
    """Sums of binary bases: `value = sum over i < count of (coordinate i if bit i of the code is set, else minus it)`.

    Every group of weights has a count of its own, perhaps 0, and as many coordinates. The sum is made in fp32, in the
    order of the bases, rounded after every operation. A coordinate is positive: the fp32 number whose bits are its
    integer shifted left by `23 - mantissa`, so that it has `mantissa` bits after the leading one.

    A row (everything after axis 0 in C order) is seen as `[blocks, group_size, stride]`; a group is what shares the
    first and the last index, and groups are in the order (row, block, last index). Stride 1 makes groups of
    consecutive weights, a stride of the kernel's size groups of one tap over input channels.

    **Shapes**: `counts` `[rows, row / group_size]` (0 to 8), `coordinates` `[sum of counts]`.

    >>> one = torch.tensor([0.5]).view(torch.int32) >> 23
    >>> BinaryBases(torch.tensor([[1, 0]]), one, 0, 2, 1).decode(torch.tensor([[1, 0, 0, 0]]))
    tensor([[ 0.5000, -0.5000,  0.0000,  0.0000]])
    """

    counts: Tensor
    coordinates: Tensor
    mantissa: int
    group_size: int
    stride: int

    def decode(self, codes: Tensor) -> Tensor:
        """fp32 values of integer `codes`, same shape."""
        bits = codes.reshape(len(self.counts), -1).to(torch.int32)
        element = torch.arange(bits.shape[1])
        group = element // self.run * self.stride + element % self.stride
        values = torch.zeros(bits.shape)
        for i, own in enumerate((self._table() << (23 - self.mantissa)).view(torch.float32).unbind(2)):
            coordinate = own[:, group]
            values += torch.where(bits >> i & 1 == 1, coordinate, -coordinate)
        return values.reshape(codes.shape)

    def part(self, dim: int, start: int, length: int) -> Grid:
        """The grid of some rows, of some blocks of a row, or of a part of one block, where the groups turn."""
        rows, groups = slice(None), torch.arange(self.counts.shape[1])
        if dim == 0:
            rows = slice(start, start + length)
        else:
            first, last = start // self.run, -(-(start + length) // self.run)
            turned = (start + torch.arange(self.stride)) % self.stride
            groups = (torch.arange(first, last).unsqueeze(1) * self.stride + turned).reshape(-1)
        counts = self.counts[rows][:, groups]
        table = self._table()[rows][:, groups]
        return replace(self, counts=counts, coordinates=table[torch.arange(table.shape[2]) < counts.unsqueeze(2)])

    @property
    def run(self) -> int:
        """The elements of a block."""
        return self.group_size * self.stride

    def _table(self) -> Tensor:
        """The integers of coordinates, 0 where there is none. **Shapes**: `[rows, groups, bases]`."""
        counts = self.counts.to(torch.int64).unsqueeze(2)
        place = torch.arange(int(counts.max()) if counts.numel() else 0) < counts
        return torch.zeros(place.shape, dtype=torch.int32).masked_scatter_(place, self.coordinates.to(torch.int32))


def narrowest(codes: Tensor) -> Tensor:
    """Integers in the narrowest of int8, int16, int32 that holds all of them.

    >>> narrowest(torch.tensor([-128, 300])).dtype
    torch.int16
    """
    low, high = (int(codes.min()), int(codes.max())) if codes.numel() else (0, 0)
    kinds = (torch.int8, torch.int16, torch.int32)
    return codes.to(next(kind for kind in kinds if torch.iinfo(kind).min <= low and high <= torch.iinfo(kind).max))


def _each(grid: G, cut: Callable[[Tensor], Tensor]) -> G:
    """`grid` with those fields cut that say something of each of its units; a list of values belongs to all."""
    fields: dict[str, Any] = {
        name: cut(value)
        for name, value in vars(grid).items()
        if isinstance(value, Tensor) and value.dim() and name != "values"
    }
    return replace(grid, **fields)
