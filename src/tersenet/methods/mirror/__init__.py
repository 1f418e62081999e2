"""Mirror descent: weights on two, three or any levels, as projections of duals that are trained.

Forward in training: `w = s P(w~)`, P a projection that grows steep with beta (levels q_1 < .. < q_d, middles m_k):

* tanh: `P(w~) = (q_1 + q_d) / 2 + sum over k of (q_(k+1) - q_k) / 2 * tanh(beta (w~ - m_k))`; `tanh(beta w~)` for
  -1 and 1;
* softmax: a dual per level, `P(u~) = sum over k of q_k p_k` with `p = softmax(beta u~)`.

Backward, by `rule`: "md-tanh" and "md-softmax" give the gradient of P to the dual as it is (`dL/du~_k = q_k dL/dP`),
which is mirror descent with the mirror map whose gradient is the inverse of P; "gd-tanh" and "pmf" are the same two
with the derivative of P. "binaryconnect" is the limit of a steep P: the nearest level, with the duals kept between the
outermost levels. "proxquant" trains the values themselves and pulls them towards their levels after every step, by
`beta * learning rate`. In evaluation mode, and in the file, w is s times the level next to the dual (or that of the
largest dual). beta rises with the steps from `beta` to `final_beta`, in a geometric series.

s is the mean magnitude of the weights at the start, kept in the file; duals start at `w / s` (softmax: `q_k w / s -
q_k^2 / 2`). With `paper` everything is as in Ajanthan et al. 2021: weights start at random, s is 1, every parameter is
on the levels, and norms neither scale nor shift. Such a network should end in a batch norm: its outputs are large.

Departures: beta grows in every step (the authors: every 100 to 2000), the learning rate falls along a cosine, and the
weights at the end are taken, not those of the best validation accuracy. With two levels and steps that do not depend on
the size of a gradient (Adam's), md-softmax is md-tanh. Inputs of layers stay as they are.

Needs the network's code and training data.

Use it when two or three levels a weight are wanted, with a training that goes from smooth to hard. Not when inputs
have to be rounded too (they stay as they are), or there is time for few steps only: the rules could not be told apart
on LeNet-5. It costs a training; "md-softmax" and "pmf" hold one dual per level and weight.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ...core.fields import Within, check_widths
from ...core.levels import Integers
from ...core.method import Job, Knob, Method
from ...core.model import TensorSpec
from ...errors import UsageError
from ...network.kept import left_out, smallest_batch_norm
from ...network.layers import BATCH_NORMS, Layer, recurrent_weights
from ...quantizers.bases import eight_bits, learned_step
from ...quantizers.project import clipped
from ...quantizers.quantizer import Quantizer
from ...training.method import Target, TrainedMethod
from ...training.randomness import seeded
from .projected import Levels, Projected, Rule, even

NORMS = (
    *(*BATCH_NORMS, nn.SyncBatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)


@dataclass(frozen=True)
class Mirror(TrainedMethod):
    """Weights on `levels`, in units of their mean magnitude, or on `states` even ones: 2 is binary, 3 ternary."""

    reference: ClassVar[str] = """@inproceedings{ajanthan2021mirror,
  title = {Mirror Descent View for Neural Network Quantization},
  author = {Ajanthan, Thalaiyasingam and Gupta, Kartik and Torr, Philip H. S. and Hartley, Richard and Dokania,
  Puneet K.}, booktitle = {AISTATS}, year = {2021}, eprint = {1910.08237}
}"""
    QUICK: ClassVar[Mapping[str, Any]] = {"states": 3, "epochs": 2, "lr": 0.01}

    rule: Rule = "md-tanh"
    """Mirror descent with a tanh or a softmax, or one of four relatives."""
    states: Annotated[int, Within(2, 16)] = 2
    """How many even levels: 2 are -1 and 1; 3 are -1, 0 and 1; 4 are -2, -1, 1 and 2."""
    levels: tuple[Annotated[float, Within(-(2**15), 2**15)], ...] = ()
    """Other levels, in increasing order: -1,0,1."""
    beta: Annotated[float, Within(1e-6, 1e30)] = 1.0
    """How steep the projection is at the start."""
    final_beta: Annotated[float, Within(1e3, 1e30)] = 1e4
    """How steep it is at the end; the share of weights that are still between levels falls about as 1 over it."""
    paper: bool = False
    """As in the paper: random start, no scales, every parameter, norms without scale and shift."""
    first_last: Literal["8", "keep", "same"] = "8"
    """First and last layer: 8-bit weights, kept, or the same as the others (as always with paper)."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: Annotated[float, Within(above=0, most=1e6)] = 0.001
    weight_decay: Annotated[float, Within(least=0)] = 0.0

    def check(self) -> None:
        """Levels that rise, a beta that does not fall, widths that there are."""
        rising = all(low < high for low, high in pairwise(torch.tensor(self.levels).tolist()))  # in fp32
        if self.levels and not (2 <= len(self.levels) <= 127 and rising):
            raise UsageError(f"levels={self.levels}: expected 2 to 127 numbers in increasing order, such as (-1, 0, 1)")
        if self.beta > self.final_beta:
            raise UsageError(f"beta={self.beta} is above final_beta={self.final_beta}: the projection grows steep")
        if self.paper and self.rule == "binaryconnect" and 0 in self.chosen:
            raise UsageError(
                "paper=True with rule='binaryconnect' would start every weight on the level 0, where no "
                "gradient gets through: give levels without 0, or another rule"
            )
        check_widths(self.layer_bits, 1, 8)

    @property
    def chosen(self) -> Levels:
        """`levels`, or the even ones."""
        return self.levels or even(self.states)

    @property
    def knob(self) -> Knob:
        """How many levels; there is nothing to turn where they are given."""
        return Knob("states", (self.states,) if self.levels else (8, 7, 5, 4, 3, 2))

    @property
    def untrained(self) -> Method:
        """The same without training."""
        return replace(self, epochs=0)

    @classmethod
    def auto_points(cls, job: Job) -> tuple[Method, ...]:
        """Three epochs at every number of levels, towards the outputs of the original."""
        return (cls(bn=smallest_batch_norm(job.source), epochs=3, distill=0.7),)

    def on_start(self, network: nn.Module) -> None:
        """With `paper`: norms that neither scale nor shift, and random weights."""
        if not self.paper:
            return
        for part in network.modules():
            if isinstance(part, NORMS):
                for name, parameter in part.named_parameters(recurse=False):
                    nn.init.constant_(parameter, 1.0 if name == "weight" else 0.0)
                    parameter.requires_grad_(False)
        recurrent = recurrent_weights(network)
        with seeded(self.seed):
            for name, parameter in network.named_parameters():
                if self._takes(name, parameter) and name not in recurrent:
                    nn.init.xavier_normal_(parameter) if parameter.dim() > 1 else nn.init.normal_(parameter, std=0.1)

    def targets(self, network: nn.Module, specs: Mapping[str, TensorSpec], layers: Sequence[Layer]) -> list[str]:
        """With `paper` every parameter that is trained."""
        if not self.paper:
            return TrainedMethod.targets(self, network, specs, layers)
        parameters = dict(network.named_parameters(remove_duplicate=False))
        return [name for name in specs if name in parameters and self._takes(name, parameters[name])]

    def quantizer(self, target: Target, weight: Tensor) -> Quantizer | None:
        """The levels, or a learned step where `layer_bits` or `first_last` say how many bits (1 bit: -1 and 1)."""
        end = target.first_or_last and not self.paper and self.first_last != "same"
        given = self.bits_of(target.name, 0)
        if end and self.first_last == "keep" and not given:
            return None
        bits = given or (8 if end else 0)
        if bits == 8:
            return eight_bits(weight, None)
        if bits > 1:
            half = 2 ** (bits - 1)
            return learned_step(weight, Integers(-half, half - 1), clipped, None, target.normed, "none", "mse")
        levels = even(2) if bits == 1 else self.chosen
        return Projected(weight, levels, self.rule, (self.beta, self.final_beta), scaled=not self.paper)

    def _takes(self, name: str, parameter: Tensor) -> bool:
        return parameter.requires_grad and parameter.is_floating_point() and left_out(name, self) is None
