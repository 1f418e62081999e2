"""`tersenet reproduce`, and `tersenet auto` killed at random moments."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tersenet.cli import main
from tersenet.core.task import Task
from tersenet.files.summary import verify
from tersenet.lab import digits, images
from tersenet.lab.fp32 import train_fp32
from tersenet.lab.models import build
from tersenet.lab.reproduce import accgrad as reproduce
from tersenet.lab.reproduce import bsq


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main([*arguments])
    return int(stop.value.code or 0)


def make() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))


def test_the_table_of_ones_own_network_is_measured_from_its_files_and_goes_on(
    task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "OWN", reproduce.Recipe(Task, 0, 4, 1, 0.02, (4.0, 5.0, 6.0)))
    torch.manual_seed(0)
    save_file(digits.train(make(), task, epochs=6).state_dict(), tmp_path / "net.safetensors")
    own = ["--checkpoint", str(tmp_path / "net.safetensors"), "--model", f"{__file__}:make", "--task", "digits"]
    given = ["reproduce", "accgrad", "--work", str(tmp_path / "work"), *own, "--json"]
    assert run(*given) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["mode"], row["signal"]) for row in rows] == [
        ("post", "grad"), ("in", "grad"), ("combined", "grad"), ("combined", "grad-magnitude"),
    ]  # fmt: skip
    for row in rows:
        file = tmp_path / "work" / f"{row['mode']}-{row['signal']}.terse"
        assert verify(file).size == row["file_bytes"] and row["csr_ratio"] >= (row["published"] or 6.0)
        assert row["drop"]["n"] == 500 and row["accuracy"] == pytest.approx(row["fp32"] - row["drop"]["mean"] / 100)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "work").glob("*.terse")}
    assert run(*given) == 0 and json.loads(capsys.readouterr().out)["rows"] == rows
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_the_table_over_alpha_is_measured_from_its_files_and_goes_on(
    task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bsq, "OWN", bsq.Recipe(Task, 0, 0.0, 2, 1, alphas=(1e-4, 1e-3)))
    torch.manual_seed(0)
    save_file(digits.train(make(), task, epochs=6).state_dict(), tmp_path / "net.safetensors")
    own = ["--checkpoint", str(tmp_path / "net.safetensors"), "--model", f"{__file__}:make", "--task", "digits"]
    given, work = ["reproduce", "bsq", "--work", str(tmp_path / "work"), *own], tmp_path / "work"
    assert run(*given, "--json") == 0
    control, *rows = json.loads(capsys.readouterr().out)["rows"]
    assert control["alpha"] is None and control["drop"] == 0 and control["bits"] == 32
    assert [row["alpha"] for row in rows] == [1e-4, 1e-3] and rows[0]["bits"] > rows[1]["bits"]
    for row in rows:
        assert verify(work / f"alpha-{row['alpha']:g}.terse").size == row["file_bytes"]
        assert row["bits_with_sign"] == pytest.approx(row["bits"] + 1) and row["epochs"] == control["epochs"] == 3
        assert row["accuracy"] == pytest.approx(control["accuracy"] - row["drop"] / 100) and row["images"] == 500
    lines = (work / "rows.csv").read_text().splitlines()
    assert len(lines) == 4 and lines[0].startswith("network,alpha,seed,epochs,accuracy,drop")
    before = {file: file.stat().st_mtime_ns for file in work.glob("*.terse")}
    assert run(*given) == 0 and "with sign" in capsys.readouterr().out
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_what_cannot_be_reproduced_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, words in (
        (["--net", "vgg16"], "a GPU"),
        (["--net", "vgg5"], "no recipe"),
        (["--model", "x"], "needs --ch"),
    ):
        if "vgg16" in more and torch.cuda.is_available():
            continue
        assert run("reproduce", "accgrad", "--work", str(tmp_path), *more) == 2
        assert words in capsys.readouterr().err
    assert run("reproduce", "bsq", "--work", str(tmp_path), "--net", "vgg5") == 2
    assert "no recipe for 'vgg5'; there are lenet5, resnet20" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif("TERSENET_DATA" not in os.environ, reason="needs MNIST")
@pytest.mark.parametrize("name", ["lenet300", "lenet5"])
def test_a_slice_of_mnist_is_compressed_by_more_than_the_thesis_at_a_small_loss(name: str, tmp_path: Path) -> None:
    whole = images.mnist(normalise=False)
    task = replace(whole, train=list(islice(whole.split("train"), 100)))
    recipe = replace(reproduce.RECIPES[name], task=lambda: task, fp32_epochs=5, epochs=10, refine=3)
    torch.manual_seed(0)
    weights = tmp_path / "fp32.safetensors"
    train_fp32(build(name), task, recipe.fp32_epochs, recipe.lr, tmp_path / "fp32", weights, 0)
    found = list(reproduce.rows(name, build(name), task, weights, tmp_path, recipe, 0, ("grad",)))
    combined = found[-1]
    assert combined.csr_ratio >= recipe.published[2] and combined.drop.mean < 5
    assert combined.csr_bytes > 1.4 * combined.file_bytes


@pytest.mark.slow
def test_auto_killed_at_random_moments_ends_with_the_same_file(checkpoint: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tersenet", "auto", str(checkpoint), "--model", "digits", "--task", "digits",
               "--max-drop", "6", "-o"]  # fmt: skip
    whole, cut = tmp_path / "whole.terse", tmp_path / "cut.terse"
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*command, str(whole)], check=True, **quiet)
    moments, total = random.Random(0), logged(whole)
    for part in (0.1, 0.4, 0.7):
        started = subprocess.Popen([*command, str(cut)], **quiet)
        while logged(cut) < part * total:
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 2))
        assert started.poll() is None and logged(cut) < total
        started.send_signal(signal.SIGKILL)
        started.wait()
    subprocess.run([*command, str(cut)], check=True, **quiet)
    assert cut.read_bytes() == whole.read_bytes() and logged(cut) == total


def logged(output: Path) -> int:
    """How many trials a search has finished."""
    log = output.with_name(f"{output.name}.search") / "trials.sqlite"
    try:
        with closing(sqlite3.connect(f"file:{log}?mode=ro", uri=True)) as base:
            return int(base.execute("SELECT count(*) FROM trials").fetchone()[0])
    except sqlite3.OperationalError:  # not there yet
        return 0
