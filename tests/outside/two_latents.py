"""A weight as the difference of two non-negative latents, on a uniform grid with a step that is set once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tersenet.core.grid import Uniform
from tersenet.core.model import QTensor
from tersenet.quantizers.quantizer import ParamGroup, Quantizer
from tersenet.training.method import Target, TrainedMethod


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, latent: Tensor, value: Tensor) -> Tensor:
        return value

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class Difference(Quantizer):
    step: Tensor

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        self.bits, self.dtype, self.most = bits, weight.dtype, 2 ** (bits - 1) - 1
        self.register_buffer("step", (weight.float().abs().max() / self.most).half().float())

    def latents(self, weight: Tensor) -> tuple[Tensor, ...]:
        return weight.clamp(min=0), (-weight).clamp(min=0)

    def to_weight(self, *latents: Tensor) -> Tensor:
        return latents[0] - latents[1]

    def codes(self, *latents: Tensor) -> Tensor:
        return (self.to_weight(*latents) / self.step).round().clamp(-self.most, self.most)

    def forward(self, *latents: Tensor) -> Tensor:
        value: Tensor = Straight.apply(self.to_weight(*latents), self.codes(*latents) * self.step)
        return value

    def freeze(self, *latents: Tensor) -> QTensor:
        with torch.no_grad():
            return QTensor(self.codes(*latents).to(torch.int8), Uniform(self.step.half()), self.dtype)

    def after_step(self, *latents: Tensor) -> None:
        for latent in latents:
            latent.clamp_(min=0)

    def param_groups(self, latents: tuple[Tensor, ...], lr: float, weight_decay: float) -> list[ParamGroup]:
        return [{"params": list(latents), "lr": lr / 2, "weight_decay": 0.0}]


@dataclass(frozen=True)
class TwoLatents(TrainedMethod):
    """The difference of two latents in `bits` bits."""

    QUICK: ClassVar[Mapping[str, Any]] = {"epochs": 2}

    bits: int = 4

    def quantizer(self, target: Target, weight: Tensor) -> Quantizer:
        return Difference(weight, self.bits)
