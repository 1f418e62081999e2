"""Judging a network: its metric, its agreement with a reference, and how sure that is."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.task import Task
from ..errors import InputError


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` samples with the ends of its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int

    def times(self, factor: float) -> "Estimate":
        """The same in another unit."""
        return Estimate(self.mean * factor, self.low * factor, self.high * factor, self.n)


@dataclass(frozen=True)
class Evaluation:
    """What a network scores, and against a reference: the drop (reference minus network, paired) and the agreement.

    `drop` is positive when the network is worse, whatever the direction of the metric. Without labels there is only the
    agreement, and the drop is what it lacks to 1.
    """

    metric: Estimate | None = None
    reference: Estimate | None = None
    drop: Estimate | None = None
    agreement: Estimate | None = None


def estimate(scores: Tensor) -> Estimate:
    """The mean of per-sample `scores` ([n]) with a 95 % interval: Wilson's for shares, else the normal one.

    >>> estimate(torch.tensor([1.0, 1.0, 0.0, 1.0])).mean
    0.75
    """
    scores = scores.to(torch.float64)
    n, mean, z = scores.numel(), float(scores.mean()), 1.959964
    if ((scores == 0) | (scores == 1)).all():
        middle = (mean + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return Estimate(mean, max(0.0, middle - half), min(1.0, middle + half), n)
    half = z * float(scores.std()) / math.sqrt(n) if n > 1 else math.inf
    return Estimate(mean, mean - half, mean + half, n)


def evaluate(module: nn.Module, task: Task, split: str = "test", reference: nn.Module | None = None) -> Evaluation:
    """Run `module` (and `reference`) on a split of `task`, in evaluation mode and without gradients.

    Batches are `(inputs, targets)`, or inputs alone where there are no labels: then only the agreement is measured.

    **Raises** `InputError` if the split is missing or empty, or the metric does not return one score per sample.
    """
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    own, other, agree = [], [], []
    was_training = module.training
    module.eval()
    with torch.inference_mode():
        for batch in task.split(split):
            inputs, targets = (None if part is None else part.to(device) for part in _parts(batch, split))
            assert inputs is not None
            outputs = module(inputs)
            expected = None if reference is None else reference.eval()(inputs)
            if targets is not None:
                own.append(_checked(task.metric(outputs, targets), len(inputs)))
            if expected is not None:
                agree.append(_checked(task.agreement(outputs, expected), len(inputs)))
                if targets is not None:
                    other.append(_checked(task.metric(expected, targets), len(inputs)))
    module.train(was_training)
    if not own and not agree:
        raise InputError(f"the {split} split of the task is empty or has no labels: give it at least one batch")
    agreement = estimate(torch.cat(agree)) if agree else None
    if not own:
        return Evaluation(drop=paired(1 - torch.cat(agree)), agreement=agreement)
    scores = torch.cat(own)
    if not other:
        return Evaluation(estimate(scores))
    sign = 1 if task.higher_is_better else -1
    difference = (torch.cat(other) - scores) * sign
    return Evaluation(estimate(scores), estimate(torch.cat(other)), paired(difference), agreement)


def _parts(batch: Any, split: str) -> tuple[Tensor, Tensor | None]:
    return (batch, None) if isinstance(batch, Tensor) else checked_batch(batch, split)


def checked_batch(batch: Any, split: str) -> tuple[Tensor, Tensor]:
    """**Raises** `InputError` unless `batch` is a pair of tensors."""
    if not (isinstance(batch, list | tuple) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
        raise InputError(
            f"the {split} split gave a {type(batch).__name__}; it must give pairs of tensors (inputs, targets): "
            "wrap a network that takes more in a module that takes one tensor"
        )
    return batch[0], batch[1]


def paired(difference: Tensor) -> Estimate:
    """The mean of paired differences ([n]) with a 95 % interval.

    Where every difference is -1, 0 or 1 (right or wrong), the interval of Bonett and Price (2012), which is not empty
    where nothing differed: with a and b the numbers of 1 and -1, `p = (a + 1) / (n + 2)`, `q = (b + 1) / (n + 2)`,
    `p - q +- 1.96 sqrt((p + q - (p - q)^2) / (n + 2))`. Else the normal interval.

    >>> round(paired(torch.zeros(198)).high, 5)
    0.01386
    """
    difference = difference.to(torch.float64)
    n, mean, z = difference.numel(), float(difference.mean()), 1.959964
    if ((difference == 0) | (difference.abs() == 1)).all():
        p, q = ((float((difference == side).sum()) + 1) / (n + 2) for side in (1, -1))
        half = z * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
        return Estimate(mean, min(mean, p - q - half), max(mean, p - q + half), n)
    half = z * float(difference.std()) / math.sqrt(n) if n > 1 else math.inf
    return Estimate(mean, mean - half, mean + half, n)


def _checked(scores: Tensor, samples: int) -> Tensor:
    if scores.shape != (samples,):
        raise InputError(
            f"the task's metric returned shape {list(scores.shape)} for {samples} samples: "
            f"return one score per sample (shape [{samples}]), not a mean"
        )
    return scores.to("cpu", torch.float64)
