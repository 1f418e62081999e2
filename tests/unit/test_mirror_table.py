"""`tersenet reproduce mirror`: rows that come from files, go on where they were, and are soft and rounded the same."""

import csv
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tersenet.cli import main
from tersenet.core.task import Task
from tersenet.files.summary import verify
from tersenet.lab.reproduce import mirror as reproduce
from tersenet.lab.reproduce.mirror import Recipe


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main([*arguments])
    return int(stop.value.code or 0)


def test_the_table_of_ones_own_network_is_soft_as_it_is_rounded_and_goes_on(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Recipe(nn.Module, Task, 1, 0.02, 2, 0.01, batches=3, betas=(1e8,))
    monkeypatch.setattr(reproduce, "OWN", small)
    monkeypatch.setattr(reproduce, "MAIN", ("md-tanh", "md-softmax"))
    given = ["reproduce", "mirror", "--work", str(tmp_path), "--checkpoint", str(checkpoint), "--model", "digits",
             "--task", "digits", "--json"]  # fmt: skip
    assert run(*given) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["rule"], row["states"], row["final_beta"]) for row in rows] == [
        ("md-tanh", 2, 1e4), ("md-softmax", 2, 1e4), ("md-tanh", 3, 1e4), ("md-softmax", 3, 1e4),
        ("md-tanh", 2, 1e8), ("md-tanh", 3, 1e8),
    ]  # fmt: skip
    folder = tmp_path / f"{checkpoint.stem}-seed0"
    for row in rows:
        file = folder / f"{row['rule']}-{row['states']}-beta{row['final_beta']:g}-seed0.terse"
        assert verify(file).size == row["file_bytes"]
        assert abs(row["soft"] - row["accuracy"]) <= 0.005 and row["between"] < 0.01
        if row["final_beta"] == 1e8:
            assert row["between"] <= 1e-4 and abs(row["soft"] - row["accuracy"]) <= 0.002
        assert row["bits"] < (1.1 if row["states"] == 2 else 1.7)
    table = list(csv.DictReader((tmp_path / "mirror.csv").read_text().splitlines()))
    assert [float(line["accuracy"]) for line in table] == [row["accuracy"] for row in rows]
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.suffix in (".terse", ".json", ".pt")}
    assert run(*given) == 0 and json.loads(capsys.readouterr().out)["rows"] == rows
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_what_has_no_recipe_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("reproduce", "mirror", "--work", str(tmp_path), "--net", "vgg5") == 2
    assert "no recipe for 'vgg5'; there are lenet5, lenet5-paper" in capsys.readouterr().err


def test_the_network_of_the_paper_ends_in_a_norm_that_does_not_scale() -> None:
    network = reproduce.NormedLeNet5()
    logits = network(torch.randn(16, 1, 28, 28))
    assert logits.shape == (16, 10) and logits.std(0).sub(1).abs().max() < 0.1
    assert {name.split(".")[0] for name, _ in network.named_parameters()} == {"conv1", "conv2", "fc1", "fc2"}
