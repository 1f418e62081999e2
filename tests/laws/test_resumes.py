"""A training that is stopped goes on to the same bytes, by every method that trains."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tersenet
from every_method import EVERY, class_of, example
from tersenet.core.method import Job, RunFolder
from tersenet.core.task import Task
from tersenet.files.checkpoint import open_module


class Stopped(Exception):
    """Raised in the middle of a training."""


class Batches:
    """A loader that shuffles, counts what it has given, and fails at batch number `at`."""

    def __init__(self, batches: list[Any], at: int) -> None:
        self.batches, self.at, self.count = batches, at, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for i in torch.randperm(len(self.batches)).tolist():
            self.count += 1
            if self.count == self.at:
                raise Stopped
            yield self.batches[i]


@pytest.mark.parametrize("name", [name for name in EVERY if class_of(name).needs == "training"])
def test_a_stopped_training_goes_on_to_the_same_bytes(
    name: str, network: nn.Module, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tersenet.training.run.EVERY", 0.0)
    batches, source = [(inputs[:32], targets[:32]) for inputs, targets in task.split("train")], open_module(network)

    def result(folder: str, given: Batches, resume: bool) -> bytes:
        method = example(name)
        job = Job(source, network, replace(task.for_method(), train=given), RunFolder(tmp_path / folder, resume))
        tersenet.save(method.model(source, method.compress(job)), tmp_path / f"{folder}.terse", overwrite=True)
        return (tmp_path / f"{folder}.terse").read_bytes()

    every = Batches(batches, -1)
    whole = result("whole", every, False)
    for part in (0.5, 0.8):
        folder = f"stopped after {part}"
        with pytest.raises(Stopped):
            result(folder, Batches(batches, round(part * every.count)), False)
        assert result(folder, Batches(batches, -1), True) == whole
