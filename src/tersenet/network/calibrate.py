"""The images that a method may look at before it is judged on others."""

from torch import Tensor

from ..analysis.evaluate import checked_batch
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
