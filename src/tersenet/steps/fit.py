"""The one training loop: deterministic by seed, resumable at any step, and stopped by the first NaN."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..core.batch import IGNORED, Batch, read
from ..core.task import Task
from ..errors import InputError, TrainingError
from ..progress import progress
from .evaluate import evaluate
from .processes import Processes
from .randomness import random_state, restore, seed_all, seeded
from .run import Run
from .scores import ratio

MOMENTUM = 0.9


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: `lr` falls to 0 along a cosine; gradients are clipped to norm `clip` (0: not).

    `distill` is the share of the loss that is the distance to a teacher's outputs: `T^2 KL(softmax(teacher / T),
    softmax(outputs / T))`, T = 4, where agreement is that of classes, else the relative squared error.
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
    `schedule.distill` is about. Parts of the module may have `lr_factor` (of their own parameters) and `decays`
    (False: no weight decay).

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
            batch = read(batch, task, "train")
            rate = schedule.lr * (1 + math.cos(math.pi * step / total)) / 2
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            anneal(step / total, rate / (1 - MOMENTUM) if schedule.optimizer == "sgd" else rate)
            wanted = None
            if teacher is not None:
                with torch.no_grad():
                    wanted = batch.seen(_forward(teacher, batch, processes))
            loss, outputs = _loss(_forward(runner, batch, processes), batch, wanted, schedule.distill)
            (loss + penalty()).backward()
            score = _score(batch, outputs.detach())
            lost = float(processes.mean(loss.detach()))
            norm = nn.utils.clip_grad_norm_(parameters, schedule.clip or math.inf)
            if not (math.isfinite(lost) and math.isfinite(float(norm))):
                raise TrainingError(_not_finite(lost, step, total, run))
            optimizer.step()
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


def _forward(runner: nn.Module, batch: Batch, processes: Processes) -> Any:
    """What the network returns (computed in bf16 on a GPU)."""
    with torch.autocast(processes.device.type, torch.bfloat16, enabled=processes.device.type == "cuda"):
        return batch.run(runner)


def _loss(raw: Any, batch: Batch, wanted: Tensor | None, share: float) -> tuple[Tensor, Tensor]:
    """The loss, `share` of it the distance to the outputs that are `wanted`, and the outputs.

    Where the task has no loss, the distance is all of it.
    """
    outputs = batch.seen(raw)
    _check_labels(batch, outputs)
    if wanted is not None and batch.targets is None and batch.own_loss(raw) is None:
        return batch.distance(outputs, wanted), outputs
    loss, _ = batch.loss(raw)
    if wanted is not None:
        loss = (1 - share) * loss + share * batch.distance(outputs, wanted)
    return loss, outputs


def _score(batch: Batch, outputs: Tensor) -> float:
    """The metric on one batch, as it is now (NaN where the task has none for it)."""
    rows = batch.scores(outputs)
    if rows is None:
        return math.nan
    assert batch.task is not None
    return float((batch.task.aggregate or ratio)(rows))


def _validate(module: nn.Module, task: Task) -> float:
    """The mean score on the validation split (NaN without labels); leaves module and random states as they were."""
    state = random_state()
    first = next(task.batches("validation"), None)
    found = evaluate(module, task, "validation").metric if first is not None and task.measures(first) else None
    restore(state)
    return math.nan if found is None else found.mean


def _check_labels(batch: Batch, outputs: Tensor) -> None:
    labels, task = batch.targets, batch.task
    if task is None or not task.classifies or not isinstance(labels, Tensor) or labels.is_floating_point():
        return
    labels = labels[labels != IGNORED]
    if outputs.dim() == 2 and batch.targets.dim() == 1 and labels.numel():
        low, high, classes = int(labels.min()), int(labels.max()), outputs.shape[1]
        if low < 0 or high >= classes:
            raise InputError(
                f"the train split has labels from {low} to {high}, but the network has {classes} outputs "
                f"(labels 0 to {classes - 1}): correct the task or the network"
            )


def _optimizer(module: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for part in module.modules():
        kind = (getattr(part, "lr_factor", 1.0), getattr(part, "decays", True))
        for parameter in part.parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                groups.setdefault(kind, []).append(parameter)
    listed = [
        {"params": found, "factor": factor, "weight_decay": schedule.weight_decay if decays else 0.0}
        for (factor, decays), found in groups.items()
    ]
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(listed, lr=schedule.lr)
    return torch.optim.SGD(listed, lr=schedule.lr, momentum=MOMENTUM)


def _count(batches: Any) -> int:
    try:
        return len(batches)
    except TypeError:
        return sum(1 for _ in batches)


def samples(task: Task, split: str) -> int:
    """About how many samples a split holds: the number of its batches times the size of the first."""
    first = next(task.batches(split), None)
    return 0 if first is None else _count(task.split(split)) * len(first)


def _not_finite(loss: float, step: int, total: int, run: Run | None) -> str:
    kept = f"the last good state is in {run.folder}" if run else "nothing was kept: give --run FOLDER to keep states"
    return (
        f"the loss is {loss} or a gradient is not finite at step {step + 1} of {total}: training stopped before it "
        f"changed a weight; {kept}. Check the data for NaN, lower --lr, or set --clip-grad 1"
    )
