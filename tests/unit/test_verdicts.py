"""What is said of a file: bounds that hold, undecided is no success, flattering validation, the neighbourhood."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from tersenet import methods
from tersenet.analysis.evaluate import evaluate
from tersenet.analysis.intervals import Estimate, estimate, higher, paired, spread, student
from tersenet.cli import main
from tersenet.core.method import Knob, Method
from tersenet.core.task import Task
from tersenet.errors import InputError
from tersenet.progress import OutOfTime
from tersenet.search.folder import SearchFolder
from tersenet.search.search import Search
from tersenet.search.target import Target
from tersenet.search.trials import Trial, Trials
from tersenet.search.within import compress_within


def drawn(n: int, lost: float, gained: float, generator: torch.Generator) -> Estimate:
    draw = torch.rand(n, generator=generator)
    return paired((draw < 1 - gained).double(), (draw >= lost).double())


@pytest.mark.parametrize("n", [200, 1000, 6000])
@pytest.mark.parametrize("gained", [0.0, 0.01])
def test_a_drop_at_the_target_is_called_met_in_five_percent_at_most(n: int, gained: float) -> None:
    generator = torch.Generator().manual_seed(n)
    for target in (0.01, 0.03):
        met = sum(drawn(n, target + gained, gained, generator).most <= target for _ in range(600))
        assert met <= 0.05 * 600 + 3 * math.sqrt(600 * 0.05 * 0.95)


def test_where_nothing_differs_bounds_shrink_with_the_number_of_samples() -> None:
    for make in (lambda n: torch.ones(n), lambda n: torch.linspace(20, 30, n)):  # right or wrong; decibels
        bounds = [paired(make(n), make(n)) for n in (100, 1000)]
        assert all(found.least < found.mean == 0 < found.most for found in bounds)
        assert bounds[1].most == pytest.approx(bounds[0].most / 10, rel=0.05)
    assert paired(torch.ones(298), torch.ones(298)).most == pytest.approx((1 + 1.645 * math.sqrt(2)) / 300, rel=1e-3)


def test_one_number_for_all_samples_decides_nothing() -> None:
    for found in (paired(torch.full((50,), 0.5), torch.full((50,), 0.5)), estimate(torch.full((50,), 3.0))):
        assert (found.low, found.high, found.least, found.most) == (-math.inf, math.inf, -math.inf, math.inf)
    assert spread(torch.tensor([1.0, 2.0, 3.0]), 1.0).most == math.inf


def test_few_different_outcomes_count_with_the_range_of_the_scores() -> None:
    scores = torch.linspace(0, 1, 400)
    worse = scores.clone()
    worse[:3] -= 0.001  # three samples lose a little: the next may lose much
    rare, many = paired(scores, worse), paired(scores, scores - 0.001 * torch.rand(400))
    assert rare.most > 0.005 > 0.0006 > many.most > many.mean


def test_student_is_wider_than_normal_for_few_samples_and_covers() -> None:
    assert [round(student(1.959964, n), 2) for n in (4, 10, 30)] == [2.78, 2.23, 2.04]
    generator = torch.Generator().manual_seed(0)
    covered = bounded = 0
    for _ in range(1000):
        found = spread(torch.randn(12, generator=generator, dtype=torch.float64), 6.0)
        covered, bounded = covered + (found.low <= 0 <= found.high), bounded + (found.most >= 0)
    assert covered >= 935 and bounded >= 935


def test_a_metric_in_decibels_is_judged_by_its_own_spread(network: nn.Module, task: Task) -> None:
    def decibels(outputs: Tensor, targets: Tensor) -> Tensor:
        return -10 * nn.functional.cross_entropy(outputs, targets, reduction="none").add(1e-3).log10()

    given = replace(task, metric=decibels, points=1.0)
    same = evaluate(network, given, "validation", network).drop
    assert same is not None and same.mean == 0 and 0.1 < same.most < math.inf


def searched(checkpoint: Path, output: Path, network: nn.Module, task: Task, **given: Any) -> Any:
    return compress_within(checkpoint, output, methods.get("rtn")(), module=network, task=task, **given)


def test_undecided_is_no_success_and_says_how_many_samples_it_takes(
    checkpoint: Path, network: nn.Module, task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = searched(checkpoint, tmp_path / "o.terse", network, task, max_drop=1.0)
    assert outcome.verdict == "undecided" and not outcome.holds and outcome.best.drop <= 1.0
    assert outcome.needed is not None and outcome.needed > outcome.best.n == 197
    flags = ["--model", "digits", "--task", "digits", "--method", "rtn", "--max-drop", "1"]
    with pytest.raises(SystemExit) as stop:
        main(["compress", str(checkpoint), "-o", str(tmp_path / "c.terse"), *flags])
    said = capsys.readouterr()
    assert stop.value.code == 1 and "197 samples are too few to be sure, the mean is within" in said.err
    assert f"about {outcome.needed:,} would show it of this file" in said.err
    assert "(95 %, one-sided; n = 197)" in said.out and (tmp_path / "c.terse").is_file()
    with pytest.raises(SystemExit):
        main(["compress", str(checkpoint), "-o", str(tmp_path / "c.terse"), *flags, "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert (facts["verdict"], facts["holds"], facts["samples_needed"]) == ("undecided", False, outcome.needed)
    assert facts["confidence"] == "95 %, one-sided" and facts["validation"]["most"] > 1 > facts["validation"]["drop"]


def test_so_many_samples_do_decide() -> None:
    target, right = Target(max_drop=1.0), torch.ones(400)
    worse = right.clone()
    worse[0] = 0
    found = paired(right, worse).times(100)
    trial = Trial("{}", 9, "", 0.0, found.mean, found.least, found.most, found.n)
    needed = target.needed(trial)
    assert needed is not None and target.verdict(found.least, found.most) == "undecided"
    times = math.ceil(needed / 400)
    more = paired(right.repeat(times), worse.repeat(times)).times(100)
    assert target.verdict(more.least, more.most) == "met" and needed < 5 * 400
    assert target.needed(replace(trial, drop=1.0)) is None and target.needed(replace(trial, most=math.inf)) is None


def flattering(task: Task, flips: int) -> Task:
    """The task with `flips` wrong labels in every test batch."""
    spoiled = [(x, torch.cat([(y[:flips] + 1) % 10, y[flips:]])) for x, y in task.split("test")]
    return replace(task, test=spoiled)


def test_validation_that_flatters_the_original_is_named(
    checkpoint: Path, network: nn.Module, task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = searched(checkpoint, tmp_path / "a.terse", network, task, max_drop=6.0)
    assert not honest.flattered and honest.originals[0].n == 197 and honest.originals[1].n == 500
    batch = len(next(iter(task.split("test")))[1])
    for _ in range(2):  # the second time from the log
        with pytest.warns(UserWarning, match=r"the original scores 0\.\d+ on validation and 0\.\d+ on test"):
            found = searched(checkpoint, tmp_path / "o.terse", network, flattering(task, batch // 4), max_drop=6.0)
        assert found.flattered and found.test_looks == 1


def test_two_scores_differ_only_beyond_noise_and_in_the_metrics_direction() -> None:
    high, low = (estimate((torch.arange(2000) < count).double()) for count in (1990, 1960))
    near = estimate((torch.arange(2000) < 1986).double())
    assert higher(high, low) and not higher(low, high) and not higher(high, near)


@dataclass(frozen=True)
class Fine(Method):
    """A method with a hundred rates."""

    level: float = 0.0

    @property
    def knob(self) -> Knob:
        return Knob("level", tuple(float(200 - k) for k in range(100)))

    def compress(self, *given: Any) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class Trained(Fine):
    """The same by training."""

    needs: ClassVar[Any] = "training"


def polished(folder: Path, met: set[int], stop: int = 10**9, method: Method | None = None) -> tuple[Search, list[int]]:
    """A search where the files of these levels are met (1 point), and the levels that were made in this call."""
    where, made = SearchFolder(folder / "o.terse"), list[int]()
    where.path.mkdir(parents=True, exist_ok=True)

    def make(method: Method, start: str, path: Path) -> int:
        assert isinstance(method, Fine)
        if len(made) == stop:
            raise OutOfTime("out of time")
        made.append(int(method.level))
        path.write_text(str(method.level))
        return int(method.level)

    def judge(path: Path) -> Estimate:
        drop = 0.5 if int(float(path.read_text())) in met else 2.0
        return Estimate(drop, drop - 0.2, drop + 0.2, 1000, drop - 0.1, drop + 0.1)

    runner = SimpleNamespace(folder=where, make=make, evaluate=judge, expect=lambda method: 0.0)
    search = Search(Target(max_drop=1.0), Trials(where.log, {}), folder / "o.terse", runner, lambda text: None)
    try:
        search.explore(method or Fine())
        search.polish()
    except OutOfTime:
        pass
    search.trials.close()
    return search, made


LEVELS = {*range(140, 201), 128, 124, 115, 101}  # the bisection ends at 140


def test_the_neighbourhood_of_the_best_is_tried_and_goes_on_from_what_is_met(tmp_path: Path) -> None:
    search, made = polished(tmp_path, LEVELS)
    assert search.best is not None and search.best.bytes == 115  # 101 is too far from it
    assert made[made.index(128) + 1 :][:1] == [127] and min(made[-14:]) == 102
    assert (tmp_path / "o.terse").read_text() == "115" and len(made) == len(set(made))


def test_a_stopped_neighbourhood_goes_on_with_the_same_trials(tmp_path: Path) -> None:
    _, whole = polished(tmp_path / "whole", LEVELS)
    made: list[int] = []
    for stop in (3, 9, 4, 1, 10**9):
        search, more = polished(tmp_path / "parts", LEVELS, stop)
        made += more
        assert search.best is not None and search.is_there(search.best)
    assert made == whole and polished(tmp_path / "parts", LEVELS)[1] == []


def test_trainings_and_searches_without_a_met_file_have_no_neighbourhood(tmp_path: Path) -> None:
    assert len(polished(tmp_path / "none", set())[1]) <= 9
    search, _ = polished(tmp_path / "trained", LEVELS, method=Trained())
    assert search.best is not None and search.best.bytes == 140


def test_a_metric_that_is_nan_for_a_file_is_no_success_and_for_the_original_an_error(
    checkpoint: Path, network: nn.Module, task: Task, tmp_path: Path
) -> None:
    looked: list[int] = []

    def metric(outputs: Tensor, targets: Tensor) -> Tensor:
        looked.append(1)
        right = (outputs.argmax(1) == targets).float()
        return right if len(looked) <= 2 * batches else right / 0 - right / 0

    batches = sum(1 for _ in task.split("validation"))
    outcome = searched(checkpoint, tmp_path / "o.terse", network, replace(task, metric=metric, test=None), max_drop=6.0)
    assert not outcome.holds and outcome.best.drop == math.inf and outcome.verdict == "not met"
    with pytest.raises(InputError, match="not finite on validation"):
        searched(checkpoint, tmp_path / "p.terse", network, replace(task, metric=metric), max_drop=6.0)
