"""What a layer's input is rounded to, as a fact that a file can hold and a module can carry."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .levels import Levels

_HOOK = "_tersenet_input"


@dataclass(frozen=True)
class Activation:
    """Inputs are rounded to `scale * levels.nearest(input / scale)`, in fp32; `scale` is an fp32 number.

    >>> from tersenet.core.levels import Integers
    >>> Activation(Integers(0, 15), 0.5)(torch.tensor([0.7, 99.0]))
    tensor([0.5000, 7.5000])
    """

    levels: Levels
    scale: float

    def __call__(self, inputs: Tensor) -> Tensor:
        scale = torch.tensor(self.scale, dtype=torch.float32, device=inputs.device)
        return self.levels.nearest(inputs.float() / scale).mul_(scale).to(inputs.dtype)


@dataclass(frozen=True)
class _Hook:
    """A forward pre-hook, as an object so that modules that carry it can be copied and pickled."""

    activation: Activation

    def __call__(self, part: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.activation(given[0]), *given[1:])


def round_input(part: nn.Module, activation: Activation | None) -> None:
    """Make `part` round its first input by `activation` instead of by that of an earlier call; None ends it."""
    handle = part.__dict__.pop(_HOOK, None)
    if handle is not None:
        handle.remove()
    if activation is not None:
        part.__dict__[_HOOK] = part.register_forward_pre_hook(_Hook(activation))
