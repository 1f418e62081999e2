"""What all methods that train have in common: which tensors, attaching, stages, the loop, and the way out.

A method adds its levels and how a weight is scaled; the rest is here, so that rows of a table differ in the method
only.
"""

import warnings
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from ..core.batch import Batch
from ..core.method import Method, RunFolder, TensorSource
from ..core.model import Finding, Piece, TensorSpec
from ..core.nested import tensors
from ..core.task import Task
from ..errors import InputError, UsageError
from ..files.terse import load
from ..quantizers import attach
from ..quantizers.activation import InputQuantizer, Range
from ..quantizers.bases import BASES, Base, FirstClip, eight_bits
from ..quantizers.estimators import RULES
from ..quantizers.project import Rule
from ..quantizers.quantizer import Quantizer
from ..quantizers.weight import Remedy
from .batchnorm import reestimate
from .fit import Schedule, fit, samples
from .layers import BATCH_NORMS, Layer, find_layers, frozen, recurrent_weights, without_recurrent
from .processes import Processes
from .randomness import seeded
from .run import Run, run_of
from .sides import batch_norms, check_finite, keep, pair, why_kept

CALIBRATION_BATCHES = 8
FULL = 32  # bits from which on nothing is quantised


@dataclass(frozen=True)
class TrainedMethod(Method):
    """Quantization-aware training: `epochs` at `bits` per weight and `act_bits` per layer input (32: not quantised).

    The first and the last layer get 8-bit weights and unquantised inputs (`ends`: "8"), stay as they are ("keep"), or
    are treated like the others ("same"). `stages` are numbers of bits that are trained before, each for as many epochs
    (progressive initialisation). `range` says how input ranges are found: learned ("lsq", "rcf", "pact") or observed
    ("minmax", "ema", "percentile", "mse"). `distill` is the share of the loss that is the distance to the outputs of
    the network before compression. `estimator` is the gradient rule of weights, `remedy` works against oscillation.
    """

    needs: ClassVar[str] = "training"

    bits: int = 4
    act_bits: int = 32
    epochs: int = 10
    lr: float = 0.01
    weight_decay: float = 1e-4
    optimizer: Literal["sgd", "adamw"] = "sgd"
    clip_grad: float = 0.0
    distill: float = 0.0
    stages: tuple[int, ...] = ()
    granularity: Literal["tensor", "channel"] = "tensor"
    ends: Literal["8", "keep", "same"] = "8"
    estimator: str = "clipped"
    remedy: Remedy = "none"
    range: Range = "lsq"
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.estimator not in RULES:
            raise UsageError(f"estimator is {self.estimator!r}; it may be {', '.join(RULES)}")
        for bits in (self.bits, *self.stages, *self.layer_bits.values()):
            if bits != FULL:
                self.kind.check(bits)
        if self.act_bits != FULL:
            self.kind.check(self.act_bits)
        if not 0 <= self.distill <= 1:
            raise UsageError(f"distill is {self.distill}; it is a share, from 0 to 1")
        if self.epochs < 0 or self.lr <= 0:
            raise UsageError(f"epochs is {self.epochs} and lr {self.lr}; they must be at least 0 and above 0")
        if self.bn == "fold":
            raise UsageError("--bn fold cannot be trained; use --bn pair or --bn keep")

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
        return RULES[self.estimator]

    @property
    def sketch(self) -> Method:
        """The same without training."""
        return replace(self, epochs=0, stages=())

    def work(self, task: Task | None) -> float:
        """Every epoch runs all training samples forward and back, twice forward where it distills."""
        epochs = self.epochs * (len(self.stages) + 1)
        return epochs * samples(task, "train") * (4 if self.distill else 3) if task and epochs else 0.0

    def attach(self, module: nn.Module, specs: Mapping[str, TensorSpec], inputs: Iterable[Any], bits: int,
               aliases: Mapping[str, str] | None = None) -> nn.Module:  # fmt: skip
        """Put quantizers of `bits` bits in front of the weights and inputs of `module` (in place) and set them on
        `inputs`.

        **Raises** `InputError` if there is nothing to quantise, no input, or a layer that never runs; `WeightError`.
        """
        if bits == FULL and self.act_bits == FULL:
            return module
        held = [part if isinstance(part, Batch) else Batch(part) for part in islice(inputs, CALIBRATION_BATCHES)]
        if not held:
            raise InputError("there are no calibration inputs: the train split is empty")
        if not all(bool(torch.isfinite(part).all()) for batch in held for part in tensors(batch.inputs)):
            raise InputError("the first training inputs have NaN or infinity: check the data")
        with frozen(module):
            layers = find_layers(module, held[0].first(2))
        names = [name for name, spec in specs.items() if why_kept(name, spec, self) is None]
        names = without_recurrent(module, names, self.name)
        wanted = [layer for layer in layers if layer.weight in names]
        if not names:
            raise InputError("no tensor of this network can be quantised (2 dimensions, 256 elements, not excluded)")
        ends = {layer.weight for layer in (layers[0], layers[-1])} if layers and self.ends != "same" else set()
        normed = {layer.weight for layer in wanted if layer.batch_norm}
        if bits != FULL:
            found = {
                name: self._weight(module, name, specs[name], bits, name in ends, name in normed)
                for name in names
                if not (name in ends and self.ends == "keep")
            }
            attach.attach_weights(module, found, aliases or {})
            reestimate(module, held)
        if self.act_bits != FULL:
            middle = [layer for layer in wanted if layer.weight not in ends]
            if not middle:
                warnings.warn("act_bits has no effect: no layer between the first and the last", stacklevel=2)
            attach.attach_inputs(module, {layer.path: self._input(layer) for layer in middle}, held)
        return module

    def _weight(self, module: nn.Module, name: str, spec: TensorSpec, bits: int, end: bool, normed: bool) -> Quantizer:
        part, leaf = attach.owner_of(module, name)
        weight = getattr(part, leaf).detach()
        check_finite(name, weight)
        axis = spec.axis if self.granularity == "channel" else None
        typed = weight.to(spec.dtype)
        bits = self.bits_of(name, 8 if end else bits)
        if end and bits == 8:
            return eight_bits(typed, axis).to(weight.device)
        levels = self.kind.weights(bits)
        return self.kind.build(typed, levels, self.rule, axis, normed, self.remedy, self.first).to(weight.device)

    def _input(self, layer: Layer) -> InputQuantizer:
        return InputQuantizer(self.range, partial(self.kind.inputs, self.act_bits))

    def compress(
        self,
        source: TensorSource,
        module: nn.Module | None = None,
        task: Task | None = None,
        run: RunFolder | None = None,
    ) -> Iterator[Piece]:
        """Train a copy of `module` and yield it, quantised. **Raises** `UsageError` without module or train split."""
        if module is None or task is None:
            raise UsageError(f"{self.name} trains: give the network's code (--model, module=) and --task (task=)")
        task.split("train")
        processes = Processes()
        folder = run_of(self, source, run)
        saved = None if folder is None else folder.state
        network = deepcopy(module).float().to(processes.device)
        method, findings = self.plan(network, source, task)
        teacher = deepcopy(network).eval().requires_grad_(False) if self.distill else None
        if run is not None and run.start is not None:
            begin_with(network, run.start)
        stages = [*self.stages, self.bits]
        first = 0 if saved is None else int(saved["stage"])
        if saved is not None:
            network.load_state_dict(saved["base"])
        for stage in range(first, len(stages)):
            base = {name: value.clone() for name, value in network.state_dict().items()}
            bits, train = stages[stage], task.batches("train")
            with seeded(self.seed):
                method.attach(network, source.specs, train, bits, source.aliases)
            if saved is not None and "finished" in saved:
                network.load_state_dict(saved["model"])
                network.eval()
                break
            fit(
                network,
                task,
                self._schedule(),
                penalty=partial(attach.penalty, network),
                anneal=partial(attach.anneal, network),
                title=f"{self.name}, {attach.average_bits(network):.2f} bits",
                teacher=teacher,
                processes=processes,
                run=folder,
                around={"stage": stage, "base": base},
                saved=saved if stage == first else None,
            )
            if stage + 1 < len(stages):
                latent = attach.latent_state(network)
                network = deepcopy(module).float().to(processes.device)
                network.load_state_dict(latent)
                continue
            with seeded(self.seed):
                finish(network, task.batches("train"))
            if folder is not None and processes.rank == 0:
                state = {"stage": stage, "base": base, "model": network.state_dict()}
                folder.save({**state, "finished": attach.latent_state(network)})
        yield from self.pieces(network, source)
        yield from ((name, Finding(facts)) for name, facts in findings.items())

    def plan(self, network: nn.Module, source: TensorSource, task: Task) -> tuple["TrainedMethod", Mapping[str, Any]]:
        """The method with everything chosen that depends on the network, and what to record about it."""
        return self, {}

    def _schedule(self) -> Schedule:
        return Schedule(
            self.epochs,
            self.lr,
            self.weight_decay,
            self.optimizer,
            self.clip_grad,
            self.distill,
            self.seed,
            self.compile,
        )

    def pieces(self, network: nn.Module, source: TensorSource) -> Iterator[Piece]:
        """The network that quantizers are attached to, as tensors and activations; what is kept is rounded in it,
        too."""
        state = attach.latent_state(network)
        if self.bn == "pair":
            for prefix in batch_norms(source.specs, source.aliases):
                eps = float(network.get_submodule(prefix).eps)  # type: ignore[arg-type]
                parts = {part: state[f"{prefix}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")}
                state |= {f"{prefix}.{part}": value for part, value in pair(parts, eps).items()}
        quantised = {source.aliases.get(name, name): entry for name, entry in attach.frozen_weights(network).items()}
        recurrent = recurrent_weights(network)
        for name, spec in source.specs.items():
            if name in quantised:
                yield name, quantised[name]
                continue
            reason = why_kept(name, spec, self) or ("recurrent layer" if name in recurrent else "full precision")
            value = state[name].detach().to("cpu", spec.dtype) if name in state else source.read(name)
            kept = keep(value, reason, self.side)
            with torch.no_grad():
                part, leaf = attach.owner_of(network, name)
                getattr(part, leaf).copy_(kept.dequantize())
            yield name, kept
        yield from attach.frozen_inputs(network).items()


def begin_with(network: nn.Module, start: Path) -> None:
    """Load the latent weights of a finished run folder, or the weights of a `.terse` file, into `network`."""
    if start.is_dir():
        network.load_state_dict(Run.finished(start))
    else:
        begun = load(start)
        if begun.batch_norm != "keep":
            raise UsageError(
                f"{start} was written with --bn {begun.batch_norm}, without batch-norm statistics, so nothing can be "
                "trained from it: start from its --run folder, or write it with --bn keep"
            )
        begun.apply_to(network, activations=False)


def finish(network: nn.Module, train: Iterable[Batch]) -> None:
    """Evaluation mode, with batch norm re-estimated for the weights as they are now."""
    network.eval()
    if any(isinstance(part, BATCH_NORMS) for part in network.modules()):
        reestimate(network, train)
