"""Compressing to a budget: the best file within a number of bytes, or the smallest within a drop, by any method."""

import hashlib
import json
import logging
import math
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from .api import check_method, load, prepared
from .core.method import Method, RunFolder
from .core.model import Piece
from .core.nested import hash_of_tensors
from .core.task import Task
from .errors import BudgetError, TersenetError, UsageError
from .files.atomic import check_free
from .files.checkpoint import open_checkpoint
from .files.terse import write
from .methods import get
from .progress import OutOfTime, until
from .steps.calibrate import calibration
from .steps.evaluate import Estimate, Evaluation, evaluate
from .steps.network import holdable
from .steps.search import Search, Target, Verdict
from .steps.sides import batch_norms
from .steps.trials import Trial, Trials, key_of

Step = Callable[[Search], None]
Say = Callable[[str], None]
LOG = "trials.sqlite"
LOGGER = logging.getLogger("tersenet")
VALIDATION = "validation"
MOST_IMAGES = 4096  # that auto calibrates on


@dataclass(frozen=True)
class Outcome:
    """What a search found: the best trial, all trials, why it ended ("finished", "out of time", "interrupted"), the
    drop on the test split in points, and how many looks this search has taken at the test split."""

    best: Trial
    target: Target
    trials: list[Trial]
    ended: str
    test: Estimate | None = None
    looks: int = 0

    @property
    def verdict(self) -> Verdict:
        """Of the best trial: on its bytes, or on the validation samples."""
        return self.target.of(self.best)

    @property
    def test_verdict(self) -> Verdict | None:
        """Of the test samples on a target drop."""
        if self.test is None or self.target.max_drop is None:
            return None
        return self.target.verdict(self.test.low, self.test.high)

    @property
    def holds(self) -> bool:
        """Whether the best file keeps the target (a drop: its mean on validation samples), not refuted by the test."""
        return self.target.rank(self.best)[0] < 2 and self.test_verdict != "not met"


def compress_within(
    path: str | Path,
    output: str | Path,
    method: Method,
    *,
    module: nn.Module | None = None,
    task: Task | None = None,
    max_bytes: int | None = None,
    max_drop: float | None = None,
    time_limit: float | None = None,
    force: bool = False,
    effort: str = "fast",
    named: str = "",
    say: Say = lambda text: None,
) -> Outcome:
    """Compress to at most `max_bytes` bytes as well as possible, or as small as possible with a drop of at most
    `max_drop` points (of the task's metric, or of agreement where there are no labels), by trials of `method`.

    The rate of the method (`Method.rate`) is searched; its other fields stay. The file is judged, decoded, on the
    validation split against the original network; the test split is looked at once, at the end. The best file so far
    is always at `output`; trials are logged in the folder `OUTPUT.search`, and the same call goes on there after an
    interruption. `time_limit` is in seconds; `named` tells tasks apart; `say` is told before every trial.

    **Raises** `BudgetError` if no trial could be finished, and what `compress_file` raises.
    """
    identity = {"method": method.name, **asdict(method)}
    target = Target(max_bytes, max_drop)
    return _search(path, output, [_step(method, max_bytes)], identity, module, task, target, time_limit, force, effort,
                   named, say)  # fmt: skip


def auto(
    path: str | Path,
    output: str | Path,
    *,
    module: nn.Module,
    task: Task,
    max_bytes: int | None = None,
    max_drop: float | None = None,
    train: bool = False,
    time_limit: float = 1800.0,
    force: bool = False,
    named: str = "",
    say: Say = lambda text: None,
) -> Outcome:
    """Like `compress_within`, by one method after the other, from cheap to dear: data-free, calibrated, with `train`
    trained. Each begins at the rate, and a training at the size, that the methods before it have reached."""
    specs = open_checkpoint(path, module)
    bn = "pair" if batch_norms(specs.specs, specs.aliases) else "keep"
    methods = _cheap_to_dear(module, task, bn, train)
    first = get("rtn")().at(8)
    steps = [lambda search: search.begin(first), *(_step(method, max_bytes) for method in methods)]
    identity = {"method": "auto", "train": train}
    return _search(path, output, steps, identity, module, task, Target(max_bytes, max_drop), time_limit, force,
                   "fast", named, say)  # fmt: skip


def _cheap_to_dear(module: nn.Module, task: Task, bn: str, train: bool) -> list[Method]:
    """What auto tries: without data; on as many calibration images as layer inputs can be held of; with training."""
    kept: dict[str, Any] = {"bn": bn}
    found = [get("vlcq")(**kept)]
    if task.calibration is not None:
        images = max(1, min(MOST_IMAGES, holdable(module, calibration(task, 2)[0])))
        found.append(replace(found[0], calibrate=True, images=1 << images.bit_length() - 1))  # type: ignore[call-arg]
    if train:
        found.append(get("lsq")(**kept, epochs=3, distill=0.7))  # type: ignore[call-arg]
        few = {"signal": "grad-magnitude", "bits": (4,), "epochs": 8, "refine": 2}
        found.append(get("accgrad")(**kept | few))
    return found


def _step(method: Method, max_bytes: int | None) -> Step:
    """All trials of a method, beginning at the rate of the best trial so far."""
    if max_bytes is not None and hasattr(method, "max_bytes"):
        return _filling(method, max_bytes)

    def step(search: Search) -> None:
        best = search.reached
        hint = None if best is None else json.loads(best.key)["fields"].get(type(method).rate)
        search.explore(method, hint)

    return step


def _filling(method: Method, max_bytes: int) -> Step:
    """One trial of a method that fills a number of bytes by itself; where that cannot be, its smallest file."""

    def step(search: Search) -> None:
        try:
            search.attempt(replace(method, max_bytes=max_bytes))  # type: ignore[call-arg]
        except BudgetError:
            search.attempt(method.at(type(method).rates[-1]))

    return step


class _Workshop:
    """Makes and judges the files of a search, in `folder`."""

    def __init__(self, path: str | Path, module: nn.Module | None, task: Task | None, effort: str, folder: Path):
        self.source, self.network = prepared(path, module)
        self.task, self.effort, self.folder = task, effort, folder
        self.reference = None if self.network is None else deepcopy(self.network)
        self.judged = None if module is None or task is None or task.validation is None else task
        self.kept: tuple[str, Callable[[Method], Iterator[Piece]]] | None = None  # the last method, ready for all rates
        began = time.perf_counter()
        found = None if self.judged is None else self._compared(self.network, VALIDATION)
        self.pass_seconds = (time.perf_counter() - began) / 2
        self.samples = 0 if found is None or found.agreement is None else found.agreement.n
        if found is not None and found.metric is None:
            LOGGER.info("no labels for the metric: drops are those of agreement (%s)", found.agreement_name)

    def folder_of(self, key: str) -> Path:
        """Where the training of a trial is kept."""
        return self.folder / "runs" / hashlib.sha256(key.encode()).hexdigest()[:12]

    def make(self, method: Method, start: str, place: Path) -> int:
        """Write the file of a trial; return its bytes."""
        check_method(method, self.source, None)
        seen = None if self.task is None else self.task.for_method()
        if method.needs == "training":
            kept, trains = self.folder_of(key_of(method, start)), method.sketch != method
            run = RunFolder(kept, (kept / "run.json").is_file(), self.folder_of(start) if start else None)
            pieces = method.compress(self.source, self.network, seen, run if trains else None)
        else:
            family = key_of(method.at(type(method).rates[0]))
            if self.kept is None or self.kept[0] != family:
                self.kept = family, method.prepared(self.source, self.network, seen)
            pieces = self.kept[1](method)
        return write(place, pieces, method.model(self.source, ()), force=True, effort=self.effort)

    def judge(self, place: Path, split: str = VALIDATION) -> Estimate | None:
        """The drop of a file, in points, decoded from disk."""
        if self.judged is None or self.network is None:
            return None
        drop = self._compared(load(place).apply_to(deepcopy(self.network)).eval(), split).drop
        assert drop is not None
        return drop.times(self.judged.points)

    def expect(self, method: Method) -> float:
        """The seconds of a trial, guessed from those of a forward pass."""
        return self.pass_seconds * (2 + method.work(self.task) / max(1, self.samples))

    def _compared(self, network: nn.Module | None, split: str) -> Evaluation:
        assert network is not None and self.judged is not None
        return evaluate(network, self.judged, split, self.reference)


def _search(
    path: str | Path, output: str | Path, steps: Sequence[Step], identity: dict[str, Any], module: nn.Module | None,
    task: Task | None, target: Target, time_limit: float | None, force: bool, effort: str, named: str, say: Say,
) -> Outcome:  # fmt: skip
    deadline = time.monotonic() + (math.inf if time_limit is None else time_limit)
    output = Path(output)
    _check(target, module, task, time_limit)
    folder = output.with_name(output.name + ".search")
    if force and (folder / LOG).is_file():
        shutil.rmtree(folder)
    check_free(output, force=force or _own(output, folder / LOG))
    shop = _Workshop(path, module, task, effort, folder)
    described = {"input": shop.source.digest(), "target": asdict(target), "task": named, "data": _digest(shop.judged)}
    folder.mkdir(exist_ok=True)
    with closing(Trials(folder / LOG, {**identity, **described})) as trials:
        search = Search(target, trials, output, folder, shop.make, shop.judge, hash_of, shop.expect, say)
        ended, problem = "finished", None
        try:
            with until(deadline):
                for step in steps:
                    try:
                        step(search)
                    except TersenetError as error:
                        problem = error
                        say(f"left out: {error}")
        except OutOfTime as stop:
            ended = "out of time"
            say(str(stop))
        except KeyboardInterrupt:
            ended = "interrupted"
        best = search.best
        if best is None:
            raise problem or BudgetError(f"{ended} before the first trial was finished: allow more time")
        outcome = Outcome(best, target, trials.all, ended)
        if ended == "interrupted" or shop.judged is None or shop.judged.test is None or not output.is_file():
            return outcome
        known = trials.tested(best.digest)
        if known is None:
            found = shop.judge(output, "test")
            assert found is not None
            known = asdict(found)
            trials.add_test(best.digest, known)
        return replace(outcome, test=Estimate(**known), looks=trials.looks)


def hash_of(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _own(output: Path, log: Path) -> bool:
    """Whether the file is there as the search with this log left it."""
    if not (output.is_file() and log.is_file()):
        return log.is_file()
    with closing(sqlite3.connect(log)) as base:
        return base.execute("SELECT 1 FROM trials WHERE digest = ?", (hash_of(output),)).fetchone() is not None


def _check(target: Target, module: nn.Module | None, task: Task | None, time_limit: float | None) -> None:
    if (target.max_bytes is None) == (target.max_drop is None):
        raise UsageError("give --max-bytes or --max-drop (one of the two)")
    if target.max_bytes is not None and target.max_bytes < 1:
        raise UsageError(f"--max-bytes is {target.max_bytes}; it must be at least 1")
    if time_limit is not None and not time_limit > 0:
        raise UsageError(f"the time limit is {time_limit}; it must be above 0")
    if target.max_drop is None:
        return
    if not 0 <= target.max_drop < math.inf:
        raise UsageError(f"--max-drop is {target.max_drop}; it is a number of points, 0 or more")
    if module is None or task is None:
        raise UsageError("--max-drop compares networks: give --model (module=) and --task (task=)")
    task.split(VALIDATION)


def _digest(task: Task | None) -> str:
    """What tells the samples that files are judged on from others: a hash of the first batch."""
    first = None if task is None else next(task.batches(VALIDATION), None)
    return "" if first is None else hash_of_tensors([first.inputs, first.targets])
