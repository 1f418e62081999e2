"""The images that a method may look at before it is judged on others."""

from typing import Any

from torch import Tensor

from ..core.task import Task
from ..errors import InputError


def calibration(task: Task, samples: int) -> list[tuple[Tensor, Tensor]]:
    """The first `samples` images of the calibration split, in its batches. **Raises** `InputError` if it is empty."""
    found, count = [], 0
    for batch in task.split("calibration"):
        inputs, targets = checked_batch(batch, "calibration")
        left = samples - count
        found.append((inputs[:left], targets[:left]))
        count += len(found[-1][0])
        if count >= samples:
            break
    if not count:
        raise InputError("the calibration split of the task is empty: give it at least one batch")
    return found


def checked_batch(batch: Any, split: str) -> tuple[Tensor, Tensor]:
    """**Raises** `InputError` unless `batch` is a pair of tensors."""
    if not (isinstance(batch, list | tuple) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
        raise InputError(
            f"the {split} split gave a {type(batch).__name__}; it must give pairs of tensors (inputs, targets): "
            "wrap a network that takes more in a module that takes one tensor"
        )
    return batch[0], batch[1]
