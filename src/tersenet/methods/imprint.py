"""Mixed precision by layer importance: score, allocate bits, train briefly at them.

A layer is important if imprinting a classifier after it (class means of its features, one forward pass, no gradients)
gains accuracy over imprinting one after the layer before it. `ladder` lowers the least important layers first, rung by
rung, until the average width is met; first and last layer stay at 8 bits. Then the network is fine-tuned with the
quantizers that `base` names. Scores, order and bits are in the file's provenance. (After Elkerdawy et al. 2020, who
prune by this score; the mixed-precision method itself was available to us in words only, so the details are ours.)

Other scores for comparison: Fisher, Hessian trace, the loss increase when only this layer is rounded, random, and the
imprinting order reversed. `optimum` instead of the ladder minimises `sum(score x squared rounding error)` exactly.

Needs the network's code, labelled training data, a calibration split with every class, and a validation split.

Use it when layers should get different widths and the choice has to be made before training, from forward passes
alone. Not when the best order of layers is what counts: on ResNet-20 Fisher and Hessian scores, and the order
reversed, did better at equal bytes. It costs a forward pass over the calibration images per layer, then a short
training.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from torch import nn

from ..analysis.allocate import average, ladder, optimum
from ..analysis.layer_costs import scores_of
from ..analysis.scores import imprint, rank
from ..core.batch import Batch
from ..core.fields import Within
from ..core.method import Job, Knob
from ..core.task import Task
from ..errors import InputError, UsageError
from ..network.kept import why_kept
from ..network.layers import eval_without_grad, find_layers
from ..quantizers.bases import first_rounding
from ..training.levels import TrainedOnLevels
from ..training.method import TrainedMethod


@dataclass(frozen=True)
class Imprinted(TrainedOnLevels):
    """`average_bits` per weight over all quantised layers, each on one of `rungs`, with the levels of `base`."""

    reference: ClassVar[str] = """@inproceedings{elkerdawy2020imprinting,
  title = {One-Shot Layer-Wise Accuracy Approximation for Layer Pruning},
  author = {Elkerdawy, Sara and Elhoushi, Mostafa and Singh, Abhineet and Zhang, Hong and Ray, Nilanjan},
  booktitle = {ICIP}, year = {2020}
}"""
    QUICK: ClassVar[Mapping[str, Any]] = {"average_bits": 6.0, "act_bits": 4, "epochs": 1}

    average_bits: Annotated[float, Within(1, 8)] = 4.0
    """Mean bits per weight over all quantised layers."""
    rungs: tuple[Annotated[int, Within(2, 8)], ...] = (8, 4, 2)
    """Widths that a layer may have, from high to low."""
    base: Literal["uniform", "pot", "apot"] = "uniform"
    """Levels: uniform (LSQ), pot or apot."""
    score: Literal["imprint", "reversed", "fisher", "hessian", "sensitivity", "random"] = "imprint"
    """What tells the importance of a layer."""
    allocation: Literal["ladder", "optimum"] = "ladder"
    """How scores become bits: lower the least important first, or the exact optimum."""
    epochs: Annotated[int, Within(least=0)] = 2

    def check(self) -> None:
        """Two rungs or more that the levels have, and no width chosen otherwise."""
        if len(set(self.rungs)) < 2:
            raise UsageError(f"rungs={self.rungs}: expected two widths or more")
        if self.stages or self.bits != type(self).bits:
            raise UsageError("imprint chooses the bits of layers itself: leave out stages= and bits=")
        for bits in self.rungs:
            self.kind.check(bits)

    @property
    def levels_name(self) -> str:
        """Which levels of `quantizers.bases`."""
        return self.base

    @property
    def knob(self) -> Knob:
        """The average width, in quarters of a bit."""
        return Knob("average_bits", tuple(8 - k / 4 for k in range(25)))

    def plan(self, network: nn.Module, job: Job) -> tuple[TrainedMethod, Mapping[str, Any]]:
        """The bits of every layer, from its score. **Raises** `BudgetError`, `InputError`."""
        source, (_, task) = job.source, job.network_and_task(self.name, "trains")
        if self.layer_bits:
            return self, {}
        batches = list(task.batches("calibration"))
        if not batches:
            raise InputError("the calibration split of the task is empty: scores need images of every class")
        with eval_without_grad(network):
            layers = [layer.weight for layer in find_layers(network, batches[0].first(2))]
        names = [name for name in layers if why_kept(name, source.specs[name], self) is None]
        pinned = {name: 8 for name in names if name in (layers[0], layers[-1])}
        middle = [name for name in names if name not in pinned]
        if len(middle) < 2:
            raise InputError(
                f"{len(middle)} layers between the first and the last can be quantised; choosing needs two"
            )
        scores, details = self._scores(network, task, middle, batches)
        sizes = {name: source.specs[name].shape.numel() for name in names}
        if self.allocation == "ladder":
            bits = ladder(rank(scores), self.rungs, lambda bits: average(sizes, bits), self.average_bits, pinned)
        else:
            bits = optimum(self._losses(network, names, scores, pinned), sizes, self.average_bits)
        found = {"scores": scores, "order": rank(scores), "bits": bits, "average": average(sizes, bits), **details}
        return replace(self, layer_bits=bits), {"importance": found}

    def learned_bits(self, network: nn.Module) -> Mapping[str, int]:
        """What `plan` gave."""
        return self.layer_bits

    def _scores(
        self, network: nn.Module, task: Task, names: list[str], batches: list[Batch]
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """The score of every layer, and what is worth recording beside it."""
        details: dict[str, Any] = {}
        if self.score in ("imprint", "reversed"):
            imprinted = imprint(network, batches, task.batches("validation"), self.seed)
            sign = 1 if self.score == "imprint" else -1
            scores = {name: sign * imprinted.scores().get(name, 0.0) for name in names}
            details = {"accuracies": imprinted.accuracies, "gains": imprinted.gains, "intervals": imprinted.intervals}
        else:
            low, to_round = min(self.rungs), names if self.score == "sensitivity" else []
            rounded = {name: first_rounding(self.kind, network.get_parameter(name).detach(), low) for name in to_round}
            scores = scores_of(self.score, network, task, names, self.seed, rounded)
        return scores, details

    def _losses(
        self, network: nn.Module, names: list[str], scores: Mapping[str, float], pinned: Mapping[str, int]
    ) -> dict[str, dict[int, float]]:
        """`score x squared rounding error` of every layer at every rung; negative scores count as 0."""
        losses: dict[str, dict[int, float]] = {}
        for name in names:
            weight = network.get_parameter(name).detach()
            widths = (pinned[name],) if name in pinned else self.rungs
            errors = {bits: float((first_rounding(self.kind, weight, bits) - weight).square().sum()) for bits in widths}
            losses[name] = {bits: max(0.0, scores.get(name, 0.0)) * error for bits, error in errors.items()}
        return losses
