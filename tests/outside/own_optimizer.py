"""An optimizer of its own, and two phases: the scale learns with the weights, then only the weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tersenet.core.levels import Integers
from tersenet.core.method import Job
from tersenet.quantizers import attach
from tersenet.quantizers.bases import learned_step
from tersenet.quantizers.estimators import clipped
from tersenet.quantizers.quantizer import Quantizer
from tersenet.training.loop import Schedule
from tersenet.training.method import Target, TrainedMethod
from tersenet.training.phases import Phase


class SignDescent(torch.optim.Optimizer):
    """Every weight moves by a tenth of the rate, against the sign of the mean of its gradients so far."""

    def __init__(self, groups: list[dict[str, object]], lr: float) -> None:
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                    mean.lerp_(parameter.grad, 0.1)
                    parameter.sub_(mean.sign(), alpha=group["lr"] / 10)


@dataclass(frozen=True)
class Signed(TrainedMethod):
    """Learned steps by signs of gradients, `epochs` with the scale and `more` without."""

    QUICK: ClassVar[Mapping[str, Any]] = {"epochs": 1, "more": 2}

    bits: int = 4
    more: int = 1

    def phases(self) -> tuple[Phase, ...]:
        return Phase(self, self.epochs, self.lr), Phase(self, self.more, self.lr / 2, attach=False)

    def quantizer(self, target: Target, weight: Tensor) -> Quantizer:
        half = 2 ** (self.bits - 1)
        return learned_step(weight, Integers(-half, half - 1), clipped, None, False, "none", "mse")

    def make_optimizer(self, network: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
        return SignDescent(attach.param_groups(network, schedule.lr, 0.0), schedule.lr)

    def on_phase(self, network: nn.Module, phase: int, job: Job) -> None:
        for found in attach.quantizers(network):
            found.quantizer.requires_grad_(phase == 0)
