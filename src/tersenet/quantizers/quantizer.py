"""The contract of a weight quantizer: what training attaches to one weight."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ..core.model import QTensor


class Quantizer(nn.Module, ABC):
    """A module attached to one weight with `torch.nn.utils.parametrize`.

    `forward(latent) -> value`; `freeze(latent).dequantize()` equals `forward(latent)` in evaluation mode, bit for bit.
    """

    progress: Tensor
    rate: Tensor
    bits: int  # the width of a code

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("progress", torch.zeros(()), persistent=False)
        self.register_buffer("rate", torch.zeros(()), persistent=False)

    @abstractmethod
    def forward(self, latent: Tensor) -> Tensor:
        """The quantised weight. **Shapes**: any, kept."""

    @abstractmethod
    def freeze(self, latent: Tensor) -> QTensor:
        """The same weight as codes on a grid."""

    def right_inverse(self, value: Tensor) -> Tensor:
        """The latent weight that training starts from: the weight itself."""
        return value

    def penalty(self, latent: Tensor) -> Tensor:
        """What the training loss gets on top (a scalar)."""
        return latent.new_zeros(())

    def anneal(self, progress: float, rate: float) -> None:
        """Tell how much of the training is done, from 0 to 1, and the learning rate."""
        self.progress.fill_(progress)
        self.rate.fill_(rate)
