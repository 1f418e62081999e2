"""How good a network is at every class."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.task import Task


@dataclass(frozen=True)
class ClassScore:
    """A class: its number, its samples, how many of them a network gets right, and how many its reference got right
    (None without one)."""

    label: int
    n: int
    right: int
    before: int | None = None

    @property
    def drop(self) -> float:
        """Points of accuracy that were lost."""
        return 0.0 if self.before is None else 100 * (self.before - self.right) / self.n


def by_class(module: nn.Module, task: Task, split: str, reference: nn.Module | None = None) -> list[ClassScore]:
    """Every class that occurs in a split, the worst first: by drop, then by accuracy. Empty where the task has no
    labels of classes.

    **Raises** `InputError` if the split is missing.
    """
    labels, right, before = [], [], []
    training = module.training
    module.eval()
    with torch.inference_mode():
        for batch in task.batches(split):
            outputs, targets = batch.outputs(module), batch.targets
            if not (isinstance(targets, Tensor) and targets.dim() == 1 and not targets.is_floating_point()):
                continue
            if outputs.dim() != 2 or len(outputs) != len(targets):
                continue
            counted = targets >= 0
            truth = targets.to(outputs.device)
            labels.append(targets[counted].cpu())
            right.append((outputs.argmax(1) == truth).cpu()[counted.cpu()])
            if reference is not None:
                before.append((batch.outputs(reference.eval()).argmax(1) == truth).cpu()[counted.cpu()])
    module.train(training)
    if not labels or not len(truths := torch.cat(labels)):
        return []
    sums = [torch.bincount(truths, weights=torch.cat(parts).double()) for parts in (right, before) if parts]
    counts = torch.bincount(truths)
    found = [
        ClassScore(label, n, int(sums[0][label]), int(sums[1][label]) if before else None)
        for label, n in enumerate(counts.tolist())
        if n
    ]
    return sorted(found, key=lambda each: (-each.drop, each.right / each.n, each.label))
