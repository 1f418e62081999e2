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


@dataclass(frozen=True)
class Evaluation:
    """What a network scores, and against a reference: the drop (reference minus network, paired) and the agreement.

    `drop` is positive when the network is worse, whatever the direction of the metric.
    """

    metric: Estimate
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

    **Raises** `InputError` if the split is missing or empty, or the metric does not return one score per sample.
    """
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    own, other, agree = [], [], []
    was_training = module.training
    module.eval()
    with torch.inference_mode():
        for batch in task.split(split):
            inputs, targets = (part.to(device) for part in checked_batch(batch, split))
            outputs = module(inputs)
            own.append(_checked(task.metric(outputs, targets), len(targets)))
            if reference is not None:
                expected = reference.eval()(inputs)
                other.append(_checked(task.metric(expected, targets), len(targets)))
                agree.append(_checked(task.agreement(outputs, expected), len(targets)))
    module.train(was_training)
    if not own:
        raise InputError(f"the {split} split of the task is empty: give it at least one batch")
    scores = torch.cat(own)
    if reference is None:
        return Evaluation(estimate(scores))
    sign = 1 if task.higher_is_better else -1
    difference = (torch.cat(other) - scores) * sign
    return Evaluation(estimate(scores), estimate(torch.cat(other)), _paired(difference), estimate(torch.cat(agree)))


def checked_batch(batch: Any, split: str) -> tuple[Tensor, Tensor]:
    """**Raises** `InputError` unless `batch` is a pair of tensors."""
    if not (isinstance(batch, list | tuple) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
        raise InputError(
            f"the {split} split gave a {type(batch).__name__}; it must give pairs of tensors (inputs, targets): "
            "wrap a network that takes more in a module that takes one tensor"
        )
    return batch[0], batch[1]


def _paired(difference: Tensor) -> Estimate:
    n = difference.numel()
    mean = float(difference.mean())
    half = 1.959964 * float(difference.std()) / math.sqrt(n) if n > 1 else math.inf
    return Estimate(mean, mean - half, mean + half, n)


def _checked(scores: Tensor, samples: int) -> Tensor:
    if scores.shape != (samples,):
        raise InputError(
            f"the task's metric returned shape {list(scores.shape)} for {samples} samples: "
            f"return one score per sample (shape [{samples}]), not a mean"
        )
    return scores.to("cpu", torch.float64)
