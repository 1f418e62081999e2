"""Weights with a learned clip on normalised values (RCF, Li et al. 2020): what POT and APoT train with."""

from typing import Literal

import torch
from torch import Tensor

from ..core.levels import Levels
from .project import Rule
from .weight import LearnedScale, Remedy, least_squares_clip, over_units

FIRST_CLIP = 3.0  # the authors' first clip, in deviations
RATE = 0.5  # the authors' learning rate of clips, as a share of that of the weights


def normalised_rows(weight: Tensor, axis: int | None) -> Tensor:
    """Weights minus their mean over their deviation, per tensor or channel. **Shapes**: `[units, weights]`."""
    rows = over_units(weight.float(), axis)
    deviation = rows.std(1, unbiased=False, keepdim=True).clamp(min=1e-12)
    return (rows - rows.mean(1, keepdim=True)) / deviation


def learned_clip(
    weight: Tensor,
    levels: Levels,
    rule: Rule,
    axis: int | None,
    normed: bool,
    first: Literal["mse", "paper"],
    remedy: Remedy,
) -> LearnedScale:
    """`alpha Q(w~ / alpha)` with `w~ = (w - mean) / deviation`; where no batch norm follows (`normed`), deviation and
    mean are put back. alpha starts at 3 ("paper") or where the squared error is smallest ("mse")."""
    rows = normalised_rows(weight, axis)
    clip = least_squares_clip(rows, levels) if first == "mse" else torch.full((len(rows),), FIRST_CLIP)
    made = LearnedScale(
        weight, levels, rule,
        axis=axis, normalise="absorbed" if normed else "restored", parameter=clip.to(weight.device),
        per=float(levels.high), remedy=remedy,
    )  # fmt: skip
    made.lr_factor, made.decays = RATE, True
    return made
