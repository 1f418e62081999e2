"""LSQ: a uniform grid whose step is learned with the weights. The baseline of quantization-aware training.

Forward: `w' = s * clamp(round(w / s), -2^(b-1), 2^(b-1) - 1)`; inputs `[0, 2^b - 1]`, signed where negative ones were
seen. Backward: the clipped straight-through estimator for w; for the step `round(v) - v` inside the range (v = w /
s), the nearest end outside, times `1 / sqrt(N * Qp)` (Esser et al. 2020). The step starts at `2 mean|w| / sqrt(Qp)`;
steps of inputs start at the least-squares ones. Steps are used in fp16, as they are stored. Batch norm is
re-estimated at the end.

Needs the network's code and training data.

Use it when training at 2 to 8 bits is wanted, inputs rounded or not: the method that others are compared with. Not
when there is no training data, or the width should be learned (`bsq`, `cpq`). It costs a training: three passes per
sample and epoch, four with `distill`; memory for one more copy of the weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..core.method import Job, Method
from ..network.kept import smallest_batch_norm
from ..training.levels import TrainedOnLevels


@dataclass(frozen=True)
class Lsq(TrainedOnLevels):
    """Learned step size quantization with `bits` bits (2 to 8; 32: full precision, the control)."""

    reference: ClassVar[str] = """@inproceedings{esser2020lsq,
  title = {Learned Step Size Quantization},
  author = {Esser, Steven K. and McKinstry, Jeffrey L. and Bablani, Deepika and Appuswamy, Rathinakumar and Modha,
  Dharmendra S.}, booktitle = {ICLR}, year = {2020}, eprint = {1902.08153}
}"""
    QUICK: ClassVar[Mapping[str, Any]] = {"act_bits": 4, "epochs": 1}

    @classmethod
    def auto_points(cls, job: Job) -> tuple[Method, ...]:
        """Three epochs at every width, towards the outputs of the original."""
        return (cls(bn=smallest_batch_norm(job.source), epochs=3, distill=0.7),)

    @property
    def levels_name(self) -> str:
        """Which levels of `quantizers.bases`."""
        return "uniform"
