"""The samples that a method may look at before it is judged on others."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..core.batch import Batch
from ..core.task import Task
from ..errors import InputError
from .layers import eval_without_grad


def calibration(task: Task, samples: int) -> list[Batch]:
    """The first `samples` samples of the calibration split, in its batches. **Raises** `InputError` if it is empty."""
    found: list[Batch] = []
    count = 0
    for batch in task.batches("calibration"):
        found.append(batch.first(samples - count))
        count += len(found[-1])
        if count >= samples:
            break
    if not count:
        raise InputError("the calibration split of the task is empty: give it at least one batch")
    return found


def with_loss(module: nn.Module, batches: list[Batch]) -> list[Batch]:
    """`batches` that have a loss: without targets and a loss of the network's own, the distance to what `module`
    returns now."""
    found = []
    with eval_without_grad(module), torch.no_grad():
        for batch in batches:
            if batch.targets is None:
                raw = batch.run(module)
                batch = batch if batch.own_loss(raw) is not None else replace(batch, reference=batch.seen(raw))
            found.append(batch)
    return found


def mean_loss(
    module: nn.Module, batches: Sequence[Batch], see: Callable[[Batch, Any], None] = lambda batch, raw: None
) -> float:
    """The mean loss over all samples (or labels that count); `see` is shown what the network returns for each batch.

    **Raises** `InputError` if no label counts.
    """
    total = count = 0.0
    with torch.no_grad():
        for batch in batches:
            raw = batch.run(module)
            see(batch, raw)
            loss, weight = batch.loss(raw)
            total, count = total + float(loss) * weight, count + weight
    if not count:
        raise InputError("no label of these batches counts: all of them are -100")
    return total / count
