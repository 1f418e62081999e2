"""ALQ: weights are sums of binary bases, fewer and fewer, and no weight is ever held in full precision.

Groups of n weights are `B alpha`, B signs, alpha >= 0; a group may have none. `bits` is the average number of bases,
below 1 where most groups are empty; coordinates and counts come on top, and the file's provenance has both numbers.

Start (structured sketching): signs of the residual, all coordinates fitted again, up to `bases`. Then `rounds` of basis
steps (`epochs`), coordinate steps (`coordinate_epochs`) and one epoch that takes bases away, all against AMSGrad's
local model of the loss (see `optimizer`), whose gradient is that of the network as it is: forward the sum, backward
nothing to estimate. Neither basis step nor speed-up lets the model rise. A last part, `refine` epochs and coordinate
steps again, may keep `latent` weights (a loss-aware straight-through step), as the authors' post-training does.

Departures (Qu et al. 2020): the rounds go to `bits` by equal factors, where the authors' leave what `e^-pr` leaves;
worth is counted per bit, because groups of layers differ in size; every tensor keeps one basis; rates fall along a
cosine in each round; coordinates are stored, and used, with `mantissa` bits. `groups` of `pixel` fall back to whole
filters below 16 input channels. Inputs (`act_bits`) are rounded to learned uniform levels or, with `act_grid` bases, to
sums of `act_bits` learned bases around a learned centre (see `inputs`): the authors' code rounds none. Tensors in
`layer_bits` keep that many bases and are not in the average. Needs the network's code and training data.

Use it when less than one bit a weight is the goal, and accuracy may be paid for in training time. Not when the
network is small or has few weights per group: coordinates then cost as much as signs. It costs a long training:
rounds of pruning, steps on bases and on coordinates, then refining.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ...codec import encode
from ...core.fields import Within, check_widths
from ...core.grid import BinaryBases
from ...core.method import Job, Knob, Method
from ...core.model import QTensor
from ...errors import UsageError
from ...network.kept import smallest_batch_norm
from ...quantizers import attach
from ...quantizers.activation import InputQuantizer, InputRounder, Range, Sign
from ...quantizers.bases import BASES
from ...training.loop import Schedule, count_batches
from ...training.method import Target, TrainedMethod
from ...training.phases import Phase
from ...training.processes import Processes
from .inputs import SummedInput
from .optimizer import LossAware, Pruning
from .pruning import Criterion, Pool, average, check_goal, check_learning, prune
from .sums import SumOfBases

MOST = 8  # bases of a group
MOST_INPUT = 4  # bases of an input
SHORTEST, LONGEST = 64, 512  # weights of a group whose size nobody gave
LEAST_KERNEL = 8  # weights of a kernel that makes a group of its own
CHANNELS = 16  # from which on the weights of one tap make a group
FULL = 32  # bits from which on inputs are not rounded


@dataclass(frozen=True)
class Alq(TrainedMethod):
    """Adaptive loss-aware quantization to `bits` bases on average."""

    reference: ClassVar[str] = """@inproceedings{qu2020alq,
  title = {Adaptive Loss-Aware Quantization for Multi-Bit Networks},
  author = {Qu, Zhongnan and Zhou, Zimu and Cheng, Yun and Thiele, Lothar}, booktitle = {CVPR}, year = {2020}
}"""
    QUICK: ClassVar[Mapping[str, Any]] = {
        "bits": 3.0,
        "act_bits": 4,
        "rounds": 1,
        "epochs": 1,
        "coordinate_epochs": 0,
        "refine": 1,
    }

    bits: Annotated[float, Within(above=0, most=8)] = 1.0
    """Bases of a group on average, which are bits per weight without coordinates; may be below 1."""
    bases: Annotated[int, Within(1, 8)] = 6
    """Most bases that a group begins with."""
    groups: Literal["pixel", "kernel", "channel", "sub-channel"] = "pixel"
    """Weights of a convolution that share bases: a tap over all inputs, a kernel (from 8), a filter, or group_size."""
    group_size: Annotated[int, Within(least=1)] | None = None
    """Weights of a group of a linear layer (and of sub-channels); by default 64 to 512 if that divides a row."""
    mantissa: Annotated[int, Within(0, 10)] = 5
    """Bits of coordinates after the leading one: 10 is as exact as fp16."""
    rounds: Annotated[int, Within(least=0)] = 4
    """Rounds of steps and pruning; 0 prunes the smallest coordinates at the start."""
    epochs: Annotated[int, Within(least=0)] = 10
    """Epochs of basis steps in every round."""
    coordinate_epochs: Annotated[int, Within(least=0)] = 5
    """Epochs of coordinate steps in every round, and at the end."""
    refine: Annotated[int, Within(least=0)] = 20
    """Epochs of basis steps after the last pruning."""
    latent: bool = False
    """Refine with full-precision weights after the bases, without which signs of few bases hardly change."""
    criterion: Criterion = "loss"
    """Which bases go first: those that the loss needs least for their bits, or the smallest coordinates."""
    act_bits: Annotated[int, Within(1, 8, also=32)] = 32
    """Bits per layer input; 32 leaves them unrounded."""
    act_grid: Literal["uniform", "bases"] = "uniform"
    """What inputs are rounded to: 2 to 8 bits of uniform levels, or sums of 1 to 4 learned bases."""
    act_range: Range = "lsq"
    """How ranges of uniform inputs are found: learned (lsq, rcf, pact) or observed."""
    act_sign: Sign = "seen"
    """Levels of inputs: with a sign where negative inputs are seen, always (signed), or never (one-sided)."""
    lr: Annotated[float, Within(above=0, most=1e6)] = 1e-3
    optimizer: Literal["adamw"] = "adamw"
    """Of what has no bases: AMSGrad with a decay of its own, as for the bases."""

    def check(self) -> None:
        """Numbers of bases that there are."""
        check_widths(self.layer_bits, 1, MOST)
        least, most = (1, MOST_INPUT) if self.act_grid == "bases" else (2, MOST)
        if self.rounds_inputs and not least <= self.act_bits <= most:
            raise UsageError(
                f"act_bits={self.act_bits}: inputs on {self.act_grid} levels have {least} to {most}, or 32: unrounded"
            )
        if self.act_grid == "bases" and self.act_sign != "seen":
            raise UsageError(f'act_sign="{self.act_sign}" has no effect: sums of learned bases lie where inputs are')

    @property
    def knob(self) -> Knob:
        """Average bits, from 4 down to a twentieth."""
        return Knob("bits", (4.0, 3.0, 2.0, 1.5, 1.2, 1.0, 0.8, 0.65, 0.5, 0.4, 0.32, 0.25, 0.2, 0.15, 0.1, 0.07, 0.05))

    @classmethod
    def auto_points(cls, job: Job) -> tuple[Method, ...]:
        """A short training with latent weights at the end."""
        bn = smallest_batch_norm(job.source)
        return (cls(bn=bn, bases=3, mantissa=3, rounds=2, epochs=1, coordinate_epochs=0, refine=4, latent=True),)

    @property
    def untrained(self) -> Method:
        """The sketch, without its smallest coordinates."""
        return replace(self, rounds=0, refine=0)

    @property
    def rounds_inputs(self) -> bool:
        """Whether layers round their inputs."""
        return self.act_bits != FULL

    def phases(self) -> tuple[Phase, ...]:
        """The rounds (`rounds` of a phase's method are those that are left), then what refines (`rounds` is 0)."""
        epochs = self.epochs + self.coordinate_epochs + 1
        found = [
            Phase(replace(self, rounds=left), epochs, self.lr, attach=left == self.rounds)
            for left in range(self.rounds, 0, -1)
        ]
        if self.refine or not self.rounds:
            last = self.refine + self.coordinate_epochs if self.refine else 0
            found.append(Phase(replace(self, rounds=0), last, self.lr, attach=not self.rounds))
        return tuple(found)

    def quantizer(self, target: Target, weight: Tensor) -> SumOfBases:
        """Sketched bases; a fixed number of them where `layer_bits` says so."""
        size, stride = self.grouping(target.name, weight.shape)
        pinned = self.bits_of(target.name, 0)
        most = pinned or max(self.bases, math.ceil(self.bits))
        return SumOfBases(weight, size, stride, most, self.mantissa, pinned=bool(pinned))

    def grouping(self, name: str, shape: torch.Size) -> tuple[int, int]:
        """The weights of a group, and the distance between them. **Raises** `UsageError` if they do not divide a
        row."""
        row, taps = math.prod(shape[1:]), math.prod(shape[2:])
        if len(shape) > 2 and self.groups == "kernel" and taps >= LEAST_KERNEL:
            return taps, 1
        if len(shape) > 2 and self.groups == "pixel" and shape[1] >= CHANNELS:
            return shape[1], taps
        if len(shape) > 2 and self.groups != "sub-channel":
            return row, 1
        divisors = [size for size in range(1, row + 1) if row % size == 0]
        if self.group_size is None:  # at most 512, unless that would be a few: coordinates take bits as well
            long = [size for size in divisors if size >= SHORTEST] or [row]
            return max((size for size in long if size <= LONGEST), default=long[0]), 1
        wanted = min(self.group_size, row)
        if wanted in divisors:
            return wanted, 1
        near = sorted(divisors, key=lambda size: abs(math.log(size / wanted)))[:3]
        raise UsageError(
            f"group_size={self.group_size} does not divide the {row} weights of a row of {name}: "
            f"give one that does, such as {', '.join(map(str, sorted(near)))}, or leave it out"
        )

    def input_quantizer(self, target: Target) -> InputRounder | None:
        """Levels of `act_bits` bits, but for the first layer and the last."""
        if not self.rounds_inputs or target.first_or_last:
            return None
        if self.act_grid == "bases":
            return SummedInput(self.act_bits)
        return InputQuantizer(self.act_range, partial(BASES["uniform"].inputs, self.act_bits), self.act_sign)

    def make_optimizer(self, network: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
        """Loss-aware steps for bases, AMSGrad for the rest."""
        groups = [
            {**group, "factor": group["lr"], "lr": schedule.lr * group["lr"]}
            for group in attach.param_groups(network, 1.0, schedule.weight_decay)
        ]
        named = {latents[0]: (name, q) for name, q, latents in attach.quantizers(network) if isinstance(q, SumOfBases)}
        return LossAware(groups, schedule.lr, named, self.seed)

    def on_phase(self, network: nn.Module, phase: int, job: Job) -> None:
        """A goal that can be reached; where there are no rounds, the smallest coordinates go now."""
        free = _free(network)
        if free:
            check_goal([quantizer for _, quantizer, _ in free], self.bits)
        if not self.rounds:
            with torch.no_grad():
                none = torch.zeros(())
                prune([Pool(n, w, q, none, none) for n, q, w in free], self.bits, "coordinate")
                for _, quantizer, latent in free:
                    latent.copy_(quantizer.value())

    def on_epoch(self, network: nn.Module, epoch: int, optimizer: torch.optim.Optimizer, job: Job) -> None:
        """Say what the steps of the epoch do."""
        assert isinstance(optimizer, LossAware)
        free = [quantizer for _, quantizer, _ in _free(network)]
        now = average(free) if free else 0.0
        first = self.epochs if self.rounds else self.refine
        if epoch and self.rounds and now > self.bits and self.criterion == "loss":
            check_learning(optimizer.idle())
        if epoch < first:
            optimizer.begin("latent" if self.latent and not self.rounds else "basis")
        elif not self.rounds or epoch < first + self.coordinate_epochs or now <= self.bits:
            optimizer.begin("coordinate")
        else:
            _, task = job.network_and_task(self.name, "trains")
            steps = count_batches(task.split("train")) // Processes().count
            goal = now * (self.bits / now) ** (1 / self.rounds)
            optimizer.begin("prune", Pruning(now, goal, steps, self.criterion))

    def conclude(self, network: nn.Module, job: Job) -> Mapping[str, Any]:
        """Average bits without and with coordinates (and counts), and of every tensor."""
        return {"alq": facts(attach.frozen_weights(network))}


def facts(tensors: Mapping[str, QTensor]) -> dict[str, Any]:
    """Bits per weight of all tensors and of each: bases alone, and with counts and coordinates as they are coded."""
    bases, sides, weights = {}, 0, 0
    for name, entry in tensors.items():
        assert isinstance(entry.grid, BinaryBases)
        count = entry.codes.numel()
        bases[name] = int(entry.grid.counts.sum(dtype=torch.int64)) * entry.grid.group_size / count
        weights += count
        for field in (entry.grid.counts, entry.grid.coordinates):
            stream = encode(field.numpy())
            sides += 8 * sum(map(len, (stream.params, *stream.chunks)))
    bits = sum(bases[name] * entry.codes.numel() for name, entry in tensors.items()) / weights
    return {
        "bits": round(bits, 4),
        "bits_with_coordinates": round(bits + sides / weights, 4),
        "tensors": {name: round(value, 4) for name, value in bases.items()},
    }


def _free(network: nn.Module) -> list[tuple[str, SumOfBases, Tensor]]:
    """Names, quantizers and latents of the tensors that are in the average."""
    found = attach.quantizers(network)
    return [(name, q, latents[0]) for name, q, latents in found if isinstance(q, SumOfBases) and not q.pinned]
