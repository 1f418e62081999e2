"""Tasks: what a method may look at, and how the result is judged."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, UsageError

Batches = Iterable[Any]
SPLITS = ("calibration", "train", "validation", "test")


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Top-1 accuracy per sample (1.0 or 0.0). **Shapes**: outputs `[n, classes]`, targets `[n]` -> `[n]`."""
    return (outputs.argmax(1) == targets).to(torch.float32)


def top1_agreement(outputs: Tensor, reference: Tensor) -> Tensor:
    """Whether two networks choose the same class, per sample. **Shapes**: `[n, classes]` twice -> `[n]`."""
    return (outputs.argmax(1) == reference.argmax(1)).to(torch.float32)


@dataclass(frozen=True)
class Task:
    """Named splits, a loss, a metric and a seed.

    A split is anything that can be iterated again and again and yields `(inputs, targets)` batches, such as a
    `DataLoader` or a list; splits that are only looked at for agreement may yield inputs alone. `metric(outputs,
    targets)` returns one score per sample, so that two networks can be compared on the same samples;
    `agreement(outputs, reference_outputs)` likewise, without labels. `points` is what one unit of the metric is in
    points: 100 where it is a share (accuracy), 1 where it is counted in points already (dB, BLEU).

    Methods receive the task without its `test` split (`for_method`).
    """

    test: Batches | None = None
    validation: Batches | None = None
    train: Batches | None = None
    calibration: Batches | None = None
    loss: Callable[[Tensor, Tensor], Tensor] = torch.nn.functional.cross_entropy
    metric: Callable[[Tensor, Tensor], Tensor] = accuracy
    agreement: Callable[[Tensor, Tensor], Tensor] = top1_agreement
    higher_is_better: bool = True
    points: float = 100.0
    seed: int = 0

    def split(self, name: str) -> Batches:
        """The split called `name`.

        **Raises** `InputError` if the task has none (a split is never invented), `UsageError` for another name.
        """
        if name not in SPLITS:
            raise UsageError(f"split={name!r}: expected {', '.join(SPLITS)}")
        batches: Batches | None = getattr(self, name)
        if batches is None:
            has = [n for n in SPLITS if getattr(self, n) is not None]
            raise InputError(
                f"the task has no split {name!r}, only {', '.join(has) or 'none'}: give Task(..., {name}=batches)"
            )
        return batches

    def for_method(self) -> "Task":
        """The same task without the test split: what a method may see."""
        return replace(self, test=None)
