"""Levels: the finite sets of integers that values are rounded to, in units of a scale."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .grid import Codebook, Grid, Uniform, narrowest

TABLE = 4096  # ranges up to this are looked up in a table


@dataclass(frozen=True)
class Integers:
    """Every integer from `low` to `high`. **Shapes**: all methods map a tensor to one of its shape.

    >>> Integers(0, 3).nearest(torch.tensor([-1.0, 1.4, 9.0]))
    tensor([0., 1., 3.])
    """

    low: int
    high: int

    @property
    def count(self) -> int:
        """The number of levels."""
        return self.high - self.low + 1

    def nearest(self, x: Tensor) -> Tensor:
        """The level next to each element of `x`, as floats (NaN stays NaN)."""
        return x.round().clamp_(self.low, self.high)

    def below(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The lower end and the width of the cell between two levels that holds x, clamped to the range."""
        lower = x.floor().clamp_(self.low, self.high - 1)
        return lower, torch.ones_like(lower)

    def codes(self, levels: Tensor) -> Tensor:
        """Integer codes of floats that are levels."""
        return levels.to(torch.int8 if self.low >= -128 and self.high <= 127 else torch.int32)

    def grid(self, scale: Tensor, offset: Tensor | None = None, axis: int | None = None) -> Grid:
        """The grid on which these codes mean `level * scale + offset`."""
        return Uniform(scale, offset=offset, axis=axis)


@dataclass(frozen=True)
class Points:
    """A chosen set of integers, given in increasing order, such as sums of powers of two; codes are positions in it.

    >>> Points((0, 1, 2, 4)).nearest(torch.tensor([2.9, 3.1, -7.0]))
    tensor([2., 4., 0.])
    """

    values: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of levels."""
        return len(self.values)

    @property
    def low(self) -> int:
        return self.values[0]

    @property
    def high(self) -> int:
        return self.values[-1]

    def nearest(self, x: Tensor) -> Tensor:
        """The level next to each element of `x`, as floats; the lower one in the middle (NaN stays NaN)."""
        values = torch.tensor(self.values, dtype=torch.float32, device=x.device)
        middles = (values[1:] + values[:-1]) / 2
        if self.high - self.low > TABLE:
            return torch.where(x.isnan(), x, values[torch.bucketize(x, middles)])
        # middles are halves of integers, so the level is a function of ceil(2x): one lookup instead of a search
        first, last = 2 * self.low, 2 * self.high
        cells = (torch.arange(first, last + 1, device=x.device) - 0.5) / 2
        table = values[torch.bucketize(cells, middles)]
        index = (x * 2).ceil_().clamp_(first, last).sub_(first).to(torch.int32).clamp_(0, last - first)
        return torch.where(x.isnan(), x, table.index_select(0, index.reshape(-1)).reshape(x.shape))

    def below(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The lower end and the width of the cell between two levels that holds x, clamped to the range."""
        values = torch.tensor(self.values, dtype=torch.float32, device=x.device)
        index = torch.bucketize(x, values[1:-1], right=True)
        return values[index], values[index + 1] - values[index]

    def codes(self, levels: Tensor) -> Tensor:
        """Positions of floats that are levels."""
        values = torch.tensor(self.values, dtype=torch.float32, device=levels.device)
        return torch.bucketize(levels, values).to(torch.int8 if len(self.values) <= 128 else torch.int32)

    def grid(self, scale: Tensor, offset: Tensor | None = None, axis: int | None = None) -> Grid:
        """The grid on which these codes mean `level * scale + offset`."""
        return Codebook(narrowest(torch.tensor(self.values)), scale=scale, offset=offset, axis=axis)


Levels = Integers | Points
