"""The table of layers: costs alone and kept, scores, bits for --layer-bits."""

import copy
import json
from pathlib import Path

import pytest
from torch import nn

from tersenet.analysis.layer_costs import survey
from tersenet.cli import main
from tersenet.core.task import Task


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main([*arguments])
    return int(stop.value.code or 0)


def test_one_layer_costs_less_than_all_others_and_nothing_is_changed(trained: nn.Module, task: Task) -> None:
    net = copy.deepcopy(trained)
    rows = survey(net, task, bits=2, kind="fisher")
    assert [row.name for row in rows] == ["conv1.weight", "conv2.weight", "conv3.weight", "linear.weight"]
    assert all(row.bytes == 4 * row.weights and row.score > 0 and row.agreement_alone <= 0 for row in rows)
    assert sum(row.loss_kept for row in rows) > sum(row.loss_alone for row in rows) > 0
    state = trained.state_dict()
    assert all((value == state[name]).all() for name, value in net.state_dict().items())


def test_the_command_prints_a_table_and_writes_bits_that_compress_takes(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = [str(checkpoint), "--model", "digits", "--task", "digits"]
    bits = str(tmp_path / "bits.json")
    assert run("sensitivity", *source, "--average-bits", "5", "-o", bits, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["average_bits"] <= 5 and set(facts["layer_bits"].values()) <= {8, 4, 2}
    assert len(facts["layers"]) == 4 and facts["layers"][3]["score"] is None  # the classifier has no imprint
    assert run("compress", *source[:1], "-o", str(tmp_path / "x.terse"), "--method", "rtn", "--layer-bits", bits) == 0
    capsys.readouterr()
    assert run("sensitivity", *source, "--score", "hessian", "--picture", str(tmp_path / "x.svg")) == 0
    assert "conv3.weight" in capsys.readouterr().out and (tmp_path / "x.svg").stat().st_size > 1000


def test_other_scores_rank_the_same_layers(network: nn.Module, task: Task) -> None:
    found = {kind: [row.score for row in survey(network, task, 2, kind)] for kind in ("sensitivity", "random")}
    alone = [row.loss_alone for row in survey(network, task, 2, "fisher")]
    assert found["sensitivity"] == pytest.approx(alone, abs=0.1 * max(alone))
    assert found["random"] == [row.score for row in survey(network, task, 4, "random")]
    assert len(set(found["random"])) == len(alone)


@pytest.mark.parametrize("flags", [["--bits", "9"], ["-o", "x.json"], ["--score", "magic"]], ids=str)
def test_wrong_usage_is_exit_code_2(flags: list[str], checkpoint: Path) -> None:
    assert run("sensitivity", str(checkpoint), "--model", "digits", "--task", "digits", *flags) == 2
