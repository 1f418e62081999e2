"""Judging a network: its metric, its agreement with a reference, and how sure that is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..core.task import Task
from ..errors import InputError
from .aggregates import Aggregate, bounds, plain, ratio, resampled, together
from .intervals import Estimate, estimate, paired

FEWEST = 4  # samples that an interval by resampling is made of


@dataclass(frozen=True)
class Evaluation:
    """What a network scores, and against a reference: the drop (reference minus network, paired) and the agreement.

    `drop` is positive when the network is worse, whatever the direction of the metric. Without labels there is only the
    agreement (called `agreement_name`), and the drop is what it lacks to 1. `worst` is the class that falls most, and
    by how much, where every sample has a class and a number. `comparisons` are those of the task, and where it names
    one (`Task.drop_by`), that is the drop.
    """

    metric: Estimate | None = None
    reference: Estimate | None = None
    drop: Estimate | None = None
    agreement: Estimate | None = None
    agreement_name: str = ""
    worst: tuple[int, float] | None = None
    comparisons: Mapping[str, Estimate] = field(default_factory=dict)


def evaluate(module: nn.Module, task: Task, split: str = "test", reference: nn.Module | None = None) -> Evaluation:
    """Run `module` (and `reference`) on a split of `task`, in evaluation mode and without gradients.

    Without targets only the agreement is measured. Scores of the whole set (rows, `Task.aggregate`) have intervals by
    1000 samples drawn with replacement, the same for both networks, by the task's seed.

    **Raises** `InputError` if the split is missing or empty, there is nothing to measure, or the metric does not return
    one score or row per sample.
    """
    own, other, agree, labels = [], [], [], []
    compared: dict[str, list[Tensor]] = {name: [] for name in task.comparisons}
    training = module.training
    module.eval()
    with torch.inference_mode():
        for batch in task.batches(split):
            outputs = batch.outputs(module)
            scores = batch.scores(outputs)
            if scores is not None:
                own.append(scores)
                labels.append(batch.targets)
            if reference is not None:
                expected = batch.outputs(reference.eval())
                agree.append(batch.agreement(outputs, expected))
                for each, rows in batch.compared(outputs, expected).items():
                    compared[each].append(rows)
                if (theirs := batch.scores(expected)) is not None:
                    other.append(theirs)
    module.train(training)
    if not own and not agree:
        raise InputError(
            f"the {split} split of the task is empty or has no labels that its metric takes: give it at least one "
            "batch, and a metric (the default is for integer labels), or a network to compare with"
        )
    found = {each: _estimated(together(rows), None, task.seed) for each, rows in compared.items() if rows}
    result = _judged(task, own, other, agree, labels)
    return replace(result, comparisons=found, drop=found.get(task.drop_by or "", result.drop))


def _judged(task: Task, own: list[Tensor], other: list[Tensor], agree: list[Tensor], labels: list[Any]) -> Evaluation:
    """Of the rows of the network, of its reference, and of their agreement."""
    name = task.agreement_name if agree else ""
    agreement = _estimated(together(agree), None, task.seed) if agree else None
    if not own:
        return Evaluation(drop=_lacking(together(agree), task.seed), agreement=agreement, agreement_name=name)
    rows = together(own)
    metric = _estimated(rows, task.aggregate, task.seed)
    if not other:
        return Evaluation(metric)
    before = together(other)
    drop = _dropped(before, rows, task)
    worst = _worst(before, rows, labels, task.higher_is_better)
    return Evaluation(metric, _estimated(before, task.aggregate, task.seed), drop, agreement, name, worst)


def _worst(reference: Tensor, rows: Tensor, labels: list[Any], higher: bool) -> tuple[int, float] | None:
    """The class whose mean falls most, and by how much; None where samples have no class, or no number each."""
    before, after = plain(reference), plain(rows)
    classes = [part for part in labels if isinstance(part, Tensor) and part.dim() == 1 and not part.is_floating_point()]
    if before is None or after is None or len(classes) < len(labels):
        return None
    label = torch.cat([part.cpu() for part in classes]).to(torch.int64)
    if len(label) != len(before) or int(label.min()) < 0:
        return None
    fall = torch.zeros(int(label.max()) + 1, dtype=torch.float64)
    fall.index_add_(0, label, (before - after) * (1 if higher else -1))
    counts = torch.bincount(label)
    mean = torch.where(counts > 0, fall / counts.clamp(min=1), -math.inf)
    return int(mean.argmax()), float(mean.max())


def _estimated(rows: Tensor, aggregate: Aggregate | None, seed: int) -> Estimate:
    """The score of `rows`."""
    numbers = plain(rows) if aggregate is None else None
    if numbers is not None:
        return estimate(numbers)
    scored = aggregate or ratio
    return _resampled(float(scored(rows)), resampled(scored, [rows], seed)[0], len(rows))


def _dropped(reference: Tensor, rows: Tensor, task: Task) -> Estimate:
    """How much worse a network is than its reference on the same samples."""
    sign = 1 if task.higher_is_better else -1
    before, after = plain(reference), plain(rows)
    if task.aggregate is None and before is not None and after is not None:
        return paired(before, after) if task.higher_is_better else paired(after, before)
    scored = task.aggregate or ratio
    theirs, ours = resampled(scored, [reference, rows], task.seed)
    return _resampled(sign * (float(scored(reference)) - float(scored(rows))), (theirs - ours) * sign, len(rows))


def _lacking(rows: Tensor, seed: int) -> Estimate:
    """What agreement lacks to 1."""
    numbers = plain(rows)
    if numbers is not None:
        return paired(torch.ones_like(numbers), numbers)
    return _resampled(1 - ratio(rows), 1 - resampled(ratio, [rows], seed)[0], len(rows))


def _resampled(mean: float, values: Tensor, n: int) -> Estimate:
    """An estimate whose bounds are those of `values`, scores of resampled sets."""
    low, least, most, high = bounds(values) if n >= FEWEST else (-math.inf, -math.inf, math.inf, math.inf)
    return Estimate(mean, min(mean, low), max(mean, high), n, min(mean, least), max(mean, most))
