"""CPQ: levels from a categorical distribution whose multi-class gradient gathers weights around them; DropBits.

Codes k of b bits, `-2^(b-1)` to `2^(b-1) - 1`, mean `k step`. Logistic noise of scale sigma around a weight w falls
into the cell of k with the probability `pi_k = S((k step + step/2 - w) / sigma) - S((k step - step/2 - w) / sigma)`, S
the sigmoid, and `r_k = pi_k / sum_j pi_j`. Forward: the mode: the nearest level, clipped. Backward (multi-class
STE): with k the mode, `dL/dr_k = dL/dw' k step`, 0 for every other level, and r_k by its formula: gradients reach w,
step and sigma, which learn per tensor. The gradient of w is 0 in the middle of a cell, grows towards its edges and
changes its sign in between; in the cell of 0 it is exactly 0, so that weights there move by momentum, weight decay and
the step only. `jacobian="full"` propagates through all r_k instead, which is nearly the ordinary STE. Levels are never
held in memory: sums over them telescope (Lee et al. 2021).

`dropbits`: nested codes S_1, .. S_b; one gate Z_j per step from j to j + 1 bits, hard concrete (tau 2/3, from -0.1 to
1.1), drawn once per tensor and minibatch; the codes that bit k + 1 adds have the mask `M_k = Z_1 .. Z_k`. The mode is
that of `r_k = M(k) pi_k / sum_j M(j) pi_j` with masks as they are, not made binary: among the nearest codes of every
ring, the one with the largest `M pi`. All masks are 1 at test time. `heterogeneous` learns the gates under `penalty
sum over tensors of (share of all weights) sum over k of product over j <= k of P(Z_j > 0)`, the expected bits above the
first per weight; at the end a tensor has one bit more than gates are open without noise, up to the first that is not.
`refine` epochs train on without masks at these widths. They are in the file's provenance and in `layer_bits.json` of
the run folder: `layer_bits` with that file, without `heterogeneous`, is the control.

Inputs of layers have the same parametrisation, codes from 0 (signed where negative inputs were seen), no masks. Their
step and sigma learn by the multi-class STE, but by default their gradient goes through unchanged inside the range
(`act_jacobian="straight"`): the mode's alone is 0 in the cell of 0, changes its sign in every other and averages to 0
over each, so that layers before learn little. "winner" is that of weights, "full" slow.

The paper has no public code, and its equations were not available to us beyond summaries. Ours are: the normaliser, the
layout of the masks, the weight of the penalty, the gradient of inputs, optimizer and rates. Step and sigma are
logarithms (sigma at least step / 20), start at the least-squares step and a third of it, and learn at a tenth of the
rate, gates at ten times; gradients of step and sigma are scaled as LSQ scales that of its step, and gradients are
clipped. With `first_last="8"` the first and last weight are trained by LSQ, because the mode's gradient grows with its
code. Steps are used in fp16, as they are stored; batch norm is re-estimated at the end.

Needs the network's code and training data.

Use it when levels and gradients should come from one probabilistic model, or widths should be learned by dropping
bits. Not when a plain baseline will do: `lsq` is simpler, and gradients of weights vanish in the middle of a cell. It
costs a training that is slower than `lsq`'s by the sums over levels; `jacobian="full"` is slower still.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor, nn

from ...core.fields import Within, check_widths
from ...core.method import Job, Knob, Method
from ...errors import UsageError
from ...quantizers import attach
from ...quantizers.activation import InputRounder, Sign
from ...quantizers.bases import eight_bits
from ...quantizers.quantizer import Quantizer
from ...training.method import Target, TrainedMethod
from ...training.phases import Phase
from .quantizers import CategoricalInput, CategoricalWeight

_log = logging.getLogger("tersenet")
FULL = 32  # bits from which on nothing is quantised
MOST = 8


@dataclass(frozen=True)
class Cpq(TrainedMethod):
    """Cluster-promoting quantization with `bits` bits (1 to 8; 32: full precision), or at most that many."""

    reference: ClassVar[str] = """@inproceedings{lee2021cpq,
  title = {Cluster-Promoting Quantization with Bit-Drop for Minimizing Network Quantization Loss},
  author = {Lee, Jung Hyun and Yun, Jihun and Hwang, Sung Ju and Yang, Eunho},
  booktitle = {ICCV}, year = {2021}, eprint = {2109.02100}
}"""
    QUICK: ClassVar[Mapping[str, Any]] = {"act_bits": 4, "epochs": 1}

    bits: Annotated[int, Within(1, MOST, also=FULL)] = 4
    """Bits per weight, the most where widths are learned; 32 is full precision."""
    act_bits: Annotated[int, Within(2, MOST, also=FULL)] = 32
    """Bits per layer input; 32 leaves them unrounded."""
    jacobian: Literal["winner", "full"] = "winner"
    """Which probabilities pass on the gradient of a weight: the mode's (multi-class STE), or all."""
    act_jacobian: Literal["winner", "full", "straight"] = "straight"
    """The same for inputs of layers, or unchanged inside the range (steps and temperatures as in winner)."""
    act_sign: Sign = "seen"
    """Levels of inputs: with a sign where negative inputs are seen, always (signed), or never (one-sided)."""
    dropbits: bool = False
    """Mask the outer codes of every tensor at random, anew for every minibatch."""
    keep: Annotated[float, Within(above=0, below=1)] = 0.9
    """Chance that a gate is not 0; where gates learn, at the start."""
    heterogeneous: bool = False
    """Learn the gates, and with them the bits of every tensor."""
    penalty: Annotated[float, Within(least=0)] = 0.5
    """What an expected bit of every weight adds to the loss, where gates learn."""
    refine: Annotated[int, Within(least=0)] = 0
    """Epochs that train on without masks, from a tenth of the learning rate."""
    first_last: Literal["same", "8", "keep"] = "same"
    """First and last layer: the same as the others, 8-bit weights by LSQ and unrounded inputs, or kept."""
    clip_grad: Annotated[float, Within(least=0)] = 1.0

    def check(self) -> None:
        """Widths of 1 to 8 bits, and two to choose from where they are learned."""
        check_widths(self.layer_bits, 1, MOST)
        if self.heterogeneous and not 2 <= self.bits <= MOST:
            raise UsageError(f"bits={self.bits}: heterogeneous=True chooses widths up to that; expected 2 to {MOST}")

    @property
    def knob(self) -> Knob:
        """Bits, or the penalty where bits are learned."""
        if self.heterogeneous:
            return Knob("penalty", (0.0, *(float(f"{0.05 * 1.4**k:.2g}") for k in range(18))))
        return Knob("bits", (8, 7, 6, 5, 4, 3, 2, 1))

    @property
    def untrained(self) -> Method | None:
        """The same without training; None where widths are learned."""
        return None if self.heterogeneous else replace(self, epochs=0, refine=0)

    @property
    def rounds_inputs(self) -> bool:
        """Whether layers round their inputs."""
        return self.act_bits != FULL

    @property
    def full_precision(self) -> bool:
        """Whether nothing is quantised."""
        return self.bits == FULL and not self.rounds_inputs and not self.layer_bits

    def phases(self) -> tuple[Phase, ...]:
        """The training, then that without masks."""
        after = (Phase(self, self.refine, self.lr / 10, attach=False),) if self.refine else ()
        return (Phase(self, self.epochs, self.lr), *after)

    def quantizer(self, target: Target, weight: Tensor) -> Quantizer | None:
        """The distribution over `bits` bits; of the first and last layer as `first_last` says. What `layer_bits` names
        keeps that width."""
        end, given = target.first_or_last and self.first_last != "same", self.bits_of(target.name, 0)
        if not given and (self.bits == FULL or (end and self.first_last == "keep")):
            return None
        if end and not given:
            return eight_bits(weight, None)
        learns = self.heterogeneous and not given
        keep = self.keep if learns or self.dropbits else None
        strength = self.penalty * target.share if learns else None
        return CategoricalWeight(weight, given or self.bits, self.jacobian, keep, strength)

    def input_quantizer(self, target: Target) -> InputRounder | None:
        """Codes of `act_bits` bits."""
        if not self.rounds_inputs or (target.first_or_last and self.first_last != "same"):
            return None
        return CategoricalInput(self.act_bits, self.act_jacobian, self.act_sign)

    def on_phase(self, network: nn.Module, phase: int, job: Job) -> None:
        """In the second phase widths are what they are then."""
        found = weights_of(network)
        if self.heterogeneous and all(quantizer.strength is None for quantizer in found.values()):
            raise UsageError("layer_bits and first_last fix the width of every tensor: leave out heterogeneous=True")
        if phase:
            for quantizer in found.values():
                quantizer.settle()

    def learned_bits(self, network: nn.Module) -> Mapping[str, int]:
        """The bits of every tensor, where they were learned."""
        return {name: each.bits for name, each in weights_of(network).items()} if self.heterogeneous else {}

    def conclude(self, network: nn.Module, job: Job) -> Mapping[str, Any]:
        """The bits of every tensor, and their mean over weights, where they were learned."""
        bits = self.learned_bits(network)
        if not bits:
            return {}
        average = attach.average_bits(network)
        _log.info("cpq: %.3f bits per weight, %d to %d", average, min(bits.values()), max(bits.values()))
        return {"cpq": {"bits": dict(bits), "average": round(average, 4)}}


def weights_of(network: nn.Module) -> dict[str, CategoricalWeight]:
    """Every weight on a categorical distribution, by name."""
    return {
        found.name: found.quantizer
        for found in attach.quantizers(network)
        if isinstance(found.quantizer, CategoricalWeight)
    }
