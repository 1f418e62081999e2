"""Powers of two: every weight is zero or a power of two times a learned clip, so a product is one shift.

Levels: `alpha * {0, 2^0, 2^-1, .. 2^-(2^B - 2)}`, B = b - 1 bits of magnitude and a sign; inputs of layers B = b.
More bits only add levels near zero: on Gaussian weights the error stops falling at 4 bits. Everything else is as in
`apot`: normalised weights, learned clipping with RCF's gradients, per tensor or per channel.

Needs the network's code and training data.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ..core.levels import Levels
from ..quantizers.activation import Range
from ..quantizers.clip import learned_clip
from ..quantizers.powers import check_bits, power_magnitudes, with_signs, without_signs
from ..quantizers.quantizer import Quantizer
from ..steps.train import TrainedMethod


@dataclass(frozen=True)
class Pot(TrainedMethod):
    """Powers of two with `bits` bits (2 to 5; 32: full precision)."""

    reference: ClassVar[str] = """@inproceedings{li2020apot,
  title = {Additive Powers-of-Two Quantization: An Efficient Non-uniform Discretization for Neural Networks},
  author = {Li, Yuhang and Dong, Xin and Wang, Wei},
  booktitle = {ICLR}, year = {2020}, eprint = {1909.13144}
}"""

    estimator: str = "ste"
    range: Range = "rcf"
    first_clip: Literal["mse", "paper"] = "mse"

    def levels(self, bits: int) -> Levels:
        """Powers of two with a sign."""
        check_bits("pot", bits, 2, 5)
        return with_signs(power_magnitudes(bits - 1))

    def input_levels(self, bits: int, signed: bool) -> Levels:
        """Powers of two, with a sign if there were negative inputs."""
        check_bits("pot", bits, 2, 5 if signed else 4)
        return with_signs(power_magnitudes(bits - 1)) if signed else without_signs(power_magnitudes(bits))

    def quantizer(self, weight: Tensor, levels: Levels, axis: int | None, normed: bool) -> Quantizer:
        """A learned clip per tensor or channel, on normalised weights."""
        return learned_clip(weight, levels, self.rule, axis, normed, self.first_clip, self.remedy)
