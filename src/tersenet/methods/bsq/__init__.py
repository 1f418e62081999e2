"""BSQ: bit planes of the weights are trained under a group penalty; planes that die leave every layer a precision.

A weight is `step * sum over b < n of 2^b (p_b - n_b)`, rounded to an integer and clipped to `+-(2^n - 1)`: n planes of
positive and n of negative parts, in [0, 2], that begin as the binary digits of `round(|w| / step)`, n = 8, step =
`max|w| / 255`. Backward: straight through rounding and clip, so that plane b gets `+-2^b step` times the gradient of
the weight. Penalty: `alpha sum over layers of (numel n / numel of all) sum over b of ||[p_b; n_b]||`, with the n of
now. Every `every` epochs and at the end the planes are written anew as exact digits: zero planes at the top die, zero
planes at the bottom die and the step doubles, codes that have grown get one plane more (at most 8). No weight changes
but those that were clipped, momentum of planes is forgotten. A layer may lose all planes (0 bits), unless the network
would be constant without it: then the last good state is kept, rounded to one plane, and is not penalised any more.
Then `refine` epochs train a float weight and the step on levels `-(2^n - 1)` to `2^n - 1` with n fixed (Yang et al.
2021).

The paper counts n bits per weight. A code needs a sign as well, n + 1 bits: both are recorded, and only the second can
be compared with other methods (the published 14 times is about 10 with the sign). The file entropy-codes the codes.

Departures: the penalty is a proximal step after the optimizer's, in proportion to a cosine from 1 to 0 over the
training, and scaled so that a plane loses what the authors' 350 epochs on ResNet-20 take from it, however few the
epochs and whatever the rate (`alpha` is theirs). Planes learn at a rate at which the weight moves as fast as if it were
trained itself. Layers that `layer_bits` names keep that width, the sign counted. The float weights of the last phase
are trained by LSQ's rule, at a rate times their mean square against that at the start; the authors' are in [-1, 1].
Inputs have LSQ's learned ranges; the authors use the largest of the batch, at test time too. Only planes are clipped to
[0, 2]; weight decay is that of the weight, not of each plane. The step's gradient is `sum(g q) / sum(q^2)` while planes
are trained. Biases, with `biases`, are penalised by 1 in place of the share of their layer.

Needs the network's code and training data.

Use it when every layer should find its own precision during training, under one penalty. Not when the size has to be
known beforehand: bytes are an outcome of the penalty, so a budget takes whole trainings. It costs a training with up
to sixteen planes in memory per weight, and `refine` epochs at the widths found.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ...core.fields import Within, check_widths
from ...core.method import Job, Knob, Method
from ...core.model import TensorSpec
from ...network.kept import computed, left_out
from ...network.layers import Layer, eval_without_grad
from ...quantizers import attach
from ...quantizers.activation import InputQuantizer, Range, Sign
from ...quantizers.bases import BASES
from ...quantizers.quantizer import Quantizer
from ...training.method import Target, TrainedMethod
from ...training.phases import Phase
from ...training.randomness import seeded
from .planes import PLANES, BitPlanes

_log = logging.getLogger("tersenet")
FULL = 32  # bits of an input that is not rounded
JUDGED = 4  # batches on which a network is judged to be constant
CONSTANT = 1e-5  # spread of outputs, against their magnitude, up to which they are the same for all inputs


@dataclass(frozen=True)
class Bsq(TrainedMethod):
    """Precisions from bit planes: `epochs` under the penalty `alpha`, then `refine` with the precisions fixed."""

    reference: ClassVar[str] = """@inproceedings{yang2021bsq,
  title = {{BSQ}: Exploring Bit-Level Sparsity for Mixed-Precision Neural Network Quantization},
  author = {Yang, Huanrui and Duan, Lin and Chen, Yiran and Li, Hai},
  booktitle = {ICLR}, year = {2021}, eprint = {2102.10462}
}"""
    QUICK: ClassVar[Mapping[str, Any]] = {"act_bits": 4, "epochs": 2, "refine": 1, "alpha": 3e-4}

    alpha: Annotated[float, Within(least=0, most=1e3)] = 5e-3
    """Strength of the penalty: more of it, fewer bits."""
    planes: Annotated[int, Within(1, 8)] = 8
    """Bit planes of a weight at the start, the sign not counted."""
    every: Annotated[int, Within(least=1)] = 1
    """Epochs between two adjustments of the precisions."""
    refine: Annotated[int, Within(least=0)] = 10
    """Epochs that train on with the precisions found."""
    biases: bool = False
    """Quantise the biases of layers, too."""
    act_bits: Annotated[int, Within(2, 8, also=32)] = 32
    """Bits per layer input; 32 leaves them unrounded."""
    act_range: Range = "lsq"
    """How ranges of inputs are found: learned (lsq, rcf, pact) or observed."""
    act_sign: Sign = "seen"
    """Levels of inputs: with a sign where negative inputs are seen, always (signed), or never (one-sided)."""

    def check(self) -> None:
        """Widths of 2 to 8 bits where they are given."""
        check_widths(self.layer_bits, 2, PLANES)

    @property
    def knob(self) -> Knob:
        """The penalty."""
        return Knob("alpha", tuple(float(f"{1e-4 * 1.3**k:.2g}") for k in range(24)))

    @property
    def untrained(self) -> Method | None:
        """None: the precisions are an outcome of training."""
        return None

    @property
    def rounds_inputs(self) -> bool:
        """Whether layers round their inputs."""
        return self.act_bits != FULL

    def targets(self, network: nn.Module, specs: Mapping[str, TensorSpec], layers: Sequence[Layer]) -> list[str]:
        """Matrices from 256 elements on; with `biases`, those of the layers that run, too."""
        names = super().targets(network, specs, layers)
        of_layers = {f"{layer.weight.removesuffix('weight')}bias" for layer in layers} if self.biases else set()
        return names + [
            name
            for name, spec in specs.items()
            if name in of_layers and not (computed(name, spec, self) or left_out(name, self))
        ]

    def quantizer(self, target: Target, weight: Tensor) -> Quantizer:
        """Planes; as many as `layer_bits` has bits beside the sign, for good, where it names the tensor."""
        given = self.bits_of(target.name, 0)
        return BitPlanes(
            weight, given - 1 if given else self.planes, self.alpha, reweighs=weight.dim() > 1, pinned=bool(given)
        )

    def input_quantizer(self, target: Target) -> InputQuantizer | None:
        """Integers of `act_bits` bits, between the first and the last layer."""
        if not self.rounds_inputs or target.first_or_last:
            return None
        return InputQuantizer(self.act_range, partial(BASES["uniform"].inputs, self.act_bits), self.act_sign)

    def attach(
        self, module: nn.Module, specs: Mapping[str, TensorSpec], inputs: Any, aliases: Mapping[str, str] | None = None
    ) -> nn.Module:
        """As every method; then the quantizers are told how many weights there are in all."""
        super().attach(module, specs, inputs, aliases)
        found = planes_of(module)
        for each in found:
            each.quantizer.total = sum(other.quantizer.codes.numel() for other in found)
        return module

    def phases(self) -> tuple[Phase, ...]:
        """The planes, then the weights on the levels that are left."""
        return Phase(self, self.epochs, self.lr), Phase(self, self.refine, self.lr, attach=False)

    def on_phase(self, network: nn.Module, phase: int, job: Job) -> None:
        """Before the second, precisions are adjusted for the last time."""
        found = planes_of(network)
        if phase and not any(each.quantizer.pace for each in found):
            self._adjust(network, job)
        for each in found if phase else ():
            each.quantizer.fix(each.weight)

    def on_epoch(self, network: nn.Module, epoch: int, optimizer: torch.optim.Optimizer, job: Job) -> None:
        """Precisions are adjusted, and the optimizer forgets how planes moved that do not exist any more."""
        if epoch % self.every == 0 and not any(each.quantizer.fixed for each in planes_of(network)):
            self._adjust(network, job)
            for each in planes_of(network):
                optimizer.state.pop(each.weight, None)

    def conclude(self, network: nn.Module, job: Job) -> Mapping[str, Any]:
        """Planes of every layer; average bits without the sign, as the paper counts, and with it; layers that would
        have lost all planes."""
        found = planes_of(network)
        counts = {each.name: _needed(each) for each in found}
        sizes = {each.name: each.quantizer.codes.numel() for each in found}
        total = sum(sizes.values())
        plain = sum(sizes[name] * count for name, count in counts.items()) / total
        signed = plain + sum(sizes[name] for name, count in counts.items() if count) / total
        _log.info("bsq: %.3f bits per weight without the sign, %.3f with it", plain, signed)
        bits = {"without_sign": round(plain, 4), "with_sign": round(signed, 4)}
        spared = [each.name for each in found if each.quantizer.spared and not each.quantizer.pinned]
        return {"bsq": {"bits": bits, "planes": counts, **({"spared": spared} if spared else {})}}

    def _adjust(self, network: nn.Module, job: Job) -> None:
        """Adjust every precision. What lost its last plane gets one back if the network is constant without."""
        died = [found for found in planes_of(network) if found.quantizer.adjust(found.weight)]
        for _, quantizer, weight in died:
            quantizer.write(weight, quantizer.codes)
        varied = bool(died) and not self._constant(network, job)
        for name, quantizer, weight in died:
            before = quantizer.codes.clone()
            quantizer.write(weight, torch.zeros_like(before))
            if varied and self._constant(network, job):
                quantizer.spare(weight, before)
                _log.warning(
                    "all planes of %s died, and without it the network says the same of every input: it goes on with "
                    "one plane of its last good state, unpenalised; alpha=%g is too much for it",
                    name,
                    self.alpha,
                )

    def _constant(self, network: nn.Module, job: Job) -> bool:
        """Whether the network has the same outputs for all samples of some batches."""
        _, task = job.network_and_task(self.name, "trains")
        seen: dict[torch.Size, Tensor] = {}  # the first outputs of each shape: batches may be of one sample
        with eval_without_grad(network), seeded(self.seed), torch.no_grad():
            for batch in islice(task.batches("train"), JUDGED):
                outputs = batch.outputs(network)
                first = seen.setdefault(outputs.shape[1:], outputs[:1])
                if bool((outputs - first).abs().max() > CONSTANT * outputs.abs().max()):
                    return False
        return True


class Found(NamedTuple):
    """A weight on planes: its name, its quantizer, and the weight that is trained."""

    name: str
    quantizer: BitPlanes
    weight: Tensor


def planes_of(network: nn.Module) -> list[Found]:
    """Every weight on planes."""
    return [
        Found(name, quantizer, latents[0])
        for name, quantizer, latents in attach.quantizers(network)
        if isinstance(quantizer, BitPlanes)
    ]


def _needed(found: Found) -> int:
    """The planes that the codes of a weight need."""
    return int(found.quantizer.freeze(found.weight).codes.abs().max()).bit_length()
