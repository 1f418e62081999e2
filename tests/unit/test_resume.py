"""Trainings that are stopped, killed, continued from others, or spread over processes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tersenet
from tersenet import methods
from tersenet.analysis.evaluate import evaluate
from tersenet.cli import main
from tersenet.core.method import Job, RunFolder
from tersenet.core.task import Task
from tersenet.errors import UsageError
from tersenet.files.checkpoint import open_module
from tersenet.lab.digits import make_task
from tersenet.lab.models import build
from tersenet.training.processes import Processes

WHOLE: dict[str, bytes] = {}  # what a training gives that nobody stops, by what is done against oscillation


class Stop(Exception):
    """Raised in the middle of a training."""


class Interrupted:
    """Batches that fail once, at a given batch of a given round."""

    def __init__(self, batches: list[Any], at: int) -> None:
        self.batches, self.left = batches, at

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        order = torch.randperm(len(self.batches)).tolist()
        for i in order:
            self.left -= 1
            if self.left == 0:
                raise Stop
            yield self.batches[i][0] + 0.01 * torch.randn(1), self.batches[i][1]


@pytest.mark.parametrize("oscillation", ["stochastic", "freeze"])
@pytest.mark.parametrize("at", [13, 22, 29])
def test_a_stopped_training_goes_on_to_the_same_bytes(
    at: int, oscillation: str, network: nn.Module, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tersenet.training.run.EVERY", 0.0)
    method = methods.get("lsq")(bits=3, act_bits=4, epochs=1, stages=(4,), oscillation=oscillation)  # type: ignore[call-arg]
    batches = [(inputs[:32], targets[:32]) for inputs, targets in task.split("train")]
    source = open_module(network)

    def result(folder: str, stop: int, resume: bool) -> bytes:
        given = replace(task.for_method(), train=Interrupted(batches, stop))
        run = RunFolder(tmp_path / folder, resume)
        small = method.model(source, method.compress(Job(source, network, given, run)))
        tersenet.save(small, tmp_path / f"{folder}.terse", overwrite=True)
        return (tmp_path / f"{folder}.terse").read_bytes()

    if oscillation not in WHOLE:
        WHOLE[oscillation] = result("whole", -1, False)
    with pytest.raises(Stop):
        result("parts", at, False)
    assert result("parts", -1, True) == WHOLE[oscillation]
    assert result("parts", -1, True) == WHOLE[oscillation]  # resuming a finished training gives its result


def in_process(command: list[str]) -> None:
    """Run a command of tersenet here."""
    with pytest.raises(SystemExit) as stop:
        main(command[3:])
    assert stop.value.code == 0


def test_a_training_killed_at_any_moment_goes_on_to_the_same_bytes(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(out: str, *run: str) -> list[str]:
        flags = ["--model", "digits", "--task", "digits", "--method", "lsq", "--bits", "3", "--epochs", "2"]
        compress = [sys.executable, "-m", "tersenet", "compress", str(checkpoint), "-o", out]
        return [*compress, *flags, "--seed", "1", *run]

    monkeypatch.chdir(tmp_path)
    in_process(command("whole.terse"))
    process = subprocess.Popen(command("x.terse", "--run", "r"), env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not (tmp_path / "r" / "last.pt").is_file() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    in_process(command("x.terse", "--resume", "r", "--overwrite"))
    assert (tmp_path / "x.terse").read_bytes() == (tmp_path / "whole.terse").read_bytes()


def test_a_run_folder_belongs_to_one_training(network: nn.Module, task: Task, tmp_path: Path) -> None:
    source = open_module(network)

    def run(resume: bool, **fields: Any) -> None:
        method = methods.get("lsq")(epochs=0, **fields)
        list(method.compress(Job(source, network, task.for_method(), RunFolder(tmp_path / "r", resume))))

    with pytest.raises(UsageError, match="no training to resume"):
        run(True)
    run(False)
    with pytest.raises(UsageError, match="already holds"):
        run(False)
    with pytest.raises(UsageError, match="other bits, lr"):
        run(True, bits=3, lr=0.5)
    described = json.loads((tmp_path / "r" / "run.json").read_text())
    assert described["method"] == "lsq" and described["bits"] == 4


def test_a_training_starts_from_the_latent_weights_of_another(network: nn.Module, task: Task, tmp_path: Path) -> None:
    source = open_module(network)
    first = RunFolder(tmp_path / "a")
    list(methods.get("lsq")(epochs=1, lr=0.05).compress(Job(source, network, task.for_method(), first)))  # type: ignore[call-arg]
    second = RunFolder(tmp_path / "b", start=tmp_path / "a")
    moved = methods.get("lsq")(epochs=0, bits=32, kept_dtype="exact")  # type: ignore[call-arg]
    pieces = dict(moved.compress(Job(source, network, task.for_method(), second)))
    latent = torch.load(tmp_path / "a" / "last.pt", weights_only=True)["finished"]
    assert torch.equal(pieces["conv2.weight"].tensor, latent["conv2.weight"])  # type: ignore[union-attr]
    assert not torch.equal(latent["conv2.weight"], network.state_dict()["conv2.weight"])
    file = tmp_path / "first.terse"
    tersenet.save(tersenet.compress(network, "lsq", task=task, epochs=0, bits=2), file)
    begun = dict(moved.compress(Job(source, network, task.for_method(), RunFolder(start=file))))
    assert torch.equal(begun["conv2.weight"].tensor, tersenet.load(file).tensors["conv2.weight"].dequantize())  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="no finished training"):
        list(moved.compress(Job(source, network, task, RunFolder(tmp_path / "c", start=tmp_path))))


LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]


def launched(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command in two processes that train together."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*LAUNCH, *command], cwd=folder, env=environment, timeout=600, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.slow
def test_two_processes_train_one_network(checkpoint: Path, tmp_path: Path) -> None:
    flags = ["--model", "digits", "--task", "digits", "--method", "lsq", "--bits", "3", "--epochs", "2"]
    launched(tmp_path, "-m", "tersenet", "compress", str(checkpoint), "-o", str(tmp_path / "x.terse"), *flags)
    assert evaluate(tersenet.load(tmp_path / "x.terse").apply_to(build("digits")), make_task()).metric.mean > 0.9


@pytest.mark.slow
def test_every_method_ends_with_the_same_weights_in_both_processes(tmp_path: Path) -> None:
    launched(tmp_path, str(Path(__file__).parents[1] / "outside" / "in_two_processes.py"), str(tmp_path))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and len(set(first.values())) > 5


def test_processes_that_nothing_joins_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerate = pytest.importorskip("accelerate")

    class Alone:
        num_processes = 1

        def __init__(self, **_: object) -> None:
            pass

    monkeypatch.setattr(accelerate, "Accelerator", Alone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="2 processes were launched, of which accelerate joins 1"):
        Processes()


def test_training_from_a_file_without_batch_norm_statistics_is_refused(
    network: nn.Module, task: Task, tmp_path: Path
) -> None:
    tersenet.save(tersenet.compress(network, "lsq", task=task, epochs=0, bn="scale-shift"), tmp_path / "x.terse")
    method, source = methods.get("lsq")(), open_module(network)
    with pytest.raises(UsageError, match="nothing can be trained from it"):
        list(method.compress(Job(source, network, task, RunFolder(start=tmp_path / "x.terse"))))
    with pytest.raises(UsageError, match="there is nothing"):
        list(method.compress(Job(source, network, task, RunFolder(tmp_path / "r", start=tmp_path / "none"))))
    assert not (tmp_path / "r").exists()
