"""What all methods that train have in common: attaching, phases, the loop, its checkpoints, and what is yielded.

A method states what is its own in hooks; the rest is here, so that rows of a table differ in the method only.
"""

import warnings
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.fields import Seed, Within
from ..core.method import Job, Method, TensorSource
from ..core.model import Item, KeptTensor, ProvenanceNote, TensorSpec
from ..core.nested import tensors
from ..core.task import Task
from ..errors import InputError, UsageError
from ..network.batch_norm import reestimate
from ..network.kept import BN_PARTS, batch_norms, check_finite, keep, scale_and_shift, why_kept
from ..network.layers import Given, Layer, eval_without_grad, find_layers, recurrent_weights, without_recurrent
from ..quantizers import attach
from ..quantizers.activation import InputRounder
from ..quantizers.quantizer import Quantizer
from .loop import Schedule, make_optimizer, samples
from .phases import Phase, Training
from .processes import Processes
from .run import begin_with, run_of

CALIBRATION_BATCHES = 8
FULL_PRECISION = "full precision"  # why a tensor that could be quantised was kept


@dataclass(frozen=True)
class Target:
    """A tensor to quantise: its name, shape, dtype and channel axis, whether it belongs to the first or last layer,
    whether a batch norm of its own follows its layer, and its share of the elements of all such tensors.

    >>> from tersenet.core.model import TensorSpec
    >>> Target("fc.weight", TensorSpec(torch.Size([10, 64]), torch.float32), True, False, 0.25).name
    'fc.weight'
    """

    name: str
    spec: TensorSpec
    first_or_last: bool
    normed: bool
    share: float


@dataclass(frozen=True)
class TrainedMethod(Method):
    """A method that trains: `epochs` from the learning rate `lr` to 0, gradients clipped to norm `clip_grad` (0: not).

    `distill` is the share of the loss that is the distance to the outputs of the network before compression.

    >>> from tersenet.methods import get
    >>> lsq = get("lsq")(bits=3, epochs=2, distill=0.7)
    >>> isinstance(lsq, TrainedMethod), lsq.phases()[0].epochs
    (True, 2)
    """

    needs: ClassVar[str] = "training"

    epochs: Annotated[int, Within(least=0)] = 10
    """Epochs of every phase of the training."""
    lr: Annotated[float, Within(above=0, most=1e6)] = 0.01
    """Learning rate at the start; it falls to 0 along a cosine."""
    weight_decay: Annotated[float, Within(least=0)] = 1e-4
    """Weight decay."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum 0.9, or AdamW."""
    clip_grad: Annotated[float, Within(least=0)] = 0.0
    """Largest norm of the gradient; 0 does not clip."""
    distill: Annotated[float, Within(0, 1)] = 0.0
    """Share of the loss that is the distance to the outputs of the original network."""
    compile: bool = False
    """Compile the network with torch.compile."""
    seed: Seed = 0
    """Seed of everything random in the training."""

    def check(self) -> None:
        """No batch norm that is folded."""
        if self.bn == "fold":
            raise UsageError('bn="fold" cannot be trained: give bn="scale-shift" or bn="keep"')

    @abstractmethod
    def quantizer(self, target: Target, weight: Tensor) -> Quantizer | None:
        """What stands in for `weight` (in its original dtype); None to leave it as it is."""

    def targets(self, network: nn.Module, specs: Mapping[str, TensorSpec], layers: Sequence[Layer]) -> list[str]:
        """The tensors that may get a quantizer: matrices from 256 elements on that are not left out."""
        return [name for name, spec in specs.items() if why_kept(name, spec, self) is None]

    def input_quantizer(self, target: Target) -> InputRounder | None:
        """What rounds the input of the layer whose weight is `target`; None to leave it as it is."""
        return None

    @property
    def rounds_inputs(self) -> bool:
        """Whether any layer is meant to round its input."""
        return False

    @property
    def full_precision(self) -> bool:
        """Whether nothing is quantised: the control."""
        return False

    def plan(self, network: nn.Module, job: Job) -> tuple["TrainedMethod", Mapping[str, Any]]:
        """The method with everything chosen that depends on the network, and what to record about it."""
        return self, {}

    def on_start(self, network: nn.Module) -> None:
        """Called with the network that is to be trained, before it is given weights to start from and quantizers: what
        else it starts from, and what in it is not trained."""

    def phases(self) -> tuple[Phase, ...]:
        """The parts of the training, in order."""
        return (Phase(self, self.epochs, self.lr),)

    def make_optimizer(self, network: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
        """The optimizer of a phase; its groups' learning rates fall in proportion."""
        return make_optimizer(network, schedule)

    def on_phase(self, network: nn.Module, phase: int, job: Job) -> None:
        """Called when phase number `phase` begins, and again where it is resumed: freeze parameters, register hooks."""

    def on_epoch(self, network: nn.Module, epoch: int, optimizer: torch.optim.Optimizer, job: Job) -> None:
        """Called where an epoch of a phase begins: regroup, prune, lower precisions. What it changes has to be in
        parameters and buffers, whose shapes stay."""

    def after_step(self, network: nn.Module) -> None:
        """Called when the optimizer has made a step (the quantizers' own `after_step` has run already)."""

    def conclude(self, network: nn.Module, job: Job) -> Mapping[str, Any]:
        """Called when all training is over: the last decisions, and what to record about them."""
        return {}

    def learned_bits(self, network: nn.Module) -> Mapping[str, int]:
        """The width of every weight, where the training chose it: a file `layer_bits.json` in the run folder, which
        `layer_bits` reads."""
        return {}

    def reason(self, name: str, spec: TensorSpec) -> str:
        """Why a tensor without a quantizer was kept."""
        return why_kept(name, spec, self) or FULL_PRECISION

    def sample_passes(self, task: Task | None) -> float:
        """Every epoch runs all training samples forward and back, twice forward where it distills."""
        epochs = sum(phase.epochs for phase in self.phases())
        return epochs * samples(task, "train") * (4.0 if self.distill else 3.0) if task and epochs else 0.0

    def attach(
        self,
        module: nn.Module,
        specs: Mapping[str, TensorSpec],
        inputs: Iterable[Given],
        aliases: Mapping[str, str] | None = None,
    ) -> nn.Module:
        """Put quantizers in front of the weights and inputs of `module` (in place) and set them on `inputs`.

        **Raises** `InputError` if there is nothing to quantise, no input, or a layer that never runs; `WeightError`.
        """
        if self.full_precision:
            return module
        held = [part if isinstance(part, Batch) else Batch(part) for part in islice(inputs, CALIBRATION_BATCHES)]
        if not held:
            raise InputError("there are no calibration inputs: the train split is empty")
        if not all(bool(torch.isfinite(part).all()) for batch in held for part in tensors(batch.inputs)):
            raise InputError("the first training inputs have NaN or infinity: check the data")
        with eval_without_grad(module):
            layers = find_layers(module, held[0].first(2))
        targets = self._targets(module, specs, layers)
        made = {name: self._quantizer(module, target) for name, target in targets.items()}
        weights = {name: quantizer for name, quantizer in made.items() if quantizer is not None}
        if weights:
            attach.attach_weights(module, weights, aliases or {})
            reestimate(module, held)
        rounded = {
            layer.path: self.input_quantizer(targets[layer.weight]) for layer in layers if layer.weight in targets
        }
        rounds = {path: quantizer for path, quantizer in rounded.items() if quantizer is not None}
        if self.rounds_inputs and not rounds:
            warnings.warn("act_bits has no effect: no layer between the first and the last", stacklevel=2)
        if rounds:
            attach.attach_inputs(module, rounds, held)
        return module

    def _targets(
        self, module: nn.Module, specs: Mapping[str, TensorSpec], layers: Sequence[Layer]
    ) -> dict[str, Target]:
        names = without_recurrent(module, self.targets(module, specs, layers), self.name)
        if not names:
            raise InputError("no tensor of this network can be quantised (all too small, left out, or frozen)")
        ends = {layers[0].weight, layers[-1].weight} if layers else set()
        normed = {layer.weight for layer in layers if layer.batch_norm}
        total = sum(specs[name].shape.numel() for name in names)
        return {
            name: Target(name, specs[name], name in ends, name in normed, specs[name].shape.numel() / total)
            for name in names
        }

    def _quantizer(self, module: nn.Module, target: Target) -> Quantizer | None:
        part, leaf = attach.owner_of(module, target.name)
        weight = getattr(part, leaf).detach()
        check_finite(target.name, weight)
        made = self.quantizer(target, weight.to(target.spec.dtype))
        return None if made is None else made.to(weight.device)

    def compress(self, job: Job) -> Iterator[Item]:
        """Train a copy of the network and yield it, quantised. **Raises** `UsageError` without network or task."""
        module, task = job.network_and_task(self.name, "trains")
        task.split("train")
        processes = Processes()
        with run_of(self, job) as folder:
            network = deepcopy(module).float().to(processes.device)
            method, facts = self.plan(network, job)
            training = Training(method, job, network, processes, folder)
            method.on_start(network)
            if job.run is not None and job.run.start is not None:
                begin_with(network, job.run.start)
            network = training.trained()
            found = {**facts, **method.conclude(network, job)}
            if folder is not None and (bits := method.learned_bits(network)):
                folder.write_bits(bits)
        yield from settled(network, method.pieces(network, job.source))
        yield from ((name, ProvenanceNote(each)) for name, each in found.items())

    def pieces(self, network: nn.Module, source: TensorSource) -> Iterator[Item]:
        """The network that quantizers are attached to, as tensors and activations; it is left as it is."""
        state = attach.latent_state(network)
        if self.bn == "scale-shift":
            for prefix in batch_norms(source.specs, source.aliases):
                eps = float(network.get_submodule(prefix).eps)  # type: ignore[arg-type]
                parts = {part: state[f"{prefix}.{part}"] for part in BN_PARTS}
                state |= {f"{prefix}.{part}": value for part, value in scale_and_shift(parts, eps).items()}
        quantised = {source.aliases.get(name, name): entry for name, entry in attach.frozen_weights(network).items()}
        recurrent = recurrent_weights(network)
        for name, spec in source.specs.items():
            if name in quantised:
                yield name, quantised[name]
                continue
            reason = self.reason(name, spec)
            if name in recurrent and reason == FULL_PRECISION:
                reason = "recurrent layer"
            value = state[name].detach().to("cpu", spec.dtype) if name in state else source.read(name)
            yield name, keep(value, reason, self.kept_dtype)
        yield from attach.frozen_inputs(network).items()


def settled(network: nn.Module, pieces: Iterable[Item]) -> Iterator[Item]:
    """`pieces` of `network`, which from now on computes with what is kept as it is stored."""
    for name, piece in pieces:
        if isinstance(piece, KeptTensor):
            part, leaf = attach.owner_of(network, name)
            with torch.no_grad():
                getattr(part, leaf).copy_(piece.dequantize())
        yield name, piece
