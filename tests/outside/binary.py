"""Every parameter, biases and norms too, as plus or minus its mean magnitude, by a tanh that grows steep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tersenet.core.grid import Uniform
from tersenet.core.model import QTensor, TensorSpec
from tersenet.network.layers import Layer
from tersenet.quantizers.quantizer import Quantizer
from tersenet.training.method import Target, TrainedMethod


class Tanh(Quantizer):
    """`size * tanh(beta * dual)` in training, `size * sign(dual)` at the end; the dual has a shape of its own."""

    size: Tensor
    beta: Tensor

    def __init__(self, weight: Tensor, steepest: float) -> None:
        super().__init__()
        self.bits, self.dtype, self.steepest = 1, weight.dtype, steepest
        self.register_buffer("size", weight.float().abs().mean().clamp(min=2**-10).half().float())
        self.register_buffer("beta", torch.ones(()), persistent=False)

    def latents(self, weight: Tensor) -> tuple[Tensor, ...]:
        return ((weight / self.size).reshape(-1),)

    def to_weight(self, *latents: Tensor) -> Tensor:
        return (latents[0] * self.size).reshape(self.shape)

    def signs(self, dual: Tensor) -> Tensor:
        return torch.where(dual < 0, -1.0, 1.0)

    def forward(self, *latents: Tensor) -> Tensor:
        (dual,) = latents
        soft = torch.tanh(self.beta * dual) if self.training else self.signs(dual)
        return (self.size * soft).reshape(self.shape)

    def freeze(self, *latents: Tensor) -> QTensor:
        with torch.no_grad():
            codes = (self.signs(latents[0]) > 0).to(torch.int8).reshape(self.shape)
            half = self.size.half()
            return QTensor(codes, Uniform(half * 2, offset=-half), self.dtype)

    def anneal(self, progress: float, lr: float) -> None:
        self.beta.fill_(self.steepest**progress)


@dataclass(frozen=True)
class Binary(TrainedMethod):
    """Signs of every parameter; `steepest` is the last slope of the tanh."""

    QUICK: ClassVar[Mapping[str, Any]] = {"epochs": 4, "lr": 0.05, "steepest": 100.0}

    steepest: float = 1000.0

    def targets(self, network: nn.Module, specs: Mapping[str, TensorSpec], layers: Sequence[Layer]) -> list[str]:
        return [name for name, _ in network.named_parameters() if name in specs]

    def quantizer(self, target: Target, weight: Tensor) -> Quantizer:
        return Tanh(weight, self.steepest)
