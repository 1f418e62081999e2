"""Projections of a dual variable on levels, and the quantizer that trains the dual by one of the rules."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ...core.grid import Codebook
from ...core.model import QTensor
from ...quantizers.project import LARGEST, SMALLEST, project_to
from ...quantizers.quantizer import Quantizer

Rule = Literal["md-tanh", "md-softmax", "binaryconnect", "proxquant", "gd-tanh", "pmf"]
Levels = tuple[float, ...]


def tanh_projection(dual: Tensor, beta: Tensor | float, levels: Levels) -> Tensor:
    """A stair of tanhs over `levels`, a step in the middle between each two. **Shapes**: that of `dual`.

    >>> tanh_projection(torch.tensor([-9.0, 0.1, 9.0]), 4.0, (-1.0, 0.0, 1.0)).round(decimals=2)
    tensor([-1.0000,  0.0300,  1.0000])
    """
    value = torch.full_like(dual, (levels[0] + levels[-1]) / 2)
    for low, high in pairwise(levels):
        value = value + (high - low) / 2 * torch.tanh(beta * (dual - (low + high) / 2))
    return value


def softmax_projection(duals: Tensor, beta: Tensor | float, levels: Levels) -> Tensor:
    """The mean of `levels` with weights `softmax(beta duals)`. **Shapes**: `[levels, ...]` -> `[...]`.

    >>> softmax_projection(torch.tensor([[0.0], [0.5]]), 2.0, (-1.0, 1.0)) == torch.tanh(torch.tensor([0.5]))
    tensor([True])
    """
    return weighted(levels, torch.softmax(beta * (duals - duals.detach().amax(0)), 0))  # never infinity minus infinity


def weighted(factors: Sequence[float], parts: Tensor) -> Tensor:
    """`sum over k of factors[k] * parts[k]`, elementwise (a product of matrices would be in bf16 on a GPU)."""
    value = factors[0] * parts[0]
    for factor, part in zip(factors[1:], parts[1:], strict=True):
        value = value + factor * part
    return value


def nearest(dual: Tensor, levels: Levels) -> Tensor:
    """The index of the level next to each element; of the upper one in the middle. **Shapes**: kept."""
    middles = dual.new_tensor([(low + high) / 2 for low, high in pairwise(levels)])
    return torch.bucketize(dual.contiguous(), middles, right=True)


def largest(duals: Tensor) -> Tensor:
    """The index of the largest dual; of the upper one where two are. **Shapes**: `[levels, ...]` -> `[...]`."""
    return len(duals) - 1 - duals.flip(0).argmax(0)


def even(states: int) -> Levels:
    """The integers nearest to 0, without 0 if their number is even.

    >>> even(2), even(3), even(4)
    ((-1.0, 1.0), (-1.0, 0.0, 1.0), (-2.0, -1.0, 1.0, 2.0))
    """
    half = states // 2
    return tuple(float(level) for level in range(-half, half + 1) if level or states % 2)


class Projected(Quantizer):
    """A weight as the projection of its dual on `levels`, times `scale` (the mean magnitude, if `scaled`, or 1).

    The latent is the dual, `[...]` as the weight, or `[levels, ...]` with a softmax.
    """

    scale: Tensor

    def __init__(self, weight: Tensor, levels: Levels, rule: Rule, betas: tuple[float, float], scaled: bool) -> None:
        super().__init__()
        self.levels, self.rule, self.betas, self.scaled = levels, rule, betas, scaled
        self.per_level = rule in ("md-softmax", "pmf")  # whether there is a dual for every level
        self.bits, self.dtype = (len(levels) - 1).bit_length(), weight.dtype
        scale = weight.double().abs().mean().float() if scaled else torch.ones((), device=weight.device)
        self.fp16 = bool(2 * SMALLEST <= scale < LARGEST)
        self.register_buffer("scale", scale.half().float() if self.fp16 else scale)

    @property
    def beta(self) -> Tensor:
        """How steep the projection is by now."""
        first, last = self.betas
        return first * (last / first) ** self.progress

    def latents(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The dual of a weight; that of a tensor of zeros, whose scale is 0, is 0."""
        dual = torch.where(self.scale > 0, weight / self.scale, torch.zeros_like(weight))
        return (torch.stack([level * dual - level**2 / 2 for level in self.levels]) if self.per_level else dual,)

    def to_weight(self, *latents: Tensor) -> Tensor:
        """The weight that a dual stands for; of a dual per level the one that is nearest to all of them."""
        (dual,) = latents
        if self.per_level:
            away = [level - sum(self.levels) / len(self.levels) for level in self.levels]
            offset = sum(a * level**2 / 2 for a, level in zip(away, self.levels, strict=True))
            dual = (weighted(away, dual) + offset) / sum(a * a for a in away)
        return dual * self.scale

    def forward(self, *latents: Tensor) -> Tensor:
        """`scale * P(dual)` in training, `scale *` a level otherwise."""
        (dual,) = latents
        value = (self.soft(dual) if self.training else self.rounded(dual)) * self.scale
        return value if self.dtype == torch.float32 else value.to(self.dtype).to(torch.float32)

    def soft(self, dual: Tensor) -> Tensor:
        """What training computes with, in units of the scale, with the gradient of the rule."""
        if self.rule == "proxquant":
            return dual
        if self.rule == "binaryconnect":
            return self.rounded(dual)
        project = softmax_projection if self.per_level else tanh_projection
        if self.rule in ("gd-tanh", "pmf"):
            return project(dual, self.beta, self.levels)
        return project_to(self._straight(dual), project(dual.detach(), self.beta, self.levels))

    def rounded(self, dual: Tensor) -> Tensor:
        """The level of every weight; gradients pass to the dual as they are."""
        return project_to(self._straight(dual), dual.new_tensor(self.levels)[self._index(dual.detach())])

    def freeze(self, *latents: Tensor) -> QTensor:
        """Positions among the levels; levels and scale as stored."""
        with torch.no_grad():
            codes = self._index(latents[0]).to("cpu", torch.int8)
        scale = self.scale.to("cpu", torch.float16 if self.fp16 else torch.float32) if self.scaled else None
        return QTensor(codes, Codebook(stored(self.levels), scale), self.dtype)

    def after_step(self, *latents: Tensor) -> None:
        """BinaryConnect keeps duals between the outermost levels; ProxQuant's proximal step."""
        (dual,) = latents
        if self.rule == "binaryconnect":
            dual.clamp_(self.levels[0], self.levels[-1])
        if self.rule == "proxquant":
            level = self.rounded(dual)
            away, pull = dual - level, self.beta * self.lr
            dual.copy_(level + away.sign() * (away.abs() - pull).clamp(min=0))

    def _index(self, dual: Tensor) -> Tensor:
        return largest(dual) if self.per_level else nearest(dual, self.levels)

    def _straight(self, dual: Tensor) -> Tensor:
        """What has the weight's shape and gives its gradient to the dual: g, or q_k g."""
        return weighted(self.levels, dual) if self.per_level else dual


def stored(levels: Levels) -> Tensor:
    """`levels` in the narrowest of int8, fp16 and fp32 that holds them exactly.

    >>> stored((-1.0, 1.0)).dtype, stored((-0.5, 0.5)).dtype, stored((0.1, 0.2)).dtype
    (torch.int8, torch.float16, torch.float32)
    """
    values = torch.tensor(levels)
    narrow = (values.to(kind) for kind in (torch.int8, torch.float16) if values.abs().max() <= 127)
    return next((each for each in narrow if torch.equal(each.float(), values)), values)
