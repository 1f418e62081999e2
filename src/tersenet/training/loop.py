"""The one training loop: deterministic by seed, resumable at any step, and stopped by the first NaN."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..analysis.aggregates import ratio
from ..analysis.evaluate import evaluate
from ..core.batch import IGNORED, Batch, read
from ..core.task import Task
from ..errors import InputError, TrainingError
from ..progress import progress
from ..quantizers.attach import after_step, anneal, param_groups, penalty
from .processes import Processes
from .randomness import random_state, restore, seed_all, seeded
from .run import Run

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


def make_optimizer(module: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, or AdamW, over everything in `module` that is trained; its quantizers' parameters learn
    and decay as these ask."""
    groups = [
        {**group, "factor": group["lr"], "lr": schedule.lr * group["lr"]}
        for group in param_groups(module, 1.0, schedule.weight_decay)
    ]
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=schedule.lr)
    return torch.optim.SGD(groups, lr=schedule.lr, momentum=MOMENTUM)


@dataclass(frozen=True)
class Hooks:
    """What a method does of its own while its network is trained."""

    make_optimizer: Callable[[nn.Module, Schedule], torch.optim.Optimizer] = make_optimizer
    on_epoch: Callable[[nn.Module, int, torch.optim.Optimizer], None] = lambda network, epoch, optimizer: None
    after_step: Callable[[nn.Module], None] = lambda network: None


@dataclass(frozen=True)
class Session:
    """How a training is called, where it runs, and what is kept of it.

    With `run`, checkpoints go there every few minutes: `envelope` plus model, optimizer, step and random states;
    `saved` is such a checkpoint to go on from. `teacher` gives the outputs that `Schedule.distill` is about.
    """

    title: str = "training"
    processes: Processes = field(default_factory=Processes)
    run: Run | None = None
    envelope: Mapping[str, Any] = field(default_factory=dict)
    saved: Mapping[str, Any] | None = None
    teacher: nn.Module | None = None


@seeded(0)  # every epoch has its own seed
def fit(
    module: nn.Module, task: Task, schedule: Schedule, hooks: Hooks | None = None, session: Session | None = None
) -> None:
    """Train `module` in place on the `train` split, minimising `task.loss` and the penalties of its quantizers.

    Before every step the quantizers are told the progress (0 to 1) and what a lasting gradient moves a weight per
    step: the learning rate over 1 - momentum. A training that goes on from a checkpoint gives the result of one that
    never stopped, bit for bit on a CPU, if the batches depend on nothing but the global generators of torch, Python and
    numpy (not on a generator that a data loader keeps to itself).

    **Raises** `InputError` for an empty split, labels out of range; `TrainingError` for a loss or a gradient that is
    not finite, before it changes a weight.
    """
    _Loop(module, task, schedule, hooks or Hooks(), session or Session()).run()


class _Loop:
    """The state of one training: the optimizer and the number of steps made of `total`."""

    def __init__(self, module: nn.Module, task: Task, schedule: Schedule, hooks: Hooks, session: Session) -> None:
        self.module, self.task, self.schedule, self.hooks, self.session = module, task, schedule, hooks, session
        self.processes = session.processes
        self.batches = task.split("train")
        self.per_epoch = count_batches(self.batches) // self.processes.count
        if self.per_epoch == 0:
            raise InputError("the train split of the task is empty: give it at least one batch for every process")
        self.total, self.done = schedule.epochs * self.per_epoch, 0
        self.optimizer = hooks.make_optimizer(module, schedule)
        for group in self.optimizer.param_groups:
            group.setdefault("factor", group["lr"] / schedule.lr)
        if session.saved is not None:
            module.load_state_dict(session.saved["model"])
            self.optimizer.load_state_dict(session.saved["optimizer"])
            self.done = session.saved["step"]
        compiled = cast(nn.Module, torch.compile(module)) if schedule.compile else module
        self.runner = self.processes.wrap(compiled)
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        # Kept until the next step: if nothing were, the allocator would give all memory back and fetch it again in the
        # backward pass, 8 % of a step of ResNet-20.
        self.held: tuple[Tensor, Tensor] | None = None
        self.keeps = session.run if self.processes.rank == 0 else None

    def run(self) -> None:
        """All epochs from where it is, then evaluation mode."""
        self.module.train()
        if self.session.saved is None:
            self._checkpoint()
        while self.done < self.total:
            self._epoch(*divmod(self.done, self.per_epoch))
        anneal(self.module, 1.0, 0.0)
        self.module.eval()

    def _epoch(self, epoch: int, skip: int) -> None:
        """The rest of an epoch of which `skip` steps are made already."""
        seed_all(self.schedule.seed * 1_000_003 + epoch)
        shared = islice(self.processes.share(self.batches), self.per_epoch)
        for _ in range(skip):
            next(shared)
        if not skip:
            self.hooks.on_epoch(self.module, epoch, self.optimizer)
        elif self.session.saved is not None:
            restore(self.session.saved["random"])
        before = self.done
        for batch in shared:
            lost, score = self._step(read(batch, self.task, "train"))
            title = f"{self.session.title}, epoch {epoch + 1}/{self.schedule.epochs}"
            progress(f"{title}, loss {lost:.3f}, train {score:.3f}", self.done, self.total)
            if self.session.run is not None and self.session.run.due:
                self._checkpoint()
        if self.done == before:
            raise InputError("the train split gave no batch: it must be iterable again and again, not an iterator")
        if self.task.validation is not None and self.keeps is not None:
            self.keeps.log(self.done, validation=_validate(self.module, self.task))
            self._checkpoint()

    def _step(self, batch: Batch) -> tuple[float, float]:
        """One step; the loss, and the score on the batch."""
        lr = self.schedule.lr * (1 + math.cos(math.pi * self.done / self.total)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        momentum = self.optimizer.param_groups[0].get("momentum", 0.0)
        anneal(self.module, self.done / self.total, lr / (1 - momentum))
        loss, outputs = self._loss(batch)
        self.held = outputs, loss
        (loss + penalty(self.module)).backward()
        score = _score(batch, outputs.detach())
        lost = float(self.processes.mean(loss.detach()))
        norm = nn.utils.clip_grad_norm_(self.parameters, self.schedule.clip or math.inf)
        if not (math.isfinite(lost) and math.isfinite(float(norm))):
            raise TrainingError(_not_finite(lost, self.done, self.total, self.session.run))
        self.optimizer.step()
        self.optimizer.zero_grad()
        after_step(self.module)
        self.hooks.after_step(self.module)
        self.done += 1
        if self.keeps is not None and self.done % max(1, self.per_epoch // 20) == 0:
            self.keeps.log(self.done, **{"loss": lost, "train score": score, "learning rate": lr})
        return lost, score

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss, a share of it the distance to the teacher's outputs, and the outputs.

        Where the task has no loss, the distance is all of it.
        """
        teacher, share = self.session.teacher, self.schedule.distill
        taught = None
        if teacher is not None:
            with torch.no_grad():
                taught = batch.seen(_forward(teacher, batch, self.processes))
        raw = _forward(self.runner, batch, self.processes)
        outputs = batch.seen(raw)
        _check_labels(batch, outputs)
        if taught is not None and batch.targets is None and batch.own_loss(raw) is None:
            return batch.distance(outputs, taught), outputs
        loss, _ = batch.loss(raw)
        if taught is not None:
            loss = (1 - share) * loss + share * batch.distance(outputs, taught)
        return loss, outputs

    def _checkpoint(self) -> None:
        if self.keeps is not None:
            state = {"model": self.module.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.done}
            self.keeps.save({**self.session.envelope, **state, "random": random_state()})


def _forward(runner: nn.Module, batch: Batch, processes: Processes) -> Any:
    """What the network returns (computed in bf16 on a GPU)."""
    with torch.autocast(processes.device.type, torch.bfloat16, enabled=processes.device.type == "cuda"):
        return batch.run(runner)


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


def count_batches(batches: Any) -> int:
    """How many batches a split has, by its length or by going through it."""
    try:
        return len(batches)
    except TypeError:
        return sum(1 for _ in batches)


def samples(task: Task, split: str) -> int:
    """About how many samples a split holds: the number of its batches times the size of the first."""
    first = next(task.batches(split), None)
    return 0 if first is None else count_batches(task.split(split)) * len(first)


def _not_finite(loss: float, step: int, total: int, run: Run | None) -> str:
    kept = f"the last good state is in {run.folder}" if run else "nothing was kept: to keep states give run="
    return (
        f"the loss is {loss} or a gradient is not finite at step {step + 1} of {total}: training stopped before it "
        f"changed a weight; {kept}. Check the data for NaN, give a lower lr=, or clip_grad=1"
    )
