"""`tersenet reproduce cpq` on a small network: the rows, their control, and that it goes on."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tersenet
from tersenet.cli import main
from tersenet.core.task import Task
from tersenet.files.summary import verify
from tersenet.lab.reproduce import cpq as reproduce

RECIPE = reproduce.Recipe(
    Task, 0, 0.0, 2, 1, 0.02, 0.5, {"bits": 3, "act_bits": 3, "first_last": "same"}, ("lsq",), penalty=20.0, seeds=2
)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main([*arguments])
    return int(stop.value.code or 0)


@pytest.mark.slow
def test_learned_levels_and_the_same_levels_are_trained_alike_and_the_table_goes_on(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "OWN", RECIPE)
    given = ["reproduce", "cpq", "--work", str(tmp_path / "w"), "--checkpoint", str(checkpoint), "--model", "digits",
             "--task", "digits", "--json"]  # fmt: skip
    assert run(*given) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    learned = ["learned levels", "same levels"]
    assert [row["method"] for row in rows] == ["fp32", "cpq", "cpq + DropBits", "lsq", *learned, *learned]
    assert [row["seed"] for row in rows] == [0, 0, 0, 0, 0, 0, 1, 1] and {row["epochs"] for row in rows} == {3}
    assert rows[0]["bits"] == 32 and rows[0]["drop"] == 0 and rows[1]["bits"] == 3
    for seed, (first, second) in enumerate((rows[4:6], rows[6:8])):
        files = [tersenet.load(tmp_path / "w" / f"{kind}-{seed}.terse").provenance for kind in ("learned", "same")]
        assert files[1]["fields"]["layer_bits"] == files[0]["cpq"]["bits"] and second["bits"] <= first["bits"] + 1e-9
        fields: list[dict[str, Any]] = [{**made["fields"], "heterogeneous": 0, "penalty": 0} for made in files]
        assert fields[0] == {key: value for key, value in fields[1].items() if key != "layer_bits"}
    assert verify(tmp_path / "w" / "cpq.terse").size == rows[1]["file_bytes"]
    with (tmp_path / "w" / "rows.csv").open() as stream:
        assert [row["method"] for row in csv.DictReader(stream)] == [row["method"] for row in rows]
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "w").glob("*.terse")}
    assert run(*given) == 0 and json.loads(capsys.readouterr().out)["rows"] == rows
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_a_network_without_recipe_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("reproduce", "cpq", "--work", str(tmp_path), "--net", "vgg5") == 2
    assert "no recipe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("codes", "bits"), [([-1, 0], 1), ([-4, 3], 3), ([-127, 90], 8), ([0, 7], 3), ([0], 1), ([0, -1, 1], 2)], ids=str
)
def test_the_bits_that_codes_need(codes: list[int], bits: int) -> None:
    assert reproduce._width(torch.tensor(codes)) == bits


def test_the_rows_of_resnet20_and_its_control_have_the_same_epochs_and_distillation() -> None:
    recipe = reproduce.RECIPES["resnet20"]
    made = [reproduce.chosen(recipe, name, 0) for name in ("cpq", "lsq", "apot")]
    totals = [sum(phase.epochs for phase in method.phases()) for method in made]  # type: ignore[attr-defined]
    assert len(set(totals)) == 1 and totals[0] <= 16
    assert {(m.distill, m.bits, m.act_bits, m.first_last) for m in made} == {(0.5, 3, 3, "8")}  # type: ignore[attr-defined]
