"""The quantizer of a weight: levels times a learned scale."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ..core.levels import Levels
from ..core.model import QTensor
from .estimators import ewgs
from .oscillation import Freezer, dampening
from .project import LARGEST, SMALLEST, Rule, noisy, project, stored_scale
from .quantizer import ParamGroup, Quantizer

CANDIDATES = 64  # clips that a least-squares search tries

Normalise = Literal["no", "absorbed", "restored"]
Oscillation = Literal["none", "dampen", "freeze", "stochastic", "uniform"]


def unit_shape(weight: Tensor, axis: int | None) -> tuple[int, ...]:
    """The shape that broadcasts one number per channel of `axis` (or one in all) against `weight`."""
    return tuple(size if i == axis else 1 for i, size in enumerate(weight.shape)) if axis is not None else ()


def over_units(weight: Tensor, axis: int | None) -> Tensor:
    """`weight` with one row per unit: `[channels, rest]`, or `[1, all]`."""
    return weight.reshape(1, -1) if axis is None else weight.transpose(0, axis).flatten(1)


def least_squares_clip(rows: Tensor, levels: Levels, top: Tensor | None = None, candidates: int = CANDIDATES) -> Tensor:
    """The clip of each row that makes `sum((w - Q(w))^2)` smallest among fractions of `top`, by default of its largest
    magnitude.

    **Shapes**: `[units, weights]`, `[units]` -> `[units]` in fp64; where `top` is 0 it is 1.
    """
    top = (rows.abs().amax(1) if top is None else top).double()
    best, least = top, torch.full_like(top, torch.inf)
    for i in range(1, candidates + 1):
        clip = (top * i / candidates).clamp(min=1e-30)
        scale = (clip / levels.high).to(rows.dtype).unsqueeze(1)
        error = (levels.nearest(rows / scale) * scale - rows).square().sum(1)
        better = error < least
        best, least = torch.where(better, clip, best), torch.where(better, error, least)
    return torch.where(top > 0, best, torch.ones_like(best))


@dataclass(frozen=True)
class ScaleParameter:
    """What is trained in place of a scale: its first value, which is the scale times `per` (1: LSQ's step;
    `levels.high`: the clip of RCF), in units of the deviation if there is one.

    Its gradient is multiplied by `gradient_factor`; its learning rate is `lr_factor` times that of the weights, and
    `decays` says whether it has their weight decay. **Shapes**: `start` has one value per unit.
    """

    start: Tensor
    per: float = 1.0
    gradient_factor: float = 1.0
    lr_factor: float = 1.0
    decays: bool = False


class LearnedScale(Quantizer):
    """`value = scale * nearest_level(w / scale)`, with a learned scale per tensor or per channel of `axis`.

    `scale` is stored as fp16 (fp32 where fp16 would lose it) and used as stored. `normalise`: "no" quantises the weight
    itself; "absorbed" the weight minus its mean over its deviation, leaving the value in these units because a batch
    norm follows; "restored" multiplies the deviation back and adds the mean. Mean and deviation are per unit and get no
    gradient. `oscillation` fights oscillation.
    """

    delta: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        levels: Levels,
        rule: Rule,
        parameter: ScaleParameter,
        *,
        axis: int | None,
        normalise: Normalise = "no",
        oscillation: Oscillation = "none",
    ) -> None:
        super().__init__()
        self.levels, self.rule, self.axis, self.normalise = levels, rule, axis, normalise
        self.per, self.gradient_factor, self.oscillation = parameter.per, parameter.gradient_factor, oscillation
        self.lr_factor, self.decays = parameter.lr_factor, parameter.decays
        self.dtype, self.bits = weight.dtype, (levels.count - 1).bit_length()
        self.scale = torch.nn.Parameter(parameter.start.detach().float().reshape(unit_shape(weight, axis)))
        with torch.no_grad():
            self.fp16 = True
            moved, scale, offset, _ = self._prepared(weight.float())
            fits = (scale > 2 * SMALLEST).all() and (scale < LARGEST / 2).all()
            self.fp16 = bool(fits) and (offset is None or bool((offset.abs() < LARGEST).all()))
            moved, scale, offset, _ = self._prepared(weight.float())
            self.freezer = Freezer(levels.nearest(moved / scale)) if oscillation == "freeze" else None
        self.register_buffer("delta", None)  # a constant of the rule, where it is measured in the training

    def measures_delta(self) -> None:
        """Let `set_delta` say what the rule's `delta` is; it is 0 until then."""
        self.delta = torch.zeros(())

    def set_delta(self, curvature: float, gradient: float, latent: Tensor) -> None:
        """EWGS's `delta = max(0, curvature / (3 gradient))` in units of the scale: the mean of the Hessian's diagonal,
        and the deviation of the gradient, both for the quantised value."""
        assert self.delta is not None
        scale = float(self._prepared(latent)[1].detach().mean())
        self.delta.fill_(max(0.0, scale * curvature / max(3 * gradient, 1e-30)))

    def param_groups(self, latents: tuple[Tensor, ...], lr: float, weight_decay: float) -> list[ParamGroup]:
        """The scale, with a rate of its own and by default without weight decay."""
        decay = weight_decay if self.decays else 0.0
        return [{"params": [self.scale], "lr": lr * self.lr_factor, "weight_decay": decay}]

    def forward(self, latent: Tensor) -> Tensor:  # type: ignore[override]
        """The quantised weight, in fp32 values that its original dtype holds."""
        moved, scale, offset, deviation = self._prepared(latent)
        if self.freezer is not None:
            self.freezer.watch(moved / scale, self.levels, self.progress)
            moved = self.freezer.held(moved, scale)
        if self.training and self.oscillation in ("stochastic", "uniform"):
            value = noisy(moved, scale, self.levels, self.oscillation)
        else:
            rule: Rule = self.rule if self.delta is None else partial(ewgs, delta=self.delta.clone())
            value = project(moved, scale, self.levels, rule, self.progress.clone(), self.lr / deviation**2)
        if offset is not None:
            value = value + offset
        return value if self.dtype == torch.float32 else value.to(self.dtype).to(torch.float32)

    def freeze(self, latent: Tensor) -> QTensor:  # type: ignore[override]
        """Codes, with scales (and offsets) as stored."""
        with torch.no_grad():
            moved, scale, offset, _ = self._prepared(latent)
            if self.freezer is not None:
                moved = self.freezer.held(moved, scale)
            codes = self.levels.codes(self.levels.nearest(moved / scale)).cpu()
            kind = torch.float16 if self.fp16 else torch.float32
            flat = [None if part is None else part.to("cpu", kind).reshape(-1) for part in (scale, offset)]
            parts = [part if part is None or self.axis is not None else part.reshape(()) for part in flat]
            assert parts[0] is not None
            return QTensor(codes, self.levels.grid(parts[0], parts[1], self.axis), self.dtype)

    def penalty(self, latent: Tensor) -> Tensor:  # type: ignore[override]
        """The dampening term, where that is what is done against oscillation."""
        if self.oscillation != "dampen":
            return super().penalty(latent)
        moved, scale, *_ = self._prepared(latent)
        return dampening(moved / scale.detach(), self.levels, self.progress)

    def _prepared(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """What is rounded, the scale it is rounded with, what is added afterwards, and how many latent units a unit
        is."""
        if self.normalise == "no":
            return latent, self._scale(), None, torch.ones_like(self.lr)
        rows = over_units(latent.detach(), self.axis)
        shape = unit_shape(latent, self.axis)
        mean, deviation = rows.mean(1).reshape(shape), rows.std(1, unbiased=False).clamp(min=1e-12).reshape(shape)
        if self.normalise == "absorbed":
            return (latent - mean) / deviation, self._scale(), None, deviation
        offset = mean.to(torch.float16).to(torch.float32) if self.fp16 else mean
        return latent - offset, self._scale(deviation), offset, torch.ones_like(self.lr)

    def _scale(self, by: Tensor | None = None) -> Tensor:
        return stored_scale(self.scale, self.per, self.gradient_factor, self.fp16, by)
