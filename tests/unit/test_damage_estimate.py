"""What compression did, told from the weights alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tersenet
from tersenet.analysis.damage import MEAN_INPUT, Damage, damage
from tersenet.cli import main
from tersenet.core.grid import Uniform
from tersenet.core.model import CompressedModel, QTensor
from tersenet.files.checkpoint import open_module


def layers(n: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(64, 64) for _ in range(n)))


def test_an_error_is_that_of_outputs_for_inputs_with_a_mean() -> None:
    net = layers(1)
    found = damage(open_module(net), small := tersenet.compress(net, "rtn", bits=3))
    torch.manual_seed(1)
    x = torch.randn(200_000, 64) + MEAN_INPUT**0.5
    w, q = net[0].weight.detach(), small.tensors["0.weight"].dequantize()
    truth = (x @ (w - q).T).square().sum() / (x @ w.T).square().sum()
    assert found.errors["0.weight"] == pytest.approx(float(truth), rel=0.02)
    assert found.mean == found.errors["0.weight"] and found.worst == "0.weight"


def test_fewer_bits_are_more_damage() -> None:
    net = layers()
    means = [damage(open_module(net), tersenet.compress(net, "rtn", bits=bits)).mean for bits in (8, 6, 4, 3, 2)]
    assert means == sorted(means) and means[0] < 1e-3 < means[-1]


def test_a_large_tensor_is_looked_at_all_over(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = nn.Linear(100, 5000)
    with torch.no_grad():
        net.weight[2500:] *= 10  # in one step with the others
    whole = damage(open_module(net), small := tersenet.compress(net, "rtn", bits=4, granularity="tensor")).mean
    monkeypatch.setattr("tersenet.analysis.damage.BLOCKS", 10**9)
    monkeypatch.setattr("tersenet.analysis.damage.BLOCK", 10**9)
    assert damage(open_module(net), small).mean == pytest.approx(whole, rel=0.1)


def test_the_scale_of_a_row_is_no_error_where_a_batch_norm_undoes_it() -> None:
    net = nn.Linear(20, 20, bias=False)
    codes = (net.weight.detach() * 1e4).round().int()
    grid = Uniform(torch.linspace(1, 2, 20) / 1e4, axis=0)
    model = {"weight": QTensor(codes, grid)}
    assert damage(open_module(net), CompressedModel(model)).mean > 0.1
    assert damage(open_module(net), CompressedModel(model, batch_norm="fold")).mean < 1e-6


def test_errors_of_recurrent_layers_count_more() -> None:
    assert not Damage({"conv.weight": 0.001}).likely_bad
    assert Damage({"lstm.weight_hh_l0": 0.001, "conv.weight": 0.001}).likely_bad


def test_zeros_and_nothing_have_no_damage() -> None:
    net = layers(1)
    nn.init.zeros_(net[0].weight)
    assert damage(open_module(net), tersenet.compress(net, "rtn")).mean == 0
    assert damage(open_module(net), tersenet.compress(net, "rtn", exclude=("*",))).mean == 0


def test_a_bare_result_says_what_is_expected_of_it(tmp_path: Path, capsys: Any) -> None:
    save_file(layers().state_dict(), tmp_path / "net.safetensors")
    for bits, bad in ((8, False), (2, True)):
        command = ["compress", str(tmp_path / "net.safetensors"), "-o", str(tmp_path / f"{bits}.terse")]
        for more in ([], ["--json", "--overwrite"]):
            with pytest.raises(SystemExit) as stop:
                main([*command, "--method", "rtn", "--bits", str(bits), *more])
            said = capsys.readouterr()
            assert not stop.value.code and ("much worse than their originals" in said.err) == bad
            if more:
                assert json.loads(said.out)["damage"]["likely_bad"] == bad
            else:
                assert "error of a layer's outputs on average" in said.out
