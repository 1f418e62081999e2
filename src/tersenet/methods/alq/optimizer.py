"""ALQ's optimizer: AMSGrad's moments as a local model of the loss, which bases and coordinates bring down.

With moments m, v and the largest v so far, `g = lr m / (1 - 0.9^t)`, `H = (sqrt(vmax) + 1e-8) / sqrt(1 - 0.999^t)`, the
model around the present value is `f(w) = g'(w - value) + 1/2 (w - value)' diag(H) (w - value)`, which is
`1/2 sum of H (w - target)^2` with `target = value - g / H`, and a constant.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ...quantizers.quantizer import ParamGroup
from .pruning import Criterion, Pool, prune
from .sums import SumOfBases

BETAS, EPSILON = (0.9, 0.999), 1e-8
Step = Literal["basis", "latent", "coordinate", "prune"]
Named = dict[Tensor, tuple[str, SumOfBases]]  # latents, with the names and quantizers of their tensors


@dataclass(frozen=True)
class Pruning:
    """From `start` bits to `goal` in `steps` steps, by the same factor in each."""

    start: float
    goal: float
    steps: int
    criterion: Criterion = "loss"

    def at(self, step: int) -> float:
        """Bits after a step, from 1 on."""
        return self.goal if step >= self.steps else self.start * (self.goal / self.start) ** (step / self.steps)


class LossAware(torch.optim.Optimizer):
    """Steps of one kind until `begin` says otherwise:

    * "basis": every weight takes the signs nearest to its target, then coordinates are solved for. "latent": the same,
      but the target is a full-precision weight that moves by `-g / H` (kept in the state; a straight-through step).
    * "coordinate": AMSGrad on the coordinates, whose gradient is `B' g`; moments start from those of the weights.
    * "prune": moments of coordinates go on, and bases are taken away.

    Parameters that are no sums of bases make AMSGrad's step `-g / H`, and decay by `lr * weight_decay`.
    """

    def __init__(self, groups: Iterable[ParamGroup], lr: float, sums: Named, seed: int = 0) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "kind": "basis", "pruned": 0, "pruning": None})
        self.sums, self.seed = sums, seed

    def begin(self, kind: Step, pruning: Pruning | None = None) -> None:
        """The kind of steps from now on; how to prune, where that is what they do."""
        for group in self.param_groups:
            group["kind"], group["pruned"] = kind, 0
            group["pruning"] = None if pruning is None else [*vars(pruning).values()]

    def idle(self) -> list[str]:
        """Tensors that get bases taken away and that no gradient has reached yet."""
        return [name for w, (name, q) in self.sums.items() if not q.pinned and not _reached(self.state[w])]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step with the gradients that parameters have."""
        pools: list[Pool] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    if parameter not in self.sums or group["kind"] in ("basis", "latent"):
                        continue
                    parameter.grad = torch.zeros_like(parameter)
                if parameter not in self.sums:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    gradient, curvature = self._model(parameter, parameter.grad, group["lr"])
                    parameter.sub_(gradient / curvature)
                    continue
                name, quantizer = self.sums[parameter]
                if group["kind"] in ("basis", "latent"):
                    self._move(parameter, quantizer, group)
                else:
                    pools.append(self._coordinates(parameter, name, quantizer, group))
                parameter.copy_(quantizer.value())
        if self.param_groups[0]["pruning"] is not None:
            self._prune(pools)

    def _move(self, parameter: Tensor, quantizer: SumOfBases, group: dict[str, Any]) -> None:
        """The basis step and the speed-up."""
        assert parameter.grad is not None
        gradient, curvature = self._model(parameter, parameter.grad, group["lr"])
        target = parameter - gradient / curvature
        if group["kind"] == "latent":
            state = self.state[parameter]
            target = state["latent"] = state.get("latent", parameter) - gradient / curvature
        quantizer.move(quantizer.grouped(target), quantizer.grouped(curvature))

    def _coordinates(self, parameter: Tensor, name: str, quantizer: SumOfBases, group: dict[str, Any]) -> Pool:
        """The coordinate step, unless bases are pruned; what each basis is worth."""
        assert parameter.grad is not None
        state, by_basis = self.state[parameter], quantizer.across(quantizer.grouped(parameter.grad))
        if "by basis" not in state:
            of_weights = {key: quantizer.grouped(state[key]) for key in ("mean", "square", "peak") if key in state}
            moments = {key: value.sum(1, keepdim=True) * quantizer.alive for key, value in of_weights.items()}
            if of_weights:
                moments["mean"] = quantizer.across(of_weights["mean"])
            state["by basis"] = {**moments, "t": state.get("t", 0)}
        gradient, curvature = _model(state["by basis"], by_basis, group["lr"])
        if group["kind"] == "coordinate":
            turned = quantizer.shift(-gradient / curvature)
            state["by basis"]["mean"].mul_(torch.where(turned, -1.0, 1.0))
        return Pool(name, parameter, quantizer, gradient, curvature, bool(state["by basis"]["peak"].any()))

    def _prune(self, pools: list[Pool]) -> None:
        first = self.param_groups[0]
        pruning = Pruning(*first["pruning"])
        for group in self.param_groups:
            group["pruned"] += 1
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + first["pruned"])
        prune(pools, pruning.at(first["pruned"]), pruning.criterion, pruning.at(first["pruned"] - 1), draw)
        if first["pruned"] >= pruning.steps:
            prune(pools, pruning.goal, pruning.criterion)
        for pool in pools:
            pool.parameter.copy_(pool.quantizer.value())

    def _model(self, parameter: Tensor, gradient: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        return _model(self.state[parameter], gradient, lr)


def _reached(state: dict[str, Any]) -> bool:
    """Whether a gradient was other than 0, of the weights or of their coordinates."""
    return any("peak" in moments and bool(moments["peak"].any()) for moments in (state, state.get("by basis", {})))


def _model(state: dict[str, Any], gradient: Tensor, lr: float) -> tuple[Tensor, Tensor]:
    """Refresh the moments; the gradient g and the diagonal H of the local model."""
    if "mean" not in state:
        state |= {key: torch.zeros_like(gradient) for key in ("mean", "square", "peak")}
    state["t"] = state.get("t", 0) + 1
    state["mean"].lerp_(gradient, 1 - BETAS[0])
    state["square"].mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    torch.maximum(state["peak"], state["square"], out=state["peak"])
    slope = lr / (1 - BETAS[0] ** state["t"]) * state["mean"]
    curvature = (state["peak"].sqrt() + EPSILON) / (1 - BETAS[1] ** state["t"]) ** 0.5
    return slope, curvature
