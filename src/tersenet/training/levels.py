"""What methods that train on a fixed set of levels have in common: bits, stages, estimators, ranges of inputs."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from ..core.fields import Within, check_widths
from ..core.method import Job, Method
from ..quantizers.activation import InputQuantizer, Range, Sign
from ..quantizers.bases import BASES, Base, FirstClip, eight_bits
from ..quantizers.estimators import Estimator, rule_of
from ..quantizers.project import Rule
from ..quantizers.quantizer import Quantizer
from ..quantizers.weight import LearnedScale, Oscillation
from .curvature import measure_deltas
from .method import Target, TrainedMethod
from .phases import Phase

MEASURED = "ewgs-hessian"
BATCHES = 3  # that curvature is measured on, as its authors do
FULL = 32  # bits from which on nothing is quantised


@dataclass(frozen=True)
class TrainedOnLevels(TrainedMethod):
    """Quantization-aware training: `epochs` at `bits` per weight and `act_bits` per layer input (32: not quantised).

    The first and the last layer get 8-bit weights and unquantised inputs (`first_last`: "8"), stay as they are
    ("keep"), or are treated like the others ("same"). `stages` are numbers of bits that are trained before,
    each for as many epochs (progressive initialisation). `act_range` says how input ranges are found: learned ("lsq",
    "rcf", "pact") or observed ("minmax", "ema", "percentile", "mse"). `estimator` is the gradient rule of weights,
    `oscillation` what is done against weights that oscillate.
    """

    bits: Annotated[int, Within(2, 8, also=32)] = 4
    """Bits per weight; 32 is full precision."""
    act_bits: Annotated[int, Within(2, 8, also=32)] = 32
    """Bits per layer input; 32 leaves them unrounded."""
    stages: tuple[Annotated[int, Within(2, 8, also=32)], ...] = ()
    """Bits that are trained before, each for as many epochs: 8 4 on the way to 3."""
    granularity: Literal["tensor", "channel"] = "tensor"
    """One scale per tensor, or per output channel."""
    first_last: Literal["8", "keep", "same"] = "8"
    """First and last layer: 8-bit weights and unrounded inputs, kept, or the same as the others."""
    estimator: Estimator = "clipped"
    """Gradient rule of rounding, with its constants: ewgs:delta=0.1."""
    oscillation: Oscillation = "none"
    """What is done against weights that oscillate between two levels."""
    act_range: Range = "lsq"
    """How ranges of inputs are found: learned (lsq, rcf, pact) or observed."""
    act_sign: Sign = "seen"
    """Levels of inputs: with a sign where negative inputs are seen, always (signed), or never (one-sided)."""

    def check(self) -> None:
        """Widths that the levels have."""
        for bits in (self.bits, self.act_bits, *self.stages):
            if bits != FULL:
                self.kind.check(bits)
        middle = {name: bits for name, bits in self.layer_bits.items() if bits != 8}  # first and last layers have 8
        check_widths(middle, self.kind.least, self.kind.most)

    @property
    @abstractmethod
    def levels_name(self) -> str:
        """Which levels of `quantizers.bases`."""

    @property
    def first(self) -> FirstClip:
        """Where clips start, for levels that have them."""
        return "mse"

    @property
    def kind(self) -> Base:
        """The levels."""
        return BASES[self.levels_name]

    @property
    def notes(self) -> tuple[str, ...]:
        """That the quantization-error-aware rules are readings."""
        if not self.estimator.startswith("qea"):
            return ()
        return (
            f"estimator {self.estimator}: a reading of Tesfai et al. 2023; the published formula was not available",
        )

    @property
    def rule(self) -> Rule:
        """The gradient rule of weights."""
        return rule_of(self.estimator)

    @property
    def untrained(self) -> Method:
        """The same without training."""
        return replace(self, epochs=0, stages=())

    @property
    def rounds_inputs(self) -> bool:
        """Whether layers round their inputs."""
        return self.act_bits != FULL

    @property
    def full_precision(self) -> bool:
        """Whether nothing is quantised."""
        return self.bits == FULL and not self.rounds_inputs and not self.layer_bits

    def phases(self) -> tuple[Phase, ...]:
        """Every stage's bits for `epochs`, then `bits`."""
        return tuple(Phase(replace(self, bits=bits), self.epochs, self.lr) for bits in (*self.stages, self.bits))

    def quantizer(self, target: Target, weight: Tensor) -> Quantizer | None:
        """The levels at the tensor's width; those of the first and last layer as `first_last` says."""
        end = target.first_or_last and self.first_last != "same"
        given = self.bits_of(target.name, 0)
        if not given and (self.bits == FULL or (end and self.first_last == "keep")):
            return None
        axis = target.spec.axis if self.granularity == "channel" else None
        bits = given or (8 if end else self.bits)
        if end and bits == 8:
            return eight_bits(weight, axis)
        check_widths({target.name: bits}, self.kind.least, self.kind.most)
        levels = self.kind.weights(bits)
        made = self.kind.build(weight, levels, self.rule, axis, target.normed, self.oscillation, self.first)
        if self.estimator == MEASURED and isinstance(made, LearnedScale):
            made.measures_delta()
        return made

    def on_epoch(self, network: nn.Module, epoch: int, optimizer: torch.optim.Optimizer, job: Job) -> None:
        """Measure the constants of the estimator, where it asks for that."""
        if self.estimator == MEASURED:
            _, task = job.network_and_task(self.name, "trains")
            measure_deltas(network, list(islice(task.batches("train"), BATCHES)), self.seed)

    def input_quantizer(self, target: Target) -> InputQuantizer | None:
        """Levels of `act_bits` bits, between the first and the last layer."""
        if not self.rounds_inputs or (target.first_or_last and self.first_last != "same"):
            return None
        return InputQuantizer(self.act_range, partial(self.kind.inputs, self.act_bits), self.act_sign)
