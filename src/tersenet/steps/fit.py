"""The one training loop: deterministic by seed, resumable at any step, and stopped by the first NaN."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.task import Task
from ..errors import InputError, TrainingError
from ..progress import progress
from ..quantizers.attach import after_step, param_groups
from .evaluate import checked_batch, evaluate
from .processes import Processes
from .randomness import random_state, restore, seed_all, seeded
from .run import Run

MOMENTUM = 0.9
TEMPERATURE = 4.0  # of distillation


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: `lr` falls to 0 along a cosine; gradients are clipped to norm `clip` (0: not).

    `distill` is the share of the loss that is `T^2 KL(softmax(teacher / T), softmax(outputs / T))`, T = 4.
    """

    epochs: int
    lr: float
    weight_decay: float = 1e-4
    optimizer: str = "sgd"
    clip: float = 0.0
    distill: float = 0.0
    seed: int = 0
    compile: bool = False


@seeded(0)  # every epoch has its own seed
def fit(
    module: nn.Module,
    task: Task,
    schedule: Schedule,
    *,
    penalty: Callable[[], Tensor],
    anneal: Callable[[float, float], None],
    title: str = "training",
    teacher: nn.Module | None = None,
    processes: Processes | None = None,
    run: Run | None = None,
    around: Mapping[str, Any] | None = None,
    saved: Mapping[str, Any] | None = None,
) -> None:
    """Train `module` in place on the `train` split, minimising `task.loss + penalty()`.

    `anneal(progress in [0, 1], rate)` is called before every step; the rate is what a lasting gradient moves a weight
    per step: the learning rate over 1 - momentum. With `run`, checkpoints go there every few minutes: `around` plus
    model, optimizer, step and random states; `saved` is such a checkpoint to go on from, and the result is that of a
    training that never stopped, bit for bit on a CPU, if the batches depend on nothing but the global generators of
    torch, Python and numpy (not on a generator that a data loader keeps to itself). `teacher` gives the outputs that
    `schedule.distill` is about.

    **Raises** `InputError` for an empty split, labels out of range; `TrainingError` for a loss or a gradient that is
    not finite, before it changes a weight.
    """
    processes = processes or Processes()
    batches = task.split("train")
    per_epoch = _count(batches) // processes.count
    if per_epoch == 0:
        raise InputError("the train split of the task is empty: give it at least one batch for every process")
    optimizer, total, step = _optimizer(module, schedule), schedule.epochs * per_epoch, 0
    if saved is not None:
        module.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    runner = processes.wrap(cast(nn.Module, torch.compile(module)) if schedule.compile else module)
    parameters = [p for p in module.parameters() if p.requires_grad]

    def checkpoint() -> None:
        if run is not None and processes.rank == 0:
            state = {"model": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            run.save({**(around or {}), **state, "random": random_state()})

    module.train()
    if saved is None:
        checkpoint()
    while step < total:
        epoch, skip = divmod(step, per_epoch)
        seed_all(schedule.seed * 1_000_003 + epoch)
        shared = islice(processes.share(batches), per_epoch)
        for _ in range(skip):
            next(shared)
        if skip and saved is not None:
            restore(saved["random"])
        for batch in shared:
            inputs, targets = checked_batch(batch, "train")
            rate = schedule.lr * (1 + math.cos(math.pi * step / total)) / 2
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            anneal(step / total, rate / (1 - MOMENTUM) if schedule.optimizer == "sgd" else rate)
            targets = targets.to(processes.device)
            outputs = _forward(runner, inputs, processes)
            _check_labels(task, outputs, targets)
            loss = task.loss(outputs, targets)
            if teacher is not None:
                with torch.no_grad():
                    wanted = _forward(teacher, inputs, processes)
                loss = (1 - schedule.distill) * loss + schedule.distill * distance(outputs, wanted)
            (loss + penalty()).backward()
            score = float(task.metric(outputs.detach(), targets).float().mean())
            lost = float(processes.mean(loss.detach()))
            norm = nn.utils.clip_grad_norm_(parameters, schedule.clip or math.inf)
            if not (math.isfinite(lost) and math.isfinite(float(norm))):
                raise TrainingError(_not_finite(lost, step, total, run))
            optimizer.step()
            after_step(module)
            optimizer.zero_grad()
            step += 1
            if run is not None and processes.rank == 0 and step % max(1, per_epoch // 20) == 0:
                run.log(step, **{"loss": lost, "train score": score, "learning rate": rate})
            done = f"{title}, epoch {epoch + 1}/{schedule.epochs}, loss {lost:.3f}, train {score:.3f}"
            progress(done, step, total)
            if run is not None and run.due:
                checkpoint()
        if step == epoch * per_epoch + skip:
            raise InputError("the train split gave no batch: it must be iterable again and again, not an iterator")
        if task.validation is not None and run is not None and processes.rank == 0:
            run.log(step, validation=_validate(module, task))
            checkpoint()
    anneal(1.0, 0.0)
    module.eval()


def _forward(runner: nn.Module, inputs: Tensor, processes: Processes) -> Tensor:
    """The outputs in fp32 (computed in bf16 on a GPU)."""
    device = processes.device
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        outputs = runner(inputs.to(device))
    if not isinstance(outputs, Tensor):
        raise InputError(
            f"the network returned a {type(outputs).__name__}; training needs one tensor: wrap it in a module that "
            "returns that"
        )
    return outputs.float()


def distance(outputs: Tensor, wanted: Tensor) -> Tensor:
    """`T^2 KL(softmax(wanted / T), softmax(outputs / T))`, T = 4 (Hinton et al. 2015). **Shapes**: `[n, classes]`
    twice."""
    ours, theirs = (F.log_softmax(part / TEMPERATURE, 1) for part in (outputs, wanted))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * TEMPERATURE**2


def _validate(module: nn.Module, task: Task) -> float:
    """The mean score on the validation split (NaN without labels); leaves module and random states as they were."""
    state = random_state()
    labelled = not isinstance(next(iter(task.split("validation")), None), Tensor)
    found = evaluate(module, task, "validation").metric if labelled else None
    restore(state)
    return math.nan if found is None else found.mean


def classifies(task: Task) -> bool:
    """Whether the loss of the task is cross-entropy."""
    loss = task.loss.func if isinstance(task.loss, partial) else task.loss
    return loss is F.cross_entropy or isinstance(loss, nn.CrossEntropyLoss)


def _check_labels(task: Task, outputs: Tensor, targets: Tensor) -> None:
    if classifies(task) and outputs.dim() == 2 and targets.dim() == 1 and targets.numel():
        low, high, classes = int(targets.min()), int(targets.max()), outputs.shape[1]
        if low < 0 or high >= classes:
            raise InputError(
                f"the train split has labels from {low} to {high}, but the network has {classes} outputs "
                f"(labels 0 to {classes - 1}): correct the task or the network"
            )


def _optimizer(module: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    groups = [
        {**group, "factor": group["lr"], "lr": schedule.lr * group["lr"]}
        for group in param_groups(module, 1.0, schedule.weight_decay)
    ]
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=schedule.lr)
    return torch.optim.SGD(groups, lr=schedule.lr, momentum=MOMENTUM)


def inputs_of(batches: Iterable[Any], device: torch.device) -> Iterator[Tensor]:
    """The inputs of `(inputs, targets)` batches, on `device`."""
    for batch in batches:
        yield checked_batch(batch, "train")[0].to(device)


def _count(batches: Any) -> int:
    try:
        return len(batches)
    except TypeError:
        return sum(1 for _ in batches)


def samples(batches: Any) -> int:
    """About how many samples the batches hold: their number times the size of the first."""
    first = next(iter(batches), None)
    return 0 if first is None else _count(batches) * len(checked_batch(first, "train")[0])


def _not_finite(loss: float, step: int, total: int, run: Run | None) -> str:
    kept = f"the last good state is in {run.folder}" if run else "nothing was kept: give --run FOLDER to keep states"
    return (
        f"the loss is {loss} or a gradient is not finite at step {step + 1} of {total}: training stopped before it "
        f"changed a weight; {kept}. Check the data for NaN, lower --lr, or set --clip-grad 1"
    )
