"""Judging a network: its metric, its agreement with a reference, and how sure that is."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.task import Task
from ..errors import InputError
from ..network.calibrate import checked_batch
from .intervals import Estimate, estimate, paired


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
        same = torch.cat(agree)
        return Evaluation(drop=paired(torch.ones_like(same), same), agreement=agreement)
    scores = torch.cat(own)
    if not other:
        return Evaluation(estimate(scores))
    original = torch.cat(other)
    drop = paired(original, scores) if task.higher_is_better else paired(scores, original)
    return Evaluation(estimate(scores), estimate(original), drop, agreement)


def _parts(batch: Any, split: str) -> tuple[Tensor, Tensor | None]:
    return (batch, None) if isinstance(batch, Tensor) else checked_batch(batch, split)


def _checked(scores: Tensor, samples: int) -> Tensor:
    if scores.shape != (samples,):
        raise InputError(
            f"the task's metric returned shape {list(scores.shape)} for {samples} samples: "
            f"return one score per sample (shape [{samples}]), not a mean"
        )
    return scores.to("cpu", torch.float64)
