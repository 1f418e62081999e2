"""Additive powers of two: every weight is a sum of a few powers of two, with a learned clip.

Levels: `alpha * gamma * {sum of one member of every set}`, sets `{0, 2^-i, 2^-(i+n), 2^-(i+2n)}`, gamma makes the
largest 1; b-bit weights have b - 1 bits of magnitude and a sign, inputs of layers b bits. Forward: weights minus mean
over deviation, clipped at alpha, to the nearest level; where no batch norm follows, deviation and mean are put back.
Backward (RCF): for alpha `sign(w~)` outside the range and `Q(w~/alpha) - w~/alpha` inside; for w by `estimator`, "ste"
being the authors' calibrated variant. Clips learn at half the rate of the weights, those of inputs at 2.5 times it
(Li et al. 2020).

Departures: clips start where the squared error is smallest (`first_clip` "paper": at 3 deviations, the authors' choice
for long trainings), inputs likewise; statistics of weights get no gradient, as in the authors' CIFAR code; the first
and last layer's 8-bit step starts at the largest magnitude. Of the quantization-error-aware gradient (Tesfai et al.
2023, `estimator="qea"` and `"qea-project"`) the published formula was not available to us: both are readings.

Needs the network's code and training data.

Use it when weights at 4 bits or fewer may lie unevenly: they are bell-shaped, and levels are denser near zero. Not
when bytes at 3 or 4 bits count: on ResNet-20 `lsq` at the same width gave the smaller file and about the same
accuracy. It costs a training, as `lsq`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..quantizers.activation import Range
from ..quantizers.bases import FirstClip
from ..quantizers.estimators import Estimator
from ..training.levels import TrainedOnLevels


@dataclass(frozen=True)
class Apot(TrainedOnLevels):
    """Additive powers of two with `bits` bits (2 to 8; 32: full precision)."""

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
        return "apot"
