"""The files of a search: nothing of others is lost, one search at a time, and every fault of the log has a name."""

import os
import signal
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tersenet import methods
from tersenet.core.task import Task
from tersenet.errors import (
    BudgetError,
    CheckpointError,
    InputError,
    KeyMismatchError,
    OutputError,
    TersenetError,
    UsageError,
)
from tersenet.files.lock import locked
from tersenet.search import runner
from tersenet.search.folder import hash_of
from tersenet.search.search import Search
from tersenet.search.trials import Trial, Trials

NAMES = ("trials.sqlite", "frontier.svg", "candidate.7.terse", "sketch.terse", ".candidate.7.terse.0123abcd.part")
FOREIGN = ("notes.txt", "candidate.safetensors", "runs/mine/last.pt", "runs/0123456789ab/photo.png", "runs/readme")
RUN = ("run.json", "last.pt", "log.jsonl", ".lock", ".last.pt.0123abcd.part", ".run.json.0123abcd.part")


def filled(folder: Path) -> dict[str, bytes]:
    """Put an old search's files and foreign ones into a folder; what is there."""
    for name in (*NAMES, *FOREIGN, *(f"runs/0123456789ab/{own}" for own in RUN), "runs/ba9876543210/last.pt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Broken(nn.Module):
    """Not the network of the checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(3, 3)


def test_overwrite_deletes_nothing_where_the_call_is_wrong(within: Any, task: Task, tmp_path: Path) -> None:
    (tmp_path / "o.terse").write_bytes(b"old")
    before = filled(tmp_path / "o.terse.search")
    litter = {name for name in before if name.startswith((".candidate", "candidate.7", "sketch"))}
    kept = {name: data for name, data in before.items() if name not in litter}

    def metric(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise InputError("my metric")

    wrong: list[tuple[dict[str, Any], type[TersenetError]]] = [
        ({"path": tmp_path / "missing.safetensors"}, CheckpointError),
        ({"module": Broken()}, KeyMismatchError),
        ({"method": methods.get("rtn")(include=("nothing*",))}, UsageError),
        ({"method": methods.get("lsq")(), "task": replace(task, train=None)}, InputError),
        ({"method": methods.get("vlcq")(calibrate=True), "task": replace(task, calibration=None)}, InputError),
        ({"task": replace(task, validation=None)}, InputError),
        ({"task": replace(task, metric=metric)}, InputError),
        ({"max_drop": -1.0}, UsageError),
        ({"time_limit": 1e-9, "method": methods.get("vlcq")()}, BudgetError),
        ({"path": tmp_path / "o.terse"}, OutputError),
    ]
    for given, error in wrong:
        with pytest.raises(error):
            within(overwrite=True, **given)
        now = contents(tmp_path / "o.terse.search")
        assert {name: data for name, data in now.items() if name not in litter} == kept, given
        assert (tmp_path / "o.terse").read_bytes() == b"old"


def test_overwrite_deletes_only_what_a_search_writes(within: Any, tmp_path: Path) -> None:
    folder = tmp_path / "o.terse.search"
    before = filled(folder)
    (folder / "runs" / "aaaaaaaaaaaa").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "last.pt").write_bytes(b"mine")
    assert within(overwrite=True).holds
    now = contents(folder)
    assert now.pop("trials.sqlite") != before["trials.sqlite"]
    assert now == {name: before[name] for name in FOREIGN}
    assert (tmp_path / "elsewhere" / "last.pt").read_bytes() == b"mine"


def test_a_wrong_call_leaves_no_folder(within: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        within(path=tmp_path / "missing.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_second_search_is_told_who_holds_the_first(within: Any, tmp_path: Path) -> None:
    within()
    before = contents(tmp_path)
    with locked(tmp_path / "o.terse.search" / "lock", "a search"):
        for overwrite in (False, True):
            with pytest.raises(OutputError, match=rf"in use by process {os.getpid()} on .* since \d{{4}}-"):
                within(overwrite=overwrite)
    assert contents(tmp_path) == before


def test_what_killed_processes_left_is_removed_by_the_next_search(within: Any, tmp_path: Path) -> None:
    within()
    folder = tmp_path / "o.terse.search"
    for name in NAMES[2:]:
        (folder / name).write_bytes(b"half")
    (folder / "candidate.txt").write_bytes(b"mine")
    within()
    assert set(contents(folder)) == {"trials.sqlite", "candidate.txt"}


def test_a_full_disk_keeps_the_best_file_and_the_search_goes_on(
    within: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole").mkdir()
    whole = within()
    (tmp_path / "o.terse").unlink()
    os.rename(tmp_path / "o.terse.search", tmp_path / "whole" / "search")
    original = Trials.add

    def add(self: Trials, trial: Trial) -> None:
        if len(self.all) == 2:
            pages = self.base.execute("PRAGMA page_count").fetchone()[0]
            self.base.execute(f"PRAGMA max_page_count = {pages}")
            trial = replace(trial, key=trial.key[:-1] + " " * 100_000 + "}")
        original(self, trial)

    monkeypatch.setattr(Trials, "add", add)
    with pytest.raises(OutputError, match=r"is full.*the best file so far \([\d,]+ bytes.*the same command goes on"):
        within()
    best = Trials(tmp_path / "o.terse.search" / "trials.sqlite")
    assert len(best.all) == 2 and best.knows(hash_of(tmp_path / "o.terse"))
    best.close()
    monkeypatch.undo()

    def write(*given: Any, **named: Any) -> int:
        raise OutputError("no space left")

    monkeypatch.setattr(runner, "write", write)
    with pytest.raises(OutputError, match=r"no space left; the best file so far"):
        within()
    monkeypatch.undo()
    outcome = within()
    assert outcome.best.digest == whole.best.digest == hash_of(tmp_path / "o.terse")
    assert set(contents(tmp_path / "o.terse.search")) == {"trials.sqlite"}


def test_a_file_that_appears_during_a_search_is_not_replaced(within: Any, tmp_path: Path) -> None:
    def on_message(text: str) -> None:
        if "rtn bits=5" in text:
            (tmp_path / "o.terse").unlink()
            (tmp_path / "o.terse").write_bytes(b"mine")

    with pytest.raises(OutputError, match="written by something else"):
        within(on_message=on_message)
    assert (tmp_path / "o.terse").read_bytes() == b"mine"


def test_a_file_that_disappears_during_a_search_is_no_success(within: Any, tmp_path: Path) -> None:
    whole = within()

    def on_message(text: str) -> None:
        (tmp_path / "o.terse").unlink(missing_ok=True)

    with pytest.raises(OutputError, match="the same command makes it again"):
        within(on_message=on_message, overwrite=True)
    assert within().best.digest == whole.best.digest == hash_of(tmp_path / "o.terse")


def test_a_link_is_followed_and_a_mode_kept(within: Any, tmp_path: Path) -> None:
    real = tmp_path / "real.terse"
    real.write_bytes(b"old")
    real.chmod(0o640)
    (tmp_path / "o.terse").symlink_to(real)
    with pytest.raises(OutputError, match="exists"):
        within()
    outcome = within(overwrite=True)
    assert (tmp_path / "o.terse").is_symlink() and hash_of(real) == outcome.best.digest
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_what_is_read_and_what_is_no_file_are_no_output(within: Any, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "o.terse").symlink_to(checkpoint)
    with pytest.raises(OutputError, match="what is read"):
        within(overwrite=True)
    (tmp_path / "o.terse").unlink()
    os.mkfifo(tmp_path / "o.terse")
    with pytest.raises(OutputError, match="pipe"):
        within(overwrite=True)
    assert not (tmp_path / "o.terse.search").exists()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("moment", ["before the row", "before the file", "after the file"])
def test_a_search_killed_at_any_moment_goes_on_to_the_same_file(
    moment: str, within: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = within()
    for path in (tmp_path / "o.terse", tmp_path / "o.terse.search" / "trials.sqlite"):
        path.unlink()
    owner, name = {
        "before the row": (Trials, "add"), "before the file": (Search, "_place"), "after the file": (Search, "_place"),
    }[moment]  # fmt: skip
    original, calls = getattr(owner, name), []

    def dies(*given: Any) -> None:
        calls.append(given)
        if len(calls) < 3:
            original(*given)
        if (len(calls) == 2 and moment == "after the file") or len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(owner, name, dies)
        within()
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert list((tmp_path / "o.terse.search").glob("candidate.*")) and (tmp_path / "o.terse").is_file()
    outcome = within()
    assert outcome.best.digest == whole.best.digest == hash_of(tmp_path / "o.terse")
    assert sorted(trial.key for trial in outcome.trials) == sorted(trial.key for trial in whole.trials)
    assert set(contents(tmp_path)) == {"o.terse", "o.terse.search/trials.sqlite"}
