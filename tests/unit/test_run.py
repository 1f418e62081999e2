"""A run folder that is damaged, shared or full says so, and the checkpoint that was there survives."""

import json
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from torch import nn

from tersenet import methods
from tersenet.api import compress_file
from tersenet.core.method import Job, RunFolder
from tersenet.core.task import Task
from tersenet.errors import InputError, KeyMismatchError, OutputError, UsageError
from tersenet.files.checkpoint import open_module
from tersenet.lab.models import build
from tersenet.training.run import Run, _read, open_run

STATE = {"model": {"a": torch.arange(6.0)}, "step": 3, "random": ("MT", [1, 2], None)}


def saved(folder: Path, **more: Any) -> Path:
    """The checkpoint of a training that was stopped."""
    with open_run(folder, {"bits": 3}, False) as run:
        run.log(1, loss=0.5)
        run.save({**STATE, **more})
        run.log(2, loss=0.25)
    return folder / "last.pt"


def resumed(folder: Path) -> dict[str, Any]:
    with open_run(folder, {"bits": 3}, True) as run:
        assert run.state is not None
        return run.state


def same(state: dict[str, Any]) -> bool:
    return repr({key: value for key, value in state.items() if key != "logged"}) == repr(STATE)


def test_a_checkpoint_comes_back_and_what_was_logged_after_it_is_taken_away(tmp_path: Path) -> None:
    saved(tmp_path / "r")
    assert same(resumed(tmp_path / "r"))
    assert (tmp_path / "r" / "log.jsonl").read_text() == '{"step": 1, "loss": 0.5}\n'
    assert ".lock" not in os.listdir(tmp_path / "r")


@pytest.mark.parametrize("content", [b"", b"junk" * 100, b"PK\x05\x06" + bytes(18)], ids=["empty", "junk", "empty zip"])
def test_a_checkpoint_that_is_none_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    saved(tmp_path).write_bytes(content)
    with pytest.raises(InputError, match=r"last.pt is damaged .*: put a copy of it in its place, or begin"):
        resumed(tmp_path)
    with pytest.raises(InputError, match="is damaged"):
        Run.finished(tmp_path)


def test_a_truncated_checkpoint_is_damaged_at_every_length(tmp_path: Path) -> None:
    path = saved(tmp_path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="is damaged"):
            _read(tmp_path)


def test_one_flipped_bit_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path)
    whole = path.read_bytes()
    for place in random.Random(0).sample(range(8 * len(whole)), 400):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(InputError, match="is damaged"):
            _read(tmp_path)


@pytest.mark.parametrize("other", [[1], {"model": {}}, {"training": "x", "model": {}}], ids=repr)
def test_a_checkpoint_of_something_else_is_not_gone_on_with(tmp_path: Path, other: Any) -> None:
    path = saved(tmp_path)
    with path.open("wb") as stream:
        torch.save(other, stream)
    path.write_bytes(path.read_bytes() + xxhash.xxh3_128(path.read_bytes()).digest())
    with pytest.raises(InputError, match=r"no checkpoint of the training that run\.json describes"):
        resumed(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\udcff", "[" * 100_000], ids=lambda text: text[:5] or "empty")
def test_a_damaged_description_is_named(tmp_path: Path, text: str) -> None:
    saved(tmp_path)
    (tmp_path / "run.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"run.json is damaged"):
        resumed(tmp_path)
    assert (tmp_path / "last.pt").is_file()


def test_a_second_training_in_a_folder_is_told_who_holds_it(tmp_path: Path) -> None:
    with open_run(tmp_path, {"bits": 3}, False):
        for resume in (False, True):
            with (
                pytest.raises(OutputError, match=f"the training in .* is in use by process {os.getpid()} on"),
                open_run(tmp_path, {"bits": 3}, resume),
            ):
                pass


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name in ("file", "file/r", "n\0l", "x" * 300):
        with pytest.raises(OutputError, match="cannot be written"), open_run(tmp_path / name, {}, False):
            pass


def test_others_of_several_processes_neither_write_nor_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_run(tmp_path, {"bits": 3}, False) as run:
        run.save(STATE)
        monkeypatch.setenv("RANK", "1")
        before = sorted(os.listdir(tmp_path))
        with open_run(tmp_path, {"bits": 3}, False) as other:
            assert other.state is None
        with open_run(tmp_path, {"bits": 3}, True) as other:
            assert other.state is not None and other.state["step"] == 3
        assert sorted(os.listdir(tmp_path)) == before


def test_a_training_does_not_start_from_that_of_another_network(network: nn.Module, task: Task, tmp_path: Path) -> None:
    saved(tmp_path / "r", finished=build("lenet300").state_dict())
    method = methods.get("lsq")(epochs=0)  # type: ignore[call-arg]
    source = open_module(network)
    with pytest.raises(KeyMismatchError, match="another network"):
        list(method.compress(Job(source, network, task.for_method(), RunFolder(start=tmp_path / "r"))))
    with pytest.raises(UsageError, match="gone': there is nothing there"):
        list(method.compress(Job(source, network, task.for_method(), RunFolder(start=tmp_path / "gone"))))


class Broken:
    """Batches of which the one that is read as the `at`-th, over all rounds, cannot be read."""

    def __init__(self, batches: list[Any], at: int) -> None:
        self.batches, self.left = batches, at

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            self.left -= 1
            if self.left == 0:
                raise FileNotFoundError(2, "No such file or directory", "images/7.png")
            yield batch


@pytest.mark.parametrize("name", ["lsq", "accgrad"])
def test_an_error_of_the_users_data_is_theirs(checkpoint: Path, task: Task, tmp_path: Path, name: str) -> None:
    given = replace(task, train=Broken(list(task.split("train")), 3))
    method = methods.get(name)(epochs=4)  # type: ignore[call-arg]
    with pytest.raises(FileNotFoundError, match=r"images/7.png"):
        compress_file(
            checkpoint, tmp_path / "e.terse", method, module=build("digits"), task=given, run=RunFolder(tmp_path / "r")
        )
    assert sorted(os.listdir(tmp_path)) == ["r"] and ".lock" not in os.listdir(tmp_path / "r")


def test_a_training_that_was_stopped_leaves_the_log_of_one_that_was_not(
    network: nn.Module, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = methods.get("lsq")(epochs=1)  # type: ignore[call-arg]
    source, batches = open_module(network), list(task.split("train"))[:6]
    monkeypatch.setattr("tersenet.training.run.EVERY", 0.0)

    def train(folder: str, data: Any, resume: bool = False) -> list[dict[str, Any]]:
        run = RunFolder(tmp_path / folder, resume)
        list(method.compress(Job(source, network, replace(task.for_method(), train=data), run)))
        return [json.loads(line) for line in (tmp_path / folder / "log.jsonl").read_text().splitlines()]

    whole = train("whole", batches)
    for at in (3, 10):  # while ranges are set, and in the middle of the training
        with pytest.raises(FileNotFoundError):
            train(f"parts {at}", Broken(batches, at))
        with (tmp_path / f"parts {at}" / "log.jsonl").open("a") as log:
            log.write('{"step": 99, "lo')  # killed in the middle of a line
        assert train(f"parts {at}", batches, True) == whole and len(whole) >= 6
