"""The Hessian of the calibration loss in the clips, and the two searches that it tells apart."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from tersenet.api import open_inputs
from tersenet.cli import main
from tersenet.core.task import Task
from tersenet.methods import get
from tersenet.methods.lapq.pairs import STEP, pairs_of, searched, start_of


class Quadratic:
    """What is asked of a network: the loss `r A r / 2 + b r` in the ratios r of three clips."""

    grids, paths = {"a": None, "b": None}, ["c"]
    matrix = np.array([[4.0, 1.0, 0.0], [1.0, 3.0, -2.0], [0.0, -2.0, 5.0]])

    def __init__(self, start: list[float]) -> None:
        self.start, self.ratios = np.array(start), np.ones(3)

    def set(self, clips: list[float]) -> None:
        self.ratios = np.array(clips) / self.start

    def loss(self) -> float:
        away = self.ratios - np.array([0.7, 1.2, 0.9])
        return float(away @ self.matrix @ away / 2)


def test_the_hessian_of_a_quadratic_is_found_and_its_share_off_the_diagonal() -> None:
    network: Any = Quadratic([2.0, 0.5, 3.0])
    found = pairs_of(network, [2.0, 0.5, 3.0], 4)
    assert found.hessian == pytest.approx(Quadratic.matrix, abs=1e-9) and STEP < 1
    assert found.names == ["a", "b", "input of c"] and np.allclose(network.ratios, 1)
    assert found.off_diagonal == pytest.approx(10 / 60) and found.curvature == pytest.approx(60**0.5)


def test_both_searches_lower_the_loss_within_their_evaluations(network: nn.Module, task: Task) -> None:
    source, module = open_inputs(network, None)
    assert module is not None
    rounded, start = start_of(get("lapq")(bits=2, act_bits=2, samples=50), source, module, task)  # type: ignore[arg-type]
    calls, measure = [], rounded.loss
    rounded.loss = lambda: calls.append(1) or measure()  # type: ignore[func-returns-value,method-assign]
    found = searched(rounded, start, 2, 40)
    assert found.coordinate < found.start and found.powell < found.start and len(calls) <= 81


def test_the_command_prints_both_tables_and_draws_a_map_for_every_width(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["sensitivity", str(checkpoint), "--model", "digits", "--task", "digits", "--pairs", "--samples", "20"]
    with pytest.raises(SystemExit) as stop:
        main([*given, "--evaluations", "5", "--picture", str(tmp_path / "h.svg"), "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert stop.value.code == 0 and [each["bits"] for each in facts["pairs"]] == [8, 4, 3, 2]
    assert [each["bits"] for each in facts["searches"]] == [4, 2]
    assert facts["pairs"][0]["curvature"] < facts["pairs"][3]["curvature"]
    assert len(facts["pairs"][0]["names"]) == len(facts["pairs"][0]["hessian"]) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"h-{bits}.svg" for bits in (2, 3, 4, 8)]
    with pytest.raises(SystemExit) as stop:
        main([*given, "--average-bits", "4"])
    assert stop.value.code == 2
