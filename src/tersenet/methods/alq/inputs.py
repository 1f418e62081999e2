"""Inputs of layers as sums of binary bases: `centre + sum of coordinate * sign`, one set of coordinates a layer."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...core.activation import Activation
from ...core.levels import Integers, Levels, Points
from ...quantizers.activation import InputRounder
from ...quantizers.quantizer import ParamGroup

UNITS = 1 << 11  # that the first span of the levels is divided into, to which coordinates are rounded
FITS = 20  # least-squares fits before training


class Sums(NamedTuple):
    """The sums that are levels: their integers in increasing order, and the signs behind each. **Shapes**: `[levels]`,
    `[levels, 1 + bases]`, where the first column, the centre's, is 1."""

    values: Tensor
    signs: Tensor


class SummedInput(InputRounder):
    """Rounds a layer's input to the nearest of `centre + sum over bases of +- coordinate`, all of them learned.

    The nearest sum has the sign of the residual in every basis as long as no coordinate is below the sum of those after
    it. The centre lets the levels of one-sided inputs lie where these are. Backward: straight through between the
    lowest and the highest level; coordinates get `sum of g * sign`, the centre `sum of g`, times `1 / sqrt(features *
    levels)`.

    `parameters` are centre and coordinates, as shares of the first span; levels are integers in `span / 2048`.
    """

    def __init__(self, bases: int) -> None:
        super().__init__()
        self.factor = 1.0
        self.coordinates = nn.Parameter(torch.zeros(1 + bases))
        self.register_buffer("unit", torch.ones(()))

    unit: Tensor

    def settle(self) -> None:
        """Sketch the observed values: bases by signs of the residual, then all coordinates by least squares."""
        assert self.observer is not None
        values = torch.cat(self.observer.samples).double()
        found = sketched(values, len(self.coordinates) - 1)
        span = float(found.abs().sum()) or 1.0
        self.unit.fill_(2.0 ** round(torch.tensor(span / UNITS).log2().item()))
        self.coordinates.data.copy_(found / (self.unit.double() * UNITS))
        self.factor = float((self.observer.features * (1 << (len(found) - 1))) ** -0.5)
        self.after_step()
        self.observer = None

    def rounded(self, inputs: Tensor) -> Tensor:
        """The nearest sum."""
        result: Tensor = _Nearest.apply(  # type: ignore[no-untyped-call]
            inputs.float(), self.coordinates, self.unit, self.factor
        )
        return result

    def param_groups(self, lr: float, weight_decay: float) -> list[ParamGroup]:
        """Centre and coordinates, without weight decay."""
        return super().param_groups(lr, 0.0)

    def freeze(self) -> Activation:
        """The same rounding, as a fact."""
        with torch.no_grad():
            return Activation(levels_of(sums(self.coordinates).values), float(self.unit))

    def after_step(self) -> None:
        """No coordinate below a unit, so that there are always two levels."""
        self.coordinates.data[1:].clamp_(min=1 / UNITS)


def sketched(values: Tensor, bases: int) -> Tensor:
    """Centre and coordinates, largest first, of structured sketching refined by nearest sums and least squares in turn.

    **Shapes**: `[n]` -> `[1 + bases]`, coordinates at least 0.
    """
    columns = [torch.ones_like(values)]
    for _ in range(bases):
        design = torch.stack(columns, 1)
        residual = values - design @ _fitted(design, values)
        columns.append(torch.where(residual >= 0, 1.0, -1.0).to(values.dtype))
    design = torch.stack(columns, 1)
    for _ in range(FITS):
        found = _fitted(design, values)
        patterns = _patterns(bases).to(values)
        table, order = (patterns @ found).sort()
        design = patterns[order[torch.bucketize(values, (table[1:] + table[:-1]) / 2)]]
    found = _fitted(design, values)
    return torch.cat([found[:1], found[1:].abs().sort(descending=True).values])


def sums(coordinates: Tensor) -> Sums:
    """All sums of centre and coordinates, these as integers of units; of equal ones, one."""
    whole = (coordinates * UNITS).round()
    patterns = _patterns(len(coordinates) - 1).to(coordinates)
    values, order = (patterns @ whole).sort(stable=True)
    first = torch.cat([torch.ones_like(values[:1], dtype=torch.bool), values[1:] > values[:-1]])
    return Sums(values[first], patterns[order[first]])


def levels_of(values: Tensor) -> Levels:
    """Increasing whole numbers as levels."""
    whole = tuple(int(value) for value in values.tolist())
    return Integers(*whole) if len(whole) == 2 and whole[1] == whole[0] + 1 else Points(whole)


def _fitted(design: Tensor, values: Tensor) -> Tensor:
    normal = design.T @ design
    normal.diagonal().add_(1e-6 * len(values))
    found: Tensor = torch.linalg.solve(normal, design.T @ values)
    return found


def _patterns(bases: int) -> Tensor:
    """**Shapes**: `[2^bases, 1 + bases]`, ones and every choice of signs."""
    bits = torch.arange(1 << bases).unsqueeze(1) >> torch.arange(bases) & 1
    return torch.cat([torch.ones(1 << bases, 1), 2.0 * bits - 1], 1)


class _Nearest(torch.autograd.Function):
    """The nearest sum in units of `unit`, times `unit`."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, coordinates: Tensor, unit: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(inputs, coordinates, unit)
        ctx.factor = factor
        return Activation(levels_of(sums(coordinates).values), float(unit))(inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs, coordinates, unit = ctx.saved_tensors
        values, signs = sums(coordinates)
        x = inputs / unit
        which = torch.bucketize(x, (values[1:] + values[:-1]) / 2)
        per_level = torch.zeros_like(values).index_add_(0, which.flatten(), grads[0].flatten())
        by_coordinate = per_level @ signs * (unit * UNITS * ctx.factor)
        inside = (x >= values[0]) & (x <= values[-1])
        return grads[0] * inside, by_coordinate, None, None
