"""Powers of two: every weight is zero or a power of two times a learned clip, so a product is one shift.

Levels: `alpha * {0, 2^0, 2^-1, .. 2^-(2^B - 2)}`, B = b - 1 bits of magnitude and a sign; inputs of layers B = b.
More bits only add levels near zero: on Gaussian weights the error stops falling at 4 bits. Everything else is as in
`apot`: normalised weights, learned clipping with RCF's gradients, per tensor or per channel.

Needs the network's code and training data.

Use it when products have to be shifts. Not when only the file counts: more bits add levels near zero alone, and
`apot` has better ones at the same width. It costs a training, as `lsq`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..core.method import Knob
from ..quantizers.activation import Range
from ..quantizers.bases import FirstClip
from ..quantizers.estimators import Estimator
from ..training.levels import TrainedOnLevels


@dataclass(frozen=True)
class Pot(TrainedOnLevels):
    """Powers of two with `bits` bits (2 to 5; 32: full precision)."""

    reference: ClassVar[str] = """@inproceedings{li2020apot,
  title = {Additive Powers-of-Two Quantization: An Efficient Non-uniform Discretization for Neural Networks},
  author = {Li, Yuhang and Dong, Xin and Wang, Wei},
  booktitle = {ICLR}, year = {2020}, eprint = {1909.13144}
}"""
    QUICK: ClassVar[Mapping[str, Any]] = {"act_bits": 4, "epochs": 1}

    estimator: Estimator = "ste"
    act_range: Range = "rcf"
    first_clip: FirstClip = "mse"
    """Where clips start: smallest squared error, or the paper's 3 deviations."""

    @property
    def first(self) -> FirstClip:
        """`first_clip`."""
        return self.first_clip

    @property
    def levels_name(self) -> str:
        """Which levels of `quantizers.bases`."""
        return "pot"

    @property
    def knob(self) -> Knob:
        """Bits; more than 5 add no levels that matter."""
        return Knob("bits", (5, 4, 3, 2))
