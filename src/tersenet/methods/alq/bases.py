"""Groups of weights as sums of binary bases, on tensors: the first bases, the basis step, and the speed-up.

**Shapes** everywhere: G groups of n weights with up to I bases; `codes` `[G, n]` (bit i is set where basis i is +1),
`coordinates` and `alive` `[G, I]`, `target` and `curvature` `[G, n]`. A basis that is not alive has coordinate 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor

SMALL = 1e-6  # squared residual, as a share of the squared weights, at which a group needs no further basis
DAMPING = 1e-6  # of normal equations, as a share of their mean diagonal
LEAST, LARGEST = 2.0**-100, 2.0**100  # of coordinates


class Bases(NamedTuple):
    """Signs and coordinates of all groups of a tensor, and which bases there are."""

    codes: Tensor
    coordinates: Tensor
    alive: Tensor


def sketched(groups: Tensor, most: int) -> Bases:
    """Structured sketching: the signs of the residual become a basis, all coordinates are fitted again by least
    squares, and so on up to `most` bases, or until nothing is left."""
    groups = groups.double()
    count, size = groups.shape
    bases = Bases(
        torch.zeros(count, size, dtype=torch.int32, device=groups.device),
        groups.new_zeros(count, most),
        torch.zeros(count, most, dtype=torch.bool, device=groups.device),
    )
    residual, power = groups, groups.square().sum(1)
    for i in range(most):
        bases.alive[:, i] = residual.square().sum(1) > SMALL * power
        bases.codes.bitwise_or_((residual >= 0).to(torch.int32) << i)
        bases.coordinates.copy_(fitted(bases, groups, torch.ones_like(groups)))
        residual = groups - summed(bases)
    return packed(positive(Bases(bases.codes, bases.coordinates.float(), bases.alive)))


def fitted(bases: Bases, target: Tensor, curvature: Tensor) -> Tensor:
    """The coordinates that make `sum of curvature (sum - target)^2` least: `(B' H B)^-1 B' H t` for each group."""
    signs = _signs(bases) * bases.alive.unsqueeze(1)
    weight = (curvature / curvature.mean(1, keepdim=True)).unsqueeze(2).to(signs.dtype)
    normal = signs.transpose(1, 2) @ (weight * signs)
    diagonal = torch.where(bases.alive, DAMPING * signs.shape[1], 1.0)
    right = signs.transpose(1, 2) @ (weight * target.unsqueeze(2))
    found, _ = torch.linalg.solve_ex(normal + torch.diag_embed(diagonal).to(normal.dtype), right)
    coordinates: Tensor = found.squeeze(2) * bases.alive
    return coordinates


def summed(bases: Bases) -> Tensor:
    """The values, made in the order of the bases as `BinaryBases` makes them. **Shapes**: -> `[G, n]`."""
    values = bases.coordinates.new_zeros(bases.codes.shape)
    for i, coordinate in enumerate(bases.coordinates.split(1, dim=1)):
        values += torch.where((bases.codes >> i & 1).bool(), coordinate, -coordinate)
    return values


def nearest(coordinates: Tensor, target: Tensor) -> Tensor:
    """The basis step: for every weight the signs whose sum is nearest to its target, which is where a diagonal
    quadratic is least. **Shapes**: `[G, I]`, `[G, n]` -> codes `[G, n]`."""
    patterns = torch.arange(1 << coordinates.shape[1], dtype=torch.int32, device=target.device)
    table = summed(Bases(patterns.expand(len(coordinates), -1), coordinates, coordinates > 0))
    values, order = table.sort(dim=1, stable=True)
    middles = ((values[:, 1:] + values[:, :-1]) / 2).contiguous()
    return patterns[order.gather(1, torch.searchsorted(middles, target.contiguous()))]


def positive(bases: Bases) -> Bases:
    """The same sums with no coordinate below 0: where one is, it and the signs of its basis change."""
    negative = bases.coordinates < 0
    bits = torch.arange(negative.shape[1], dtype=torch.int32, device=negative.device)
    flips = (negative.to(torch.int32) << bits).sum(1, keepdim=True, dtype=torch.int32)
    return Bases(bases.codes ^ flips, bases.coordinates.abs(), bases.alive)


def packed(bases: Bases) -> Bases:
    """The same sums, to the last bit, with what is not alive after the rest of its group, its signs -1."""
    order = (~bases.alive).to(torch.int8).argsort(dim=1, stable=True)
    alive, coordinates = bases.alive.gather(1, order), bases.coordinates.gather(1, order)
    codes = torch.zeros_like(bases.codes)
    for i in range(order.shape[1]):
        bit = (bases.codes >> order[:, i : i + 1].to(torch.int32)) & alive[:, i : i + 1].to(torch.int32)
        codes.bitwise_or_(bit << i)
    return Bases(codes, coordinates * alive, alive)


def rounded(coordinates: Tensor, alive: Tensor, mantissa: int) -> Tensor:
    """fp32 coordinates with `mantissa` bits after the leading one, as they are stored; 0 where no basis is alive."""
    bits = coordinates.float().clamp(LEAST, LARGEST).contiguous().view(torch.int32)
    shift = 23 - mantissa
    return ((bits + (1 << shift >> 1)) >> shift << shift).view(torch.float32) * alive


def _signs(bases: Bases) -> Tensor:
    """The bases as +1 and -1. **Shapes**: -> `[G, n, I]`."""
    bits = torch.arange(bases.coordinates.shape[1], dtype=torch.int32, device=bases.codes.device)
    return (bases.codes.unsqueeze(2) >> bits & 1).to(bases.coordinates.dtype).mul_(2).sub_(1)
