"""`tersenet reproduce alq`: every row is what its file says, and the table goes on where it was."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tersenet
from tersenet.analysis.evaluate import evaluate
from tersenet.cli import main
from tersenet.core.task import Task
from tersenet.errors import UsageError
from tersenet.files.summary import verify
from tersenet.lab import digits
from tersenet.lab.reproduce import alq


def make() -> nn.Module:
    hidden = [nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 16), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(16, 10))


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main([*arguments])
    return int(stop.value.code or 0)


def test_the_table_is_measured_from_its_files_and_goes_on(
    task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alq, "SHORT", {**alq.SHORT, "refine": 1, "group_size": 8})
    monkeypatch.setattr(alq, "POINTS", alq.POINTS[:4])
    torch.manual_seed(0)
    save_file(digits.train(make(), task, epochs=4).state_dict(), tmp_path / "net.safetensors")
    own = ["--checkpoint", str(tmp_path / "net.safetensors"), "--model", f"{__file__}:make", "--task", "digits"]
    given = ["reproduce", "alq", "--work", str(tmp_path / "work"), *own, "--json"]
    assert run(*given) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["what"], row["asked_bits"], row["epochs"]) for row in rows] == [
        ("loss-aware", 0.34, 2),
        ("loss-aware", 0.25, 2),
        ("loss-aware, inputs on 2 bases", 0.34, 2),
        ("untrained", 0.3, 0),
    ]
    for row, point in zip(rows, alq.POINTS, strict=True):
        file = tmp_path / "work" / f"{point.file}.terse"
        assert (
            verify(file).size == row["file_bytes"] and row["bits"] <= row["asked_bits"] < row["bits_with_coordinates"]
        )
        score = evaluate(tersenet.load(file).apply_to(make()), task, "test").metric
        assert score is not None and row["test"] == pytest.approx(score.mean)
    lines = (tmp_path / "work" / "alq.csv").read_text().splitlines()
    assert lines[0].split(",") == list(rows[0]) and len(lines) == 5
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "work").glob("*.terse")}
    assert run(*given) == 0 and json.loads(capsys.readouterr().out)["rows"] == rows
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no recipe for vgg; there is lenet5"):
        alq.table(tmp_path, ["vgg"], 0, None)
