"""Rounding to levels that gradients can pass: the forward is exact, the backward is a rule.

`w + (q - w).detach()` would not return the grid value itself (one more rounding), so this is an autograd function.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.levels import Levels

SMALLEST, LARGEST = 2.0**-14, 2.0**15  # scales that fp16 holds with full precision
PIECE = 1 << 16  # elements that are worked on together


@dataclass(frozen=True)
class Rounding:
    """What a gradient rule may look at. `x` is the input in units of the scale, not clipped; `q` the level it went to.

    `scale` is the size of a unit (broadcasts against x); `progress` runs from 0 to 1 over the training; `lr` is the
    learning rate.
    """

    x: Tensor
    q: Tensor
    levels: Levels
    scale: Tensor
    progress: Tensor
    lr: Tensor

    @property
    def inside(self) -> Tensor:
        """Where x lies in the range of the levels."""
        return (self.x >= self.levels.low) & (self.x <= self.levels.high)


Rule = Callable[[Tensor, Rounding], Tensor]
"""(gradient of the output, what was rounded) -> gradient of the input, both for `scale * q`."""


def clipped(g: Tensor, at: Rounding) -> Tensor:
    """Clipped straight-through: `g` inside the range of the levels, 0 outside."""
    return g * at.inside


class _Project(torch.autograd.Function):
    """`scale * nearest(values / scale)`; backward: `rule` for the values, and for the scale
    `sum(g * (q - x))` inside the range, `sum(g * q)` outside (LSQ; the same as RCF's)."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, scale: Tensor, progress: Tensor, lr: Tensor, levels: Levels, rule: Rule
    ) -> Tensor:
        x = values / scale
        q = levels.nearest(x)
        ctx.save_for_backward(x, q, scale, progress, lr)
        ctx.levels, ctx.rule = levels, rule
        return q * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, q, scale, progress, lr = ctx.saved_tensors
        given = Rounding(x, q, ctx.levels, scale, progress, lr)
        by_value = ctx.rule(grads[0], given)
        by_scale = None
        if ctx.needs_input_grad[1]:
            by_scale = (grads[0] * torch.where(given.inside, q - x, q)).sum_to_size(scale.shape)
        return by_value, by_scale, None, None, None, None


class _ProjectClipped(torch.autograd.Function):
    """`_Project` with the clipped straight-through rule and one scale, for the large inputs of layers.

    It works on pieces that stay in the cache and keeps nothing but its input, which the layer before it holds anyway:
    three times faster than `_Project`. With `pact`, the scale gets no gradient from inside the range.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, levels: Levels, pact: bool) -> Tensor:
        values = values.contiguous()
        ctx.save_for_backward(values, scale)
        ctx.levels, ctx.pact = levels, pact
        result = torch.empty_like(values)
        for given, out in zip(values.view(-1).split(PIECE), result.view(-1).split(PIECE), strict=True):
            torch.mul(levels.nearest(given / scale), scale, out=out)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values, scale = ctx.saved_tensors
        grad, levels = grads[0].contiguous(), ctx.levels
        low = float(np.nextafter(np.float32(levels.low), np.float32(-np.inf)))
        high = float(np.nextafter(np.float32(levels.high), np.float32(np.inf)))
        result, by_scale = torch.empty_like(values), torch.zeros_like(scale)
        pieces = (part.view(-1).split(PIECE) for part in (values, grad, result))
        for given, g, out in zip(*pieces, strict=True):
            x = given / scale
            torch.ops.aten.hardtanh_backward.grad_input(g, x, low, high, grad_input=out)
            q = levels.nearest(x)
            by_scale += torch.dot(g, q).sub_(torch.dot(out, q if ctx.pact else x))
        return result, by_scale, None, None


class _Stored(torch.autograd.Function):
    """`|parameter| / per` (times `by`), clamped and rounded as a file stores it; the gradient is the parameter's,
    damped."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, by: Tensor | None, per: float, factor: float, fp16: bool) -> Tensor:
        ctx.save_for_backward(parameter, by)
        ctx.factor = factor / per
        scale = parameter.abs() / per if by is None else parameter.abs() / per * by
        return scale.clamp(SMALLEST, LARGEST).half().float() if fp16 else scale.clamp(min=1e-30)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        parameter, by = ctx.saved_tensors
        grad = grads[0] * torch.where(parameter < 0, -ctx.factor, ctx.factor)
        return (grad if by is None else grad * by), None, None, None, None


def project(values: Tensor, scale: Tensor, levels: Levels, rule: Rule, progress: Tensor, lr: Tensor) -> Tensor:
    """`scale * levels.nearest(values / scale)`, exactly; gradients by `rule` and by LSQ's formula for the scale.

    **Shapes**: `scale` broadcasts against `values` and gets the gradient summed over what it covers.
    """
    result: Tensor = _Project.apply(values, scale, progress, lr, levels, rule)  # type: ignore[no-untyped-call]
    return result


def project_clipped(values: Tensor, scale: Tensor, levels: Levels, pact: bool = False) -> Tensor:
    """`project` with the clipped straight-through rule and one scale (`[]`).

    With `pact` the gradient of the scale is PACT's: `g` times the highest level where the input is above the range
    and nothing elsewhere.
    """
    if torch.compiler.is_compiling() and not pact:
        return project(values, scale, levels, clipped, torch.zeros(()), torch.zeros(()))
    result: Tensor = _ProjectClipped.apply(values, scale, levels, pact)  # type: ignore[no-untyped-call]
    return result


def stored_scale(parameter: Tensor, per: float, factor: float, fp16: bool = True, by: Tensor | None = None) -> Tensor:
    """The scale `|parameter| / per * by` as a file stores it (fp16 between 2^-14 and 2^15, or fp32), in fp32.

    The gradient passes the rounding and is multiplied by `factor`.
    """
    result: Tensor = _Stored.apply(parameter, by, per, factor, fp16)  # type: ignore[no-untyped-call]
    return result


def some_of(values: Tensor, count: int) -> Tensor:
    """`count` random elements (always the same for a size), or all of them, in one row; fp32.

    Not evenly spaced ones: a spacing that divides the rows would see one column of every image only.
    """
    flat = values.detach().reshape(-1)
    if flat.numel() > count:
        index = torch.randint(flat.numel(), (count,), generator=torch.Generator().manual_seed(0))
        flat = flat[index.to(flat.device)]
    return flat.float()


def noisy(values: Tensor, scale: Tensor, levels: Levels, kind: str) -> Tensor:
    """Rounding replaced by noise that has the same expectation as a differentiable function of the values.

    "stochastic" goes to one of the two levels around a value, the nearer the likelier; "uniform" adds uniform noise as
    wide as the cell. Values are clipped to the range first; gradients pass inside it.
    """
    x = (values / scale).clamp(levels.low, levels.high)
    lower, gap = levels.below(x.detach())
    noise = torch.rand_like(x)
    if kind == "uniform":
        return (x + gap * (noise - 0.5)) * scale
    level = torch.where(noise * gap < x.detach() - lower, lower + gap, lower)
    return project_to(x, level) * scale


class _Replaced(torch.autograd.Function):
    """Other values, with the gradient of the given ones."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, others: Tensor) -> Tensor:
        return others

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


def project_to(values: Tensor, others: Tensor) -> Tensor:
    """`others`, with gradients as if it were `values`."""
    result: Tensor = _Replaced.apply(values, others)  # type: ignore[no-untyped-call]
    return result
