"""Compressing to a budget: the best file within a number of bytes, or the smallest within a drop, by any method."""

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from ..analysis.intervals import Estimate
from ..api import identified, load, open_inputs
from ..core.method import Job, Method
from ..core.task import Task
from ..errors import BudgetError, InputError, OutputError, TersenetError, UsageError
from ..files.atomic import check_output
from ..files.checkpoint import Where, checkpoint_at
from ..files.packed_folder import check_packable, file_beside, names_folder
from ..files.results import OF, content_hash, record
from ..files.terse import save
from ..methods import get, names
from ..progress import OutOfTime, until
from .folder import SearchFolder, hash_of
from .outcome import Outcome
from .runner import VALIDATION, Runner
from .search import Search
from .settings import SearchSettings
from .trials import Trials

Step = Callable[[Search], None]
HALF_AN_HOUR = 1800.0  # seconds


@dataclass(frozen=True)
class _Plan:
    """All steps of a search, the method whose largest file proves that the call is right, and what tells it apart."""

    steps: Sequence[Step]
    first: Method
    identity: Mapping[str, Any]


def compress_within(
    what: nn.Module | Where,
    output: str | Path | None,
    method: Method,
    *,
    module: nn.Module | None = None,
    task: Task | None = None,
    **settings: Any,
) -> Outcome:
    """Compress a module, or the checkpoint at a path, to at most `max_bytes` bytes as well as possible, or as small as
    possible with a drop of at most `max_drop` points (of the task's metric, or of agreement where there are no labels).

    The knob of the method (`Method.knob`) is searched; its other fields stay. Files are judged, decoded, on the
    validation split against the original network; the test split is looked at once, at the end. The best file so far
    is always at `output`; trials are logged in the folder `OUTPUT.search`, and the same call goes on there after an
    interruption. Where `output` is a folder (`small/`), that file is `small.terse`, and the folder is made of it at the
    end. Without `output` nothing is kept but `Outcome.model`. `settings` are those of `SearchSettings`.

    **Raises** `BudgetError` if no trial could be finished, and what `compress_file` raises.

    >>> from tersenet.methods import get
    >>> found = compress_within(nn.Linear(64, 64), None, get("rtn")(), max_bytes=3000)
    >>> found.best.bytes <= 3000
    True
    """
    chosen = SearchSettings.of(settings)
    plan = _Plan([_step(method, chosen.max_bytes)], method, identified(method, chosen.effort))
    return _searched(what, output, plan, module, task, chosen)


def auto(
    what: nn.Module | Where,
    output: str | Path | None = None,
    *,
    task: Task,
    module: nn.Module | None = None,
    train: bool = False,
    methods: Sequence[str] | None = None,
    **settings: Any,
) -> Outcome:
    """Like `compress_within`, by one method after the other: what all of them, or those named in `methods`, offer
    (`Method.auto_points`), data-free first, then calibrated, with `train` trained. Each begins at the value of its
    knob, and a training at the size, that those before it have reached. The time limit is half an hour if none is
    given.

    >>> batch = (torch.randn(64, 64), torch.randint(10, (64,)))
    >>> net, task = nn.Linear(64, 10), Task(train=[batch], calibration=[batch], validation=[batch], test=[batch])
    >>> auto(net, task=task, module=net, max_bytes=900).verdict
    'met'
    """
    chosen = SearchSettings.of({"time_limit": HALF_AN_HOUR, **settings})
    source, network = open_inputs(what, module)
    if network is None:
        raise UsageError("auto compares networks: give the network's code (module=)")
    tried = list(names() if methods is None else methods)
    job = Job(source, network, task.for_method())
    points = _in_order([point for name in tried for point in get(name).auto_points(job)], task, train)
    if not points:
        raise UsageError(f"none of {', '.join(tried)} offers anything to auto: use compress with max_bytes or max_drop")
    identity = {"method": "auto", "train": train, **({} if methods is None else {"methods": tried})}
    plan = _Plan([_step(method, chosen.max_bytes) for method in points], points[0], identity)
    return _searched(what, output, plan, module, task, chosen)


def _in_order(points: list[Method], task: Task, train: bool) -> list[Method]:
    """In the order that methods are tried: by what they need, trainings by how many samples they run."""
    order = ("nothing", "calibration", "training")
    offered = [point for point in points if train or point.needs != "training"]

    def cost(point: Method) -> tuple[int, float]:
        return order.index(point.needs), point.sample_passes(task) if point.needs == "training" else 0.0

    return sorted(offered, key=cost)


def _step(method: Method, max_bytes: int | None) -> Step:
    """All trials of a method, beginning at the value of its knob that the best trial so far has."""
    filling = None if max_bytes is None else method.filling(max_bytes)

    def fill(search: Search) -> None:
        assert filling is not None
        try:
            search.attempt(filling)
        except BudgetError:
            search.attempt(method.at(method.knob.values[-1]))

    def step(search: Search) -> None:
        best = search.reached
        search.explore(method, None if best is None else json.loads(best.key)["fields"].get(method.knob.field))

    return step if filling is None else fill


def _searched(
    what: nn.Module | Where,
    output: str | Path | None,
    plan: _Plan,
    module: nn.Module | None,
    task: Task | None,
    settings: SearchSettings,
) -> Outcome:
    """The outcome of a search at `output`, or in a folder that is deleted afterwards."""
    module = what if isinstance(what, nn.Module) else module
    _check(settings, module, task)
    if output is not None and names_folder(output):
        check_packable(open_inputs(what, None)[0].attachments)
        check_output(output, overwrite=settings.overwrite)
        outcome = _search(what, file_beside(output), plan, module, task, settings)
        save(outcome.model, output, overwrite=settings.overwrite)
        if outcome.model.results:  # of the same tensors, in another container
            record(output, [content_hash(output)[:OF], *outcome.model.results[1:]])
        return outcome
    if output is not None:
        return _search(what, Path(output), plan, module, task, settings)
    with TemporaryDirectory(prefix="tersenet") as folder:
        outcome = _search(what, Path(folder) / "best.terse", plan, module, task, settings)
        return replace(outcome, model=outcome.model.in_memory())


def _search(
    what: nn.Module | Where,
    output: Path,
    plan: _Plan,
    module: nn.Module | None,
    task: Task | None,
    settings: SearchSettings,
) -> Outcome:
    deadline = time.monotonic() + (math.inf if settings.time_limit is None else settings.time_limit)
    read = None if isinstance(what, nn.Module) else checkpoint_at(what).path
    check_output(output, read, overwrite=True)
    folder = SearchFolder(output)
    with folder.held():
        check_output(output, read, overwrite=settings.overwrite or _own(output, folder.log))
        runner = Runner(what, module, task, settings, folder)
        if settings.overwrite and folder.log.exists():  # nothing is deleted before a file could be made and judged
            _prove(runner, plan.first, deadline)
            folder.clear()
        described = {
            "input": runner.source.digest(),
            "target": asdict(settings.target(task)),
            "task": settings.task_name,
            "data": runner.data,
        }
        with closing(Trials(folder.log, {**plan.identity, **described})) as trials:
            search = Search(settings.target(task), trials, output, runner, settings.on_message)
            outcome = _run(search, [*plan.steps, Search.polish], deadline)
            if outcome.ended == "interrupted" or runner.judged is None or runner.judged.test is None:
                return outcome
            return _tested(outcome, search, runner)


def _run(search: Search, steps: Sequence[Step], deadline: float) -> Outcome:
    """All steps, or as many as there is time for. **Raises** `OutputError` if the best file is not at its place."""
    ended, problem = "finished", None
    try:
        with until(deadline):
            for step in steps:
                try:
                    step(search)
                except OutputError as error:
                    best = search.best
                    if best is None or not search.is_there(best):
                        raise
                    kept = f"the best file so far ({search.describe(best)}) is at {search.output}"
                    raise OutputError(f"{error}; {kept}, and the same command goes on") from error
                except TersenetError as error:
                    problem = error
                    search.on_message(f"left out: {error}")
    except OutOfTime as stop:
        ended = "out of time"
        search.on_message(str(stop))
    except KeyboardInterrupt:
        ended = "interrupted"
    if (best := search.best) is None:
        raise problem or BudgetError(f"{ended} before the first trial was finished: allow more time")
    if not search.is_there(best):
        raise OutputError(f"the best file is not at {search.output} ({ended}): the same command makes it again")
    return Outcome(best, search.target, list(search.trials.all), ended, load(search.output))


def _tested(outcome: Outcome, search: Search, runner: Runner) -> Outcome:
    """With the best file judged on the test split, from the log or now; warns where validation flatters."""
    known = search.trials.tested(outcome.best.digest)
    if known is None:
        drop, original, results = runner.test(search.output)
        known = {
            "drop": asdict(drop),
            "original": None if original is None else asdict(original),
            "results": results.as_json(),
        }
        search.trials.add_test(outcome.best.digest, known)
    if "results" in known:
        record(search.output, known["results"])
    originals = None
    if runner.original is not None and known["original"] is not None:
        originals = runner.original, Estimate(**known["original"])
    better = True if runner.judged is None else runner.judged.higher_is_better
    outcome = replace(
        outcome,
        model=load(search.output),
        test=Estimate(**known["drop"]),
        test_looks=search.trials.test_looks,
        originals=originals,
        higher_is_better=better,
    )
    if outcome.flattered and originals is not None:
        warnings.warn(
            f"the original scores {originals[0].mean:.4f} on validation and {originals[1].mean:.4f} on test: if it was "
            "trained on the validation samples, drops on them look smaller than they are; give others",
            stacklevel=5,
        )
    return outcome


def _prove(runner: Runner, first: Method, deadline: float) -> None:
    """Make and judge a file as the search will, and delete it. **Raises** whatever is wrong with the call."""
    try:
        with until(deadline), suppress(BudgetError):  # a target that cannot be met is an outcome
            biggest = first.at(first.knob.values[0])
            runner.make(biggest.untrained or biggest, "", runner.folder.untrained)
            runner.evaluate(runner.folder.untrained)
    except OutOfTime as stop:
        raise BudgetError(f"{stop} before the first trial was finished: allow more time") from stop
    finally:
        runner.folder.untrained.unlink(missing_ok=True)


def _own(output: Path, log: Path) -> bool:
    """Whether the file at the output, if there is one, is as the search with this log left it. **Raises** what `Trials`
    does."""
    if not log.exists():
        return False
    if not log.stat().st_size and output.exists():
        raise InputError(
            f"{log} is empty, so it does not tell what {output} is: begin a new search with overwrite=True"
        )
    with closing(Trials(log)) as trials:
        return output.is_file() and trials.knows(hash_of(output))


def _check(settings: SearchSettings, module: nn.Module | None, task: Task | None) -> None:
    if settings.max_drop is None:
        return
    if module is None or task is None:
        raise UsageError("max_drop= compares networks: give the network's code (module=) and data (task=)")
    task.split(VALIDATION)
