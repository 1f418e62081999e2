"""The kinds of levels that weights can be trained on, by name: which levels, and how they are scaled."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core.levels import Integers, Levels
from ..errors import UsageError
from .powers import additive_magnitudes, power_magnitudes, with_signs, without_signs
from .project import Rule, clipped
from .weight import LearnedScale, Oscillation, least_squares_clip, over_units

FIRST_CLIP = 3.0  # RCF's authors' first clip, in deviations
CLIP_RATE = 0.5  # and their learning rate of clips, as a share of that of the weights
FirstClip = Literal["mse", "paper"]
Build = Callable[[Tensor, Levels, Rule, int | None, bool, Oscillation, FirstClip], LearnedScale]


@dataclass(frozen=True)
class Base:
    """Levels for `least` to `most` bits: of weights, and of inputs (with a sign or without), and a weight's quantizer.

    `build(weight, levels, rule, axis, normed, oscillation, first_clip)`; `normed`: a batch norm of its own follows.
    """

    name: str
    least: int
    most: int
    weights: Callable[[int], Levels]
    inputs: Callable[[int, bool], Levels]
    build: Build

    def check(self, bits: int) -> int:
        """`bits`, if this base has them. **Raises** `UsageError`."""
        if not self.least <= bits <= self.most:
            raise UsageError(f"{bits} bits: {self.name} has {self.least} to {self.most}, or 32 for full precision")
        return bits


def first_rounding(kind: Base, weight: Tensor, bits: int) -> Tensor:
    """`weight` rounded to `bits` bits as a training would begin: one scale, its own mean and deviation put back."""
    return kind.build(weight, kind.weights(bits), clipped, None, False, "none", "mse").freeze(weight).dequantize()


def learned_step(
    weight: Tensor,
    levels: Levels,
    rule: Rule,
    axis: int | None,
    normed: bool,
    oscillation: Oscillation,
    first: FirstClip,
) -> LearnedScale:
    """LSQ: the step is the parameter; it starts at `2 mean|w| / sqrt(Qp)`, its gradient times `1 / sqrt(N Qp)`."""
    rows = over_units(weight.float(), axis)
    step = (2 * rows.abs().mean(1) / math.sqrt(levels.high)).clamp(min=1e-12)
    return LearnedScale(
        weight, levels, rule, axis=axis, normalise="no", parameter=step, per=1.0,
        gradient_factor=1 / math.sqrt(rows.shape[1] * levels.high), oscillation=oscillation,
    )  # fmt: skip


def learned_clip(
    weight: Tensor,
    levels: Levels,
    rule: Rule,
    axis: int | None,
    normed: bool,
    oscillation: Oscillation,
    first: FirstClip,
) -> LearnedScale:
    """RCF: `alpha Q(w~ / alpha)` with `w~ = (w - mean) / deviation`; deviation and mean are put back unless `normed`.

    alpha starts at 3 ("paper") or where the squared error is smallest ("mse").
    """
    rows = over_units(weight.float(), axis)
    deviation = rows.std(1, unbiased=False, keepdim=True).clamp(min=1e-12)
    rows = (rows - rows.mean(1, keepdim=True)) / deviation
    clip = least_squares_clip(rows, levels).float() if first == "mse" else torch.full((len(rows),), FIRST_CLIP)
    made = LearnedScale(
        weight, levels, rule, axis=axis, normalise="absorbed" if normed else "restored",
        parameter=clip.to(weight.device), per=float(levels.high), oscillation=oscillation,
    )  # fmt: skip
    made.lr_factor, made.decays = CLIP_RATE, True
    return made


def _two_complement(bits: int) -> Integers:
    return Integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _powers(magnitudes: Callable[[int], tuple[int, ...]]) -> Callable[[int, bool], Levels]:
    return lambda bits, signed: with_signs(magnitudes(bits - 1)) if signed else without_signs(magnitudes(bits))


BASES = {
    "uniform": Base(
        "lsq", 2, 8, _two_complement,
        lambda bits, signed: _two_complement(bits) if signed else Integers(0, 2**bits - 1), learned_step,
    ),
    "pot": Base(
        "pot", 2, 5, lambda bits: with_signs(power_magnitudes(bits - 1)), _powers(power_magnitudes), learned_clip
    ),
    "apot": Base(
        "apot", 2, 8, lambda bits: with_signs(additive_magnitudes(bits - 1)), _powers(additive_magnitudes), learned_clip
    ),
}  # fmt: skip


def eight_bits(weight: Tensor, axis: int | None) -> LearnedScale:
    """A uniform 8-bit quantizer whose largest level starts at the largest weight, with LSQ's gradients."""
    rows = weight.float().reshape(1, -1) if axis is None else weight.float().transpose(0, axis).flatten(1)
    step = (rows.abs().amax(1) / 127).clamp(min=1e-12)
    factor = 1 / (rows.shape[1] * 127) ** 0.5
    return LearnedScale(
        weight, Integers(-127, 127), clipped,
        axis=axis, normalise="no", parameter=step, per=1.0, gradient_factor=factor,
    )  # fmt: skip
