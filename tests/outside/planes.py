"""Bit planes that are trained, and die where an epoch begins; the optimizer forgets when one does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tersenet.core.grid import Uniform
from tersenet.core.method import Job
from tersenet.core.model import QTensor
from tersenet.quantizers import attach
from tersenet.quantizers.quantizer import Quantizer
from tersenet.training.method import Target, TrainedMethod


class Planes(Quantizer):
    """`sign * step * sum over planes b of 2^b * round(plane_b)`; a dead plane counts as 0."""

    alive: Tensor
    step: Tensor
    sign: Tensor

    def __init__(self, weight: Tensor, bits: int, strength: float) -> None:
        super().__init__()
        self.count, self.strength, self.dtype = bits, strength, weight.dtype
        self.register_buffer("alive", torch.ones(bits))
        self.register_buffer("step", (weight.float().abs().max() / (2**bits - 1)).half().float())
        self.register_buffer("sign", weight.float().sign())

    @property
    def bits(self) -> float:  # type: ignore[override]
        return float(self.alive.sum()) + 1

    def latents(self, weight: Tensor) -> tuple[Tensor, ...]:
        whole = (weight.float().abs() / self.step).round().to(torch.int64)
        return tuple(((whole >> b) & 1).float() for b in range(self.count))

    def magnitudes(self, *planes: Tensor) -> Tensor:
        return sum(self.alive[b] * 2**b * plane for b, plane in enumerate(planes))  # type: ignore[return-value]

    def forward(self, *latents: Tensor) -> Tensor:
        soft = self.magnitudes(*latents)
        hard = self.magnitudes(*(plane.clamp(0, 1).round() for plane in latents))
        value = self.sign * self.step * hard
        return value if not self.training else value + self.sign * self.step * (soft - soft.detach())

    def freeze(self, *latents: Tensor) -> QTensor:
        with torch.no_grad():
            codes = self.sign * self.magnitudes(*(plane.clamp(0, 1).round() for plane in latents))
            return QTensor(codes.to(torch.int16), Uniform(self.step.half()), self.dtype)

    def penalty(self, *latents: Tensor) -> Tensor:
        return self.strength * sum(plane.square().sum().add(1e-12).sqrt() for plane in latents)  # type: ignore[return-value]

    def after_step(self, *latents: Tensor) -> None:
        for plane in latents:
            plane.clamp_(0, 2)


@dataclass(frozen=True)
class DyingPlanes(TrainedMethod):
    """Bit planes under a penalty; one dies per epoch in every weight."""

    QUICK: ClassVar[Mapping[str, Any]] = {"epochs": 3}

    bits: int = 6
    strength: float = 1e-3

    def quantizer(self, target: Target, weight: Tensor) -> Quantizer:
        return Planes(weight, self.bits, self.strength)

    def on_epoch(self, network: nn.Module, epoch: int, optimizer: torch.optim.Optimizer, job: Job) -> None:
        for _, quantizer, latents in attach.quantizers(network):
            assert isinstance(quantizer, Planes)
            if epoch:
                quantizer.alive[epoch - 1] = 0
                for latent in latents:
                    optimizer.state.pop(latent, None)
