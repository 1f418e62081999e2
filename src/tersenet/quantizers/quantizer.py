"""The contract of a weight quantizer: what training attaches to one weight."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from ..core.model import QTensor

ParamGroup = dict[str, Any]  # of a `torch.optim.Optimizer`


class Quantizer(nn.Module, ABC):
    """A module attached to one weight with `torch.nn.utils.parametrize`.

    What is trained are its `latents`: the weight itself, or several tensors of any shapes (bit planes, duals, bases),
    which the other methods get one by one. `forward(*latents) -> value`; `freeze(*latents).dequantize()` equals
    `forward(*latents)` in evaluation mode, bit for bit. The shapes of latents, parameters and buffers never change in a
    training (precision falls by masks), so that it can be resumed.

    >>> from tersenet.core.grid import Uniform
    >>> class Halves(Quantizer):
    ...     def forward(self, weight):
    ...         return weight + ((weight * 2).round() / 2 - weight).detach()  # straight through
    ...     def freeze(self, weight):
    ...         return QTensor((weight * 2).round().to(torch.int8), Uniform(torch.tensor(0.5)))
    >>> Halves().freeze(torch.tensor([0.3, -1.1])).dequantize()
    tensor([ 0.5000, -1.0000])
    """

    progress: Tensor
    lr: Tensor
    bits: float  # the width of a code, or the mean of the widths as they are now
    shape: torch.Size  # of the weight, known once it is attached

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("progress", torch.zeros(()), persistent=False)
        self.register_buffer("lr", torch.zeros(()), persistent=False)

    @abstractmethod
    def forward(self, *latents: Tensor) -> Tensor:
        """The quantised weight, in the weight's shape."""

    @abstractmethod
    def freeze(self, *latents: Tensor) -> QTensor:
        """The same weight as codes on a grid."""

    def latents(self, weight: Tensor) -> tuple[Tensor, ...]:
        """What training starts from: the weight itself."""
        return (weight,)

    def to_weight(self, *latents: Tensor) -> Tensor:
        """The full-precision weight that the latents stand for: what a next stage, `start` and checkpoints begin with.

        By default the latent weight itself, or the quantised value where there are several latents.
        """
        return latents[0] if len(latents) == 1 else self(*latents)

    def right_inverse(self, weight: Tensor) -> Tensor | tuple[Tensor, ...]:
        """`latents`, as torch's parametrizations ask for them."""
        self.shape, found = weight.shape, self.latents(weight)
        return found[0] if len(found) == 1 else found

    def penalty(self, *latents: Tensor) -> Tensor:
        """What the training loss gets on top (a scalar)."""
        return latents[0].new_zeros(())

    def anneal(self, progress: float, lr: float) -> None:
        """Tell how much of the training is done, from 0 to 1, and the learning rate."""
        self.progress.fill_(progress)
        self.lr.fill_(lr)

    def after_step(self, *latents: Tensor) -> None:
        """Called when the optimizer has changed the latents, to clamp or project them in place."""

    def param_groups(self, latents: tuple[Tensor, ...], lr: float, weight_decay: float) -> list[ParamGroup]:
        """Groups for a `torch.optim.Optimizer`: of the quantizer's own parameters, and of those latents that need a
        rate of their own (the others learn as the weights of the network do)."""
        return [{"params": list(self.parameters()), "lr": lr, "weight_decay": weight_decay}]
