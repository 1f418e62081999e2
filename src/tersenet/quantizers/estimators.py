"""Gradient estimators: rules for the backward pass of rounding, one function each.

Every rule maps the gradient g of `scale * q` and a `Rounding` (x in units of the scale, its level q) to the gradient of
the input. The forward is always hard rounding. Rules for two levels +-1 (`ede`, `rbnn`, `bireal`, `reste`) look at x
only.
"""

import math
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from ..core.fields import Configured, Within
from .project import Rounding, Rule, clipped


def ste(g: Tensor, at: Rounding) -> Tensor:
    """Straight-through: `g` everywhere (Bengio et al. 2013)."""
    return g


def ewgs(g: Tensor, at: Rounding, delta: float | Tensor = 0.2) -> Tensor:
    """Element-wise gradient scaling: `g (1 + delta sign(g) (x - q))` inside the range (Lee et al. 2021).

    The distance is in units of the cell that x lies in (the authors' levels are evenly spaced), so the sign of the
    gradient never changes; `delta = 0` is the clipped STE. The paper's delta is the mean of the Hessian's diagonal over
    3 deviations of the gradient ("ewgs-hessian": measured where an epoch begins).
    """
    return g * at.inside * (1 + delta * g.sign() * (at.x - at.q) / at.levels.below(at.x)[1])


def qea(g: Tensor, at: Rounding, delta: float = 0.2) -> Tensor:
    """Quantization-error-aware: `g (1 + delta sign(g) (x - q) / gap)`, gap = width of the cell that x lies in.

    A reading of Tesfai et al. 2023, whose published formula was not available to us: EWGS for grids that are not
    uniform, so that the factor stays in `[1 - delta/2, 1 + delta/2]`. `delta = 0` is the STE.
    """
    inside = at.x.clamp(at.levels.low, at.levels.high)
    return g * (1 + delta * g.sign() * (inside - at.q) / at.levels.below(inside)[1])


def qea_project(g: Tensor, at: Rounding, beta: float = 0.3) -> Tensor:
    """Quantization-error-aware, second reading: the step is pulled towards the level it lands next to.

    With `u = w - lr g`: `g' = (1 - b) g + b (w - Q(u)) / lr`, so that w lands on `(1 - b) u + b Q(u)`;
    b = `beta` times the progress of the training. A reading of Tesfai et al. 2023, whose published formula was not
    available to us. `beta = 0`, and a lr of 0, is the STE.
    """
    pull = beta * at.progress
    lr = at.lr.clamp(min=1e-12)
    landing = at.levels.nearest(at.x - lr * g / at.scale)
    pulled = (1 - pull) * g + pull * at.scale * (at.x - landing) / lr
    return torch.where((pull > 0) & (at.lr > 0), pulled, g)


def dsq(g: Tensor, at: Rounding, a: float = 0.2) -> Tensor:
    """Differentiable soft quantization: the slope of a tanh in every cell (Gong et al. 2019).

    `phi(t) = s tanh(k t) / 2` with `k = ln(2/a - 1) / gap`, t from the middle of the cell and `s = 1 / tanh(k gap /
    2)`; it rises by 1 over a cell of width 1. Small `a` is nearly a step. 0 outside the range.
    """
    lower, gap = at.levels.below(at.x)
    k = math.log(2 / a - 1)  # in units of the gap
    t = (at.x - lower) / gap - 0.5
    slope = k / (2 * math.tanh(k / 2)) * (1 - torch.tanh(k * t) ** 2)
    return g * at.inside * slope


def stacked_sigmoid(g: Tensor, at: Rounding, alpha: float = 1.0) -> Tensor:
    """The slope of one sigmoid per cell, scaled so that it rises by 1 over the cell.

    `slope = alpha s(1 - s) / (2 s(alpha / 2) - 1)` with `s = sigmoid(alpha t)`, t from the middle of the cell in gaps;
    its mean over a cell is 1, and `alpha -> 0` is the clipped STE.
    """
    lower, gap = at.levels.below(at.x)
    t = (at.x - lower) / gap - 0.5
    s = torch.sigmoid(alpha * t)
    rise = 2 / (1 + math.exp(-alpha / 2)) - 1
    return g * at.inside * (alpha * s * (1 - s) / rise)


def psgd(g: Tensor, at: Rounding, strength: float = 150.0) -> Tensor:
    """Position-based scaled gradient: `g * strength * |w - Q(w)|` (Kim et al. 2020).

    In the paper the forward stays fp32, which no method here offers yet: a function for loops of one's own. A constant
    distance is plain SGD.
    """
    return g * strength * (at.scale * (at.x - at.q)).abs()


def ede(g: Tensor, at: Rounding, t_min: float = 0.1, t_max: float = 10.0) -> Tensor:
    """IR-Net's error decay estimator: `k t (1 - tanh^2(t x))`, `t = t_min (t_max / t_min)^progress`, `k = max(1/t,
    1)`."""
    t = t_min * (t_max / t_min) ** at.progress
    return g * (1 / t).clamp(min=1) * t * (1 - torch.tanh(t * at.x) ** 2)


def rbnn(g: Tensor, at: Rounding) -> Tensor:
    """Rotated binary networks: `k (sqrt(2) t - t^2 |x|)` for `|x| < sqrt(2) / t`, `t = 10^(-2 + 3 progress)`, `k =
    max(1/t, 1)`."""
    t = 10 ** (3 * at.progress - 2)
    return g * ((1 / t).clamp(min=1) * (math.sqrt(2) * t - t**2 * at.x.abs())).clamp(min=0)


def bireal(g: Tensor, at: Rounding) -> Tensor:
    """Bi-Real: `2 - 2 |x|` for `|x| < 1`, else 0."""
    return g * (2 - 2 * at.x.abs()).clamp(min=0)


def reste(g: Tensor, at: Rounding, o_max: float = 3.0) -> Tensor:
    """Rectified STE: the slope of `sign(x) |x|^(1/o)`, o from 1 to `o_max` with the progress (Wu et al. 2023).

    `(1/o) |x|^((1 - o)/o)` for `0.1 < |x| <= 1.5`; below, the constant `0.1^(1/o) / 0.1`; above, 0. `o = 1` is the STE
    clipped at 1.5.
    """
    o = 1 + (o_max - 1) * at.progress
    size = at.x.abs()
    slope = torch.where(size > 0.1, size.clamp(min=0.1) ** ((1 - o) / o) / o, 0.1 ** (1 / o) / 0.1)
    return g * torch.where(size <= 1.5, slope, torch.zeros_like(slope))


_RULES = Configured(
    {
        "ste": {},
        "clipped": {},
        "ewgs": {"delta": Within(least=0)},
        "ewgs-hessian": {},
        "qea": {"delta": Within(least=0)},
        "qea-project": {"beta": Within(0, 1)},
        "dsq": {"a": Within(above=0, below=1)},
        "stacked-sigmoid": {"alpha": Within(above=0)},
    }
)
Estimator = Annotated[str, _RULES]
RULES: dict[str, Rule] = {
    "ste": ste,
    "clipped": clipped,
    "ewgs": ewgs,
    "ewgs-hessian": ewgs,
    "qea": qea,
    "qea-project": qea_project,
    "dsq": dsq,
    "stacked-sigmoid": stacked_sigmoid,
}
"""What methods offer by name; `psgd` and the rules for two levels have no method yet."""


def rule_of(estimator: str) -> Rule:
    """The rule that a text names, with its constants: "ewgs:delta=0.1"."""
    name, constants = _RULES.read(estimator)
    return partial(RULES[name], **constants)
