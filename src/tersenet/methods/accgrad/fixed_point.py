"""Fixed point with a width for every weight: what accumulated-gradient quantization attaches."""

import torch
from torch import Tensor

from ...core.grid import FixedPoint, narrowest
from ...core.model import QTensor
from ...quantizers.project import project_to
from ...quantizers.quantizer import Quantizer

WIDEST = 16


class MixedFixedPoint(Quantizer):
    """`value = step * clamp(round(w / step), -2^(b-1), 2^(b-1) - 1)` with `step = 2^(i - b)`, b the width of the weight
    (0: the value is 0) and i = sign and integer bits of the tensor, `2^(i-1) >= max|w|` (i may be below 0). Halves go
    away from zero.

    `signal` is where the accumulated gradient of every weight is kept; `widths` (2 to 16, or 0) are changed by
    `give`. Gradients go through unchanged. With `pinned`, all weights keep that width.
    """

    signal: Tensor
    widths: Tensor
    integer: Tensor

    def __init__(self, weight: Tensor, pinned: int = 0) -> None:
        super().__init__()
        self.dtype, self.bits, self.pinned = weight.dtype, pinned or WIDEST, bool(pinned)
        self.register_buffer("signal", torch.zeros(weight.shape))
        self.register_buffer("widths", torch.full(weight.shape, self.bits, dtype=torch.int8))
        self.register_buffer("integer", torch.zeros(()))
        self.give(self.widths, weight)

    def give(self, widths: Tensor, latent: Tensor) -> None:
        """Set the width of every weight, and the range to that of the weights as they are."""
        with torch.no_grad():
            top = latent.detach().float().abs().max().clamp(min=2.0**-60)
            self.integer.copy_(1 + top.log2().ceil())
            self.widths.copy_(widths)

    def forward(self, latent: Tensor) -> Tensor:  # type: ignore[override]
        """The rounded weight, exact in its original dtype or rounded to it."""
        with torch.no_grad():
            codes, step = self._codes(latent)
            values = codes * step
            values = values if self.dtype == torch.float32 else values.to(self.dtype).float()
        return project_to(latent, values)

    def freeze(self, latent: Tensor) -> QTensor:  # type: ignore[override]
        """Codes in units of the finest step among weights that are not 0."""
        with torch.no_grad():
            codes, _ = self._codes(latent)
            kept = codes != 0
            finest = int(self.widths[kept].max()) if bool(kept.any()) else 0
            whole = (codes * torch.exp2((finest - self.widths).float()) * kept).to(torch.int32).cpu()
            return QTensor(narrowest(whole), FixedPoint(int(self.integer) - finest), self.dtype)

    def _codes(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        widths = self.widths.float()
        step = torch.exp2(self.integer - widths)
        scaled = latent.detach().float() / step
        codes = (scaled.abs() + 0.5).floor_().copysign_(scaled)
        half = torch.exp2(widths - 1)
        return torch.minimum(torch.maximum(codes, -half), half - 1) * (widths > 0), step
