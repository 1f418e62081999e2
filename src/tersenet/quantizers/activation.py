"""The quantizer of a layer's input: what every one does, and levels times a scale, observed on data or learned."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core.activation import Activation
from ..core.levels import Levels
from .project import SMALLEST, project_clipped, some_of, stored_scale
from .quantizer import ParamGroup
from .weight import least_squares_clip

Range = Literal["lsq", "rcf", "pact", "minmax", "ema", "percentile", "mse"]
Sign = Literal["seen", "signed", "one-sided"]
LEARNED = ("lsq", "rcf", "pact")
SAMPLES = 1 << 13  # values kept per batch for percentile and mse
PERCENTILE, DECAY, CANDIDATES = 0.9999, 0.9, 80


class Observer:
    """What the inputs of a layer looked like: extremes, a moving average of them, and a sample of values.

    `sign`: levels have a sign where negative inputs are "seen", always ("signed"), or never ("one-sided": negative
    inputs count as 0).
    """

    def __init__(self, sign: Sign = "seen") -> None:
        self.sign = sign
        self.low = self.high = self.average = 0.0
        self.batches = self.features = 0
        self.samples: list[Tensor] = []

    def see(self, inputs: Tensor) -> None:
        """Take note of one batch."""
        if self.sign == "one-sided":
            inputs = inputs.clamp(min=0)
        low, high = float(inputs.min()), float(inputs.max())
        largest = max(-low, high)
        self.average = largest if self.batches == 0 else DECAY * self.average + (1 - DECAY) * largest
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.batches, self.features = self.batches + 1, inputs[0].numel()
        self.samples.append(some_of(inputs, SAMPLES).cpu())

    @property
    def signed(self) -> bool:
        """Whether levels have a sign."""
        return self.sign == "signed" or self.low < 0

    def clip(self, kind: Range, levels: Levels) -> float:
        """The magnitude that the highest level gets. Learned ranges start from the least-squares one."""
        largest = max(-self.low, self.high)
        values = torch.cat(self.samples)
        if kind == "minmax":
            magnitude = largest
        elif kind == "ema":
            magnitude = self.average
        elif kind == "percentile":
            magnitude = float(values.abs().sort().values[int(PERCENTILE * (values.numel() - 1))])
        else:
            top = torch.tensor([largest], dtype=torch.float64)
            magnitude = float(least_squares_clip(values.unsqueeze(0), levels, top, CANDIDATES))
        return magnitude if magnitude > 0 else 1.0


class InputRounder(nn.Module, ABC):
    """Rounds a layer's input: first it observes batches (`observer`), then `settle` chooses where to start, and from
    then on `rounded` replaces the input. `freeze()(inputs)` equals `rounded(inputs)` in evaluation mode, bit for bit.
    """

    def __init__(self, sign: Sign = "seen") -> None:
        super().__init__()
        self.observer: Observer | None = Observer(sign)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.observer is not None:
            self.observer.see(inputs)
            return inputs
        return self.rounded(inputs)

    @abstractmethod
    def settle(self) -> None:
        """Choose levels and scale from what was observed, and drop `observer`: from now on inputs are rounded."""

    @abstractmethod
    def rounded(self, inputs: Tensor) -> Tensor:
        """The rounded input, in fp32."""

    @abstractmethod
    def freeze(self) -> Activation:
        """The same rounding, as a fact."""

    def param_groups(self, lr: float, weight_decay: float) -> list[ParamGroup]:
        """Groups for a `torch.optim.Optimizer`, of the parameters that need a rate of their own."""
        return [{"params": list(self.parameters()), "lr": lr, "weight_decay": weight_decay}]

    def after_step(self) -> None:
        """Called when the optimizer has changed the parameters, to clamp them in place."""


class InputQuantizer(InputRounder):
    """Rounds a layer's input to `scale * nearest_level(x / scale)`; first observes, then (learned or fixed) rounds.

    Learned: "lsq" has the step as its parameter, with LSQ's gradient factor `1 / sqrt(features * highest level)`; "rcf"
    (APoT) and "pact" the clip. The scale is used as it is stored, in fp16 (fp32 where that would be too coarse).
    """

    def __init__(self, kind: Range, levels_for: Callable[[bool], Levels], sign: Sign = "seen") -> None:
        super().__init__(sign)
        self.kind, self.levels_for = kind, levels_for
        self.levels = levels_for(False)
        self.per = self.factor = 1.0
        self.fp16 = True
        self.lr_factor, self.decays = (2.5 if kind == "rcf" else 1.0), kind in ("rcf", "pact")
        self.scale = nn.Parameter(torch.ones(()), requires_grad=kind in LEARNED)

    def settle(self) -> None:
        """Levels with a sign if the observer says so; the scale as `kind` says."""
        assert self.observer is not None
        self.levels = self.levels_for(self.observer.signed)
        clip = self.observer.clip(self.kind, self.levels)
        if self.kind == "lsq":
            self.factor = 1 / (self.observer.features * self.levels.high) ** 0.5
            clip /= self.levels.high
        else:
            self.per = float(self.levels.high)
        self.scale.data.fill_(clip)
        self.fp16 = clip / self.per > 4 * SMALLEST  # else fp16 would keep it from falling
        self.observer = None

    def rounded(self, inputs: Tensor) -> Tensor:
        """`scale * nearest_level(x / scale)`."""
        return project_clipped(inputs.float(), self._stored(), self.levels, self.kind == "pact")

    def param_groups(self, lr: float, weight_decay: float) -> list[ParamGroup]:
        """The scale, with its own rate; clips decay, steps do not."""
        decay = weight_decay if self.decays else 0.0
        return [{"params": [self.scale], "lr": lr * self.lr_factor, "weight_decay": decay}]

    def freeze(self) -> Activation:
        """The same rounding, as a fact."""
        with torch.no_grad():
            return Activation(self.levels, float(self._stored()))

    def _stored(self) -> Tensor:
        return stored_scale(self.scale, self.per, self.factor, self.fp16)


def round_inputs(part: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """The forward pre-hook of a layer with an `InputRounder`."""
    quantizer = part.tersenet_input
    assert isinstance(quantizer, InputRounder)
    return (quantizer(given[0]), *given[1:])
