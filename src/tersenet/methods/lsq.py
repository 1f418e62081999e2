"""LSQ: a uniform grid whose step is learned with the weights. The baseline of quantization-aware training.

Forward: `w' = s * clamp(round(w / s), -2^(b-1), 2^(b-1) - 1)`; inputs `[0, 2^b - 1]`, signed where negative ones were
seen. Backward: the clipped straight-through estimator for w; for the step `round(v) - v` inside the range (v = w /
s), the nearest end outside, times `1 / sqrt(N * Qp)` (Esser et al. 2020). The step starts at `2 mean|w| / sqrt(Qp)`;
steps of inputs start at the least-squares ones. Steps are used in fp16, as they are stored. Batch norm is
re-estimated at the end.

Needs the network's code and training data.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..core.levels import Integers, Levels
from ..errors import UsageError
from ..quantizers.quantizer import Quantizer
from ..quantizers.weight import LearnedScale, over_units
from ..steps.train import TrainedMethod


def signed_levels(bits: int) -> Integers:
    """Two's complement of 2 to 8 bits. **Raises** `UsageError`."""
    if not 2 <= bits <= 8:
        raise UsageError(f"bits is {bits}; lsq has 2 to 8, or 32 for full precision")
    return Integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def first_step(weight: Tensor, high: int, axis: int | None) -> Tensor:
    """`2 mean|w| / sqrt(high)` per unit. **Shapes**: `[channels]`, or `[1]`."""
    mean: Tensor = over_units(weight.float(), axis).abs().mean(1)
    return 2 * mean / math.sqrt(high)


@dataclass(frozen=True)
class Lsq(TrainedMethod):
    """Learned step size quantization with `bits` bits (2 to 8; 32: full precision, the control)."""

    reference: ClassVar[str] = """@inproceedings{esser2020lsq,
  title = {Learned Step Size Quantization},
  author = {Esser, Steven K. and McKinstry, Jeffrey L. and Bablani, Deepika and Appuswamy, Rathinakumar and Modha,
  Dharmendra S.}, booktitle = {ICLR}, year = {2020}, eprint = {1902.08153}
}"""

    def levels(self, bits: int) -> Levels:
        """Two's complement."""
        return signed_levels(bits)

    def input_levels(self, bits: int, signed: bool) -> Levels:
        """`[0, 2^bits - 1]`, or two's complement."""
        plain = signed_levels(bits)
        return plain if signed else Integers(0, plain.high - plain.low)

    def quantizer(self, weight: Tensor, levels: Levels, axis: int | None, normed: bool) -> Quantizer:
        """A learned step per tensor or channel."""
        rows = over_units(weight, axis)
        return LearnedScale(
            weight, levels, self.rule,
            axis=axis, normalise="no", parameter=first_step(weight, levels.high, axis).clamp(min=1e-12), per=1.0,
            gradient_factor=1 / (rows.shape[1] * levels.high) ** 0.5, remedy=self.remedy,
        )  # fmt: skip
