"""Budgets by trial: what is tried, what is kept, what is said, and going on after an interruption."""

import copy
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import tersenet
from every_method import example
from tersenet import methods
from tersenet.analysis.evaluate import evaluate
from tersenet.analysis.intervals import paired
from tersenet.core.task import Task
from tersenet.errors import BudgetError, InputError, OutputError, UsageError
from tersenet.lab import digits
from tersenet.search import runner
from tersenet.search import within as budgets
from tersenet.search.folder import hash_of
from tersenet.search.search import boundary, frontier
from tersenet.search.target import Target
from tersenet.search.trials import Trial
from tersenet.search.within import compress_within


def within(checkpoint: Path, output: Path, network: nn.Module, task: Task, method: str = "rtn", **given: Any) -> Any:
    chosen = example(method, **given.pop("fields", {}))
    return compress_within(checkpoint, output, chosen, module=network, task=task, **given)


def test_the_boundary_is_found_from_any_start() -> None:
    for edge in (-1, 0, 1, 17, 49):
        for start in (0, 1, 18, 49, None):
            asked: list[int] = []
            assert boundary(50, start, lambda i, edge=edge, asked=asked: asked.append(i) or i <= edge) == edge  # type: ignore[misc,func-returns-value]
            assert len(asked) == len(set(asked)) <= 13


def test_a_drop_is_met_undecided_or_not_met_by_its_interval() -> None:
    target = Target(max_drop=1.0)
    assert [target.verdict(low, high) for low, high in ((-1, 1.0), (0.5, 1.5), (1.1, 2))] == [
        "met", "undecided", "not met",
    ]  # fmt: skip


def test_the_interval_of_paired_results_is_never_empty_and_covers() -> None:
    assert paired(torch.zeros(500), torch.zeros(500)).most > 0
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(400):
        draw = torch.rand(300, generator=generator)
        found = paired((draw <= 0.99).double(), (draw >= 0.03).double())
        covered += found.low <= 0.02 <= found.high
    assert covered >= 0.93 * 400


@pytest.mark.parametrize("method", methods.names())
def test_every_method_keeps_to_bytes_and_to_a_drop(
    method: str, checkpoint: Path, network: nn.Module, task: Task, tmp_path: Path
) -> None:
    task = replace(task, train=list(task.split("train"))[:3])
    bytes_ = within(checkpoint, tmp_path / "b.terse", network, task, method, max_bytes=40_000)
    assert bytes_.holds and bytes_.best.bytes == (tmp_path / "b.terse").stat().st_size <= 40_000
    drop = within(checkpoint, tmp_path / "d.terse", network, task, method, max_drop=6.0)
    assert drop.holds and drop.verdict == "met" and drop.best.most <= 6.0
    judged = evaluate(tersenet.load(tmp_path / "d.terse").apply_to(copy.deepcopy(network)), task, "validation", network)
    assert judged.drop is not None and 100 * judged.drop.mean == pytest.approx(drop.best.drop)
    assert drop.best.n == judged.drop.n == 197


def test_the_smallest_file_that_keeps_the_drop_is_the_result(
    checkpoint: Path, network: nn.Module, task: Task, tmp_path: Path
) -> None:
    found = within(checkpoint, tmp_path / "o.terse", network, task, max_drop=6.0)
    fewer = json.loads(found.best.key)["fields"].get("bits", 4) - 1
    smaller = tersenet.compress(checkpoint, "rtn", bits=fewer)
    judged = evaluate(smaller.apply_to(copy.deepcopy(network)), task, "validation", network).drop
    assert judged is not None and 100 * judged.most > 6.0


def test_the_test_split_is_read_once_at_the_end_and_not_again(
    checkpoint: Path, network: nn.Module, task: Task, tmp_path: Path
) -> None:
    reads: list[int] = []
    database = tmp_path / "o.terse.search" / "trials.sqlite"

    class Counted:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            reads.append(len(rows(database)))
            return iter(task.split("test"))

    watched = replace(task, test=Counted())
    first = within(checkpoint, tmp_path / "o.terse", network, watched, max_drop=6.0)
    again = within(checkpoint, tmp_path / "o.terse", network, watched, max_drop=6.0)
    assert reads == [len(first.trials)] and again.test == first.test and again.test_looks == 1
    assert first.test is not None and first.test.n == 500


def rows(database: Path) -> list[Any]:
    return sqlite3.connect(database).execute("SELECT * FROM trials").fetchall()


@pytest.mark.parametrize("method", ["rtn", "lsq"])
def test_an_interrupted_search_goes_on_to_the_same_file(
    method: str, checkpoint: Path, network: nn.Module, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = replace(task, train=list(task.split("train"))[:3])
    whole = within(checkpoint, tmp_path / "whole.terse", network, task, method, max_drop=6.0)
    made: list[int] = []
    original = runner.write

    def stops(*given: Any, **named: Any) -> int:
        made.append(1)
        if len(made) in (2, 3, 5):
            raise KeyboardInterrupt
        return original(*given, **named)

    monkeypatch.setattr(runner, "write", stops)
    for _ in range(4):
        outcome = within(checkpoint, tmp_path / "cut.terse", network, task, method, max_drop=6.0)
        assert hash_of(tmp_path / "cut.terse") == outcome.best.digest  # the best so far is always there
    assert outcome.ended == "finished" and outcome.best.digest == whole.best.digest
    assert [trial.key for trial in outcome.trials] == [trial.key for trial in whole.trials]


def test_a_lost_file_is_made_again(checkpoint: Path, network: nn.Module, task: Task, tmp_path: Path) -> None:
    first = within(checkpoint, tmp_path / "o.terse", network, task, max_drop=6.0)
    (tmp_path / "o.terse").unlink()
    again = within(checkpoint, tmp_path / "o.terse", network, task, max_drop=6.0)
    assert hash_of(tmp_path / "o.terse") == again.best.digest == first.best.digest


def test_somebody_elses_file_at_the_output_is_not_replaced(
    checkpoint: Path, network: nn.Module, task: Task, tmp_path: Path
) -> None:
    within(checkpoint, tmp_path / "o.terse", network, task, max_drop=6.0)
    (tmp_path / "o.terse").write_bytes(b"mine")
    with pytest.raises(OutputError):
        within(checkpoint, tmp_path / "o.terse", network, task, max_drop=6.0)
    assert (tmp_path / "o.terse").read_bytes() == b"mine"


def test_a_method_that_cannot_go_so_low_keeps_its_smallest_file(task: Task, tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = digits.train(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), task, epochs=4)
    save_file(small.state_dict(), tmp_path / "net.safetensors")
    found = within(tmp_path / "net.safetensors", tmp_path / "o.terse", small, task, "accgrad", max_bytes=100,
                   fields={"epochs": 3, "warmup": 1})  # fmt: skip
    assert not found.holds and (tmp_path / "o.terse").stat().st_size == found.best.bytes > 100


def test_out_of_time_ends_with_the_best_so_far(
    checkpoint: Path, network: nn.Module, task: Task, tmp_path: Path
) -> None:
    outcome = within(checkpoint, tmp_path / "o.terse", network, task, "lsq", max_drop=6.0, time_limit=1.0,
                     fields={"epochs": 200})  # fmt: skip
    assert outcome.ended == "out of time" and hash_of(tmp_path / "o.terse") == outcome.best.digest
    with pytest.raises(BudgetError, match="out of time before the first trial"):
        within(checkpoint, tmp_path / "p.terse", network, task, "vlcq", max_drop=6.0, time_limit=1e-6)


def test_a_target_that_cannot_be_met_keeps_the_nearest_file(
    checkpoint: Path, network: nn.Module, task: Task, tmp_path: Path
) -> None:
    bytes_ = within(checkpoint, tmp_path / "b.terse", network, task, max_bytes=300)
    assert not bytes_.holds and bytes_.verdict == "not met"
    assert bytes_.best.bytes == min(trial.bytes for trial in bytes_.trials) == (tmp_path / "b.terse").stat().st_size
    drop = within(checkpoint, tmp_path / "d.terse", network, task, max_drop=0.0)
    assert drop.verdict == "undecided" and drop.best.drop <= 0  # 197 images cannot prove a drop of 0


def test_without_labels_the_agreement_is_the_metric(
    checkpoint: Path, network: nn.Module, task: Task, tmp_path: Path
) -> None:
    bare = Task(validation=[inputs for inputs, _ in task.split("validation")])
    outcome = within(checkpoint, tmp_path / "o.terse", network, bare, max_drop=6.0)
    assert outcome.verdict == "met" and outcome.test is None
    judged = evaluate(tersenet.load(tmp_path / "o.terse").apply_to(copy.deepcopy(network)), bare, "validation", network)
    assert judged.metric is None and judged.agreement is not None
    assert outcome.best.drop == pytest.approx(100 * (1 - judged.agreement.mean))


def test_wrong_use_says_what_to_do(checkpoint: Path, network: nn.Module, task: Task, tmp_path: Path) -> None:
    out = tmp_path / "o.terse"
    for given, words in (
        ({}, "one of the two"), ({"max_bytes": 9, "max_drop": 1.0}, "one of the two"), ({"max_bytes": 0}, "at least 1"),
        ({"max_drop": -1.0}, "at least 0"), ({"max_drop": float("nan")}, "at least 0"),
        ({"max_drop": 1.0, "time_limit": 0.0}, "above 0"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            within(checkpoint, out, network, task, **given)
    with pytest.raises(InputError, match="no split 'validation'"):
        within(checkpoint, out, network, replace(task, validation=None), max_drop=1.0)
    with pytest.raises(UsageError, match="give the network's code"):
        compress_within(checkpoint, out, methods.get("rtn")(), task=task, max_drop=1.0)
    within(checkpoint, out, network, task, max_drop=6.0)
    with pytest.raises(UsageError, match="holds another search \\(other target\\)"):
        within(checkpoint, out, network, task, max_drop=5.0)
    (tmp_path / "mine.terse").write_text("mine")
    with pytest.raises(OutputError):
        within(checkpoint, tmp_path / "mine.terse", network, task, max_drop=6.0)


def test_overwrite_begins_a_new_search(checkpoint: Path, network: nn.Module, task: Task, tmp_path: Path) -> None:
    within(checkpoint, tmp_path / "o.terse", network, task, max_drop=6.0)
    outcome = within(checkpoint, tmp_path / "o.terse", network, task, max_drop=7.0, overwrite=True)
    assert outcome.target.max_drop == 7.0 and len(rows(tmp_path / "o.terse.search" / "trials.sqlite")) > 0


def test_the_frontier_has_no_trial_that_another_beats() -> None:
    trials = [Trial(json.dumps({"method": "x", "fields": {}}), b, "", 0.0, d, 0, 0, 9) for b, d in
              ((10, 3.0), (20, 1.0), (30, 2.0), (40, 0.5), (20, 4.0))]  # fmt: skip
    assert [(trial.bytes, trial.drop) for trial in frontier(trials)] == [(40, 0.5), (20, 1.0), (10, 3.0)]


@pytest.mark.filterwarnings("ignore:Sequential has no batch-norm statistics")
def test_auto_tries_data_free_methods_first_and_is_smaller_than_without_data(task: Task, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 10)]
    network, checkpoint = digits.train(nn.Sequential(*layers), task, epochs=10), tmp_path / "net.safetensors"
    save_file(network.state_dict(), checkpoint)
    said: list[str] = []
    outcome = budgets.auto(
        checkpoint, tmp_path / "a.terse", module=network, task=task, max_drop=6.0, on_message=said.append
    )
    names = [trial.name for trial in outcome.trials]
    assert "calibrate=True" in names[-1] and outcome.holds
    kinds = ["calibrate" in name for name in names]
    assert kinds == sorted(kinds)
    lines = [line for line in said if not line.startswith("left out")]
    verdicts = [outcome.target.of(trial) for trial in outcome.trials]
    assert [line.partition(":")[0] for line in lines] == names  # a line for every trial, when it is done
    assert all(f"{t.bytes:,} bytes, drop" in line for t, line in zip(outcome.trials, lines, strict=True))
    assert all(line.endswith(verdict) for line, verdict in zip(lines, verdicts, strict=True))
    free = [trial for trial in outcome.trials if "calibrate" not in trial.name and outcome.target.of(trial) == "met"]
    assert outcome.best.bytes <= min(trial.bytes for trial in free)
    trained = budgets.auto(checkpoint, tmp_path / "t.terse", module=network, task=task, max_bytes=4_000, train=True)
    assert trained.holds and (tmp_path / "t.terse").stat().st_size <= 4_000


def test_a_budget_on_a_module_returns_a_model_and_keeps_no_file(
    network: nn.Module, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    vlcq = methods.get("vlcq")
    monkeypatch.setattr(vlcq, "auto_points", classmethod(lambda cls, job: (example("vlcq"),)))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for outcome in (
        compress_within(network, None, methods.get("rtn")(), task=task, max_bytes=30_000),
        budgets.auto(network, task=task, max_bytes=30_000, methods=["vlcq"]),
    ):
        assert outcome.verdict == "met" and not list(tmp_path.iterdir())
        small = outcome.model.apply_to(copy.deepcopy(network))
        assert evaluate(small, task, "validation", network).agreement.mean > 0.9
        assert tersenet.save(outcome.model, tmp_path / "x.terse") == outcome.best.bytes
        (tmp_path / "x.terse").unlink()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_setting_that_no_search_has_is_named(network: nn.Module, task: Task) -> None:
    with pytest.raises(UsageError, match="a search has no setting 'max_bites'"):
        compress_within(network, None, methods.get("rtn")(), task=task, max_bites=30_000)
    with pytest.raises(UsageError, match="time_limit=-1: expected a number, above 0"):
        compress_within(network, None, methods.get("rtn")(), task=task, max_bytes=30_000, time_limit=-1)
