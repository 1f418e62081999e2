"""Remedies against oscillation: latent weights that swing around the boundary of two levels (Nagel et al. 2022)."""

import math

import torch
from torch import Tensor, nn

from ..core.levels import Levels

MOMENTUM = 0.01  # of both moving averages
FREEZE_FROM, FREEZE_TO = 0.1, 0.01  # the frequency above which a weight is frozen, first and last
STRENGTH = 0.1  # of dampening at the end


def dampening(x: Tensor, levels: Levels, progress: Tensor) -> Tensor:
    """`lambda * sum((clip(x) - Q(x))^2)`, Q without gradient; lambda rises from 0 to 0.1 along a cosine."""
    strength = STRENGTH * (1 - torch.cos(math.pi * progress)) / 2
    inside = x.clamp(levels.low, levels.high)
    return strength * (inside - levels.nearest(x.detach())).square().sum()


class Freezer(nn.Module):
    """Fixes weights that change direction too often at the level where they are most of the time.

    `f <- m o + (1 - m) f`, with o = 1 when the level of a weight moves back; above the threshold (0.1 -> 0.01 along a
    cosine) the weight stays at the level next to the moving average of its levels, and gets no gradient.
    """

    frequency: Tensor
    average: Tensor
    level: Tensor
    direction: Tensor
    frozen: Tensor

    def __init__(self, levels_now: Tensor) -> None:
        super().__init__()
        self.register_buffer("frequency", torch.zeros_like(levels_now))
        self.register_buffer("average", levels_now.clone())
        self.register_buffer("level", levels_now.clone())
        self.register_buffer("direction", torch.zeros_like(levels_now))
        self.register_buffer("frozen", torch.zeros_like(levels_now, dtype=torch.bool))

    def held(self, values: Tensor, scale: Tensor) -> Tensor:
        """`values` with the frozen ones replaced by their levels times `scale`: they have no gradient, the scale
        has."""
        return torch.where(self.frozen, self.level * scale, values)

    @torch.no_grad()
    def watch(self, x: Tensor, levels: Levels, progress: Tensor) -> None:
        """Take note of where the weights are now (in units of the scale), in training mode; freeze what swings."""
        if not self.training:
            return
        new = torch.where(self.frozen, self.level, levels.nearest(x))
        moved = (new - self.level).sign()
        back = (moved * self.direction < 0).to(x.dtype)
        self.frequency.lerp_(back, MOMENTUM)
        self.average.lerp_(new, MOMENTUM)
        self.direction.copy_(torch.where(moved != 0, moved, self.direction))
        threshold = FREEZE_TO + (FREEZE_FROM - FREEZE_TO) * (1 + torch.cos(math.pi * progress)) / 2
        freeze = (self.frequency > threshold) & ~self.frozen
        self.level.copy_(torch.where(freeze, levels.nearest(self.average), new))
        self.frozen.logical_or_(freeze)
