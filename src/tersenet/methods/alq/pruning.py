"""Bases of all layers in one pool: those that the loss needs least for their bits go, down to a number of bits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...errors import BudgetError, InputError
from .sums import SumOfBases

Criterion = Literal["loss", "coordinate"]
SHARE = 3.0  # candidates of a layer, against the share of all bits that is to go


@dataclass(frozen=True)
class Pool:
    """The bases of a tensor, with the local model of the loss in their coordinates; `learns`: a gradient was seen."""

    name: str
    parameter: Tensor
    quantizer: SumOfBases
    gradient: Tensor
    curvature: Tensor
    learns: bool = True

    def worth(self, criterion: Criterion) -> Tensor:
        """What the loss would rise by without each basis, per bit: `(-g a + 1/2 H a^2) / n`; or the coordinate a.
        Infinite for what is not alive, and for the best basis of the tensor, which stays."""
        own = self.quantizer.coordinates
        if criterion == "coordinate":
            found = own.clone()
        else:
            found = (own * own * self.curvature / 2 - own * self.gradient) / self.quantizer.size
        found = found.masked_fill(~self.quantizer.alive, -torch.inf)
        best = found.argmax()
        found = found.masked_fill(~self.quantizer.alive, torch.inf)
        found.view(-1)[best] = torch.inf
        return found


def average(quantizers: Sequence[SumOfBases]) -> float:
    """Bits per weight, coordinates not counted."""
    return sum(q.shape.numel() * q.bits for q in quantizers) / sum(q.shape.numel() for q in quantizers)


def least(quantizers: Sequence[SumOfBases]) -> float:
    """The same with one basis left in every tensor."""
    return sum(q.size for q in quantizers) / sum(q.shape.numel() for q in quantizers)


def check_goal(quantizers: Sequence[SumOfBases], goal: float) -> None:
    """**Raises** `BudgetError` for fewer bits than one basis of every tensor takes."""
    floor = least(quantizers)
    if goal < floor:
        raise BudgetError(
            f"bits={goal:g}: one basis in each of {len(quantizers)} tensors, the least there is, takes {floor:.3g} "
            "bits a weight (its coordinate and the counts come on top): give more bits=, or a smaller group_size=",
            floor,
        )


def check_learning(idle: Sequence[str]) -> None:
    """**Raises** `InputError` if there are tensors that no gradient has reached."""
    if idle:
        raise InputError(
            f"the gradient of {idle[0]} was 0 in every batch: the loss does not depend on it (is it unused, or a layer "
            f"behind it all 0?), so its bases are worth nothing; repair the network, or leave it out with "
            f"exclude=({idle[0]!r},)"
        )


def prune(
    pools: Sequence[Pool], goal: float, criterion: Criterion, start: float = 0.0, draw: torch.Generator | None = None
) -> int:
    """Take bases away, those that are worth least first, until they are at most `goal` bits a weight on average, and no
    basis longer. Returns how many.

    With `draw`, only a share of each layer's bases are candidates (randomly rounded), so that no layer loses most of
    its bases at once; then there may be too few.

    **Raises** `InputError` for a tensor that no gradient ever reached, where worth is told by the loss.
    """
    pools = [pool for pool in pools if not pool.quantizer.pinned]
    total = sum(pool.quantizer.shape.numel() for pool in pools)
    spare = average([pool.quantizer for pool in pools]) * total - goal * total if pools else 0.0
    if spare <= 0:
        return 0
    if criterion == "loss":
        check_learning([pool.name for pool in pools if not pool.learns])
    worths = []
    for pool in pools:
        worth = pool.worth(criterion).reshape(-1).cpu()
        if draw is not None:
            share = SHARE * (1 - goal / start) * int(pool.quantizer.alive.sum())
            kept = torch.argsort(worth, stable=True)[int(share + float(torch.rand((), generator=draw))) :]
            worth[kept] = torch.inf
        worths.append(worth)
    every = torch.cat(worths)
    costs = torch.cat([torch.full((len(w),), p.quantizer.size) for w, p in zip(worths, pools, strict=True)])
    order = torch.argsort(every, stable=True)[: int(every.isfinite().sum())]
    count = int((costs[order].cumsum(0) < spare).sum()) + 1
    dead = torch.zeros(len(every), dtype=torch.bool)
    dead[order[:count]] = True
    for pool, mask in zip(pools, dead.split([len(w) for w in worths]), strict=True):
        pool.quantizer.kill(mask.reshape(pool.quantizer.alive.shape).to(pool.quantizer.alive.device))
    return int(dead.sum())
