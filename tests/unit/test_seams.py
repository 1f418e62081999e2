"""Methods from outside the package: one file each, with everything that ours have."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import tersenet
from every_method import OUTSIDE, example
from tersenet.core.model import QTensor
from tersenet.core.task import Task
from tersenet.files.checkpoint import open_module
from tersenet.quantizers import attach


def test_the_command_line_takes_a_file_and_its_fields(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tersenet.cli import main

    place = OUTSIDE["two_latents"]
    command = ["compress", str(checkpoint), "-o", str(tmp_path / "x.terse"), "--model", "digits", "--task", "digits"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--method", place, "--bits", "3", "--epochs", "0", "--json"])
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)["bytes"] == (tmp_path / "x.terse").stat().st_size
    assert tersenet.load(tmp_path / "x.terse").provenance["fields"]["bits"] == 3
    with pytest.raises(SystemExit):
        main(["methods", place])
    assert "--bits" in capsys.readouterr().out


def test_every_parameter_can_be_a_target(network: nn.Module, task: Task) -> None:
    small = tersenet.compress(network, example("binary"), task=task)
    codes = {name for name, entry in small.tensors.items() if isinstance(entry, QTensor)}
    assert codes == {name for name, _ in network.named_parameters()}
    assert all(len(small.tensors[name].dequantize().unique()) <= 2 for name in codes)


def test_planes_die_and_the_optimizer_forgets(network: nn.Module, task: Task) -> None:
    chosen = example("planes")
    small = tersenet.compress(network, chosen, task=task)
    for entry in small.tensors.values():
        if isinstance(entry, QTensor):
            assert not bool((entry.codes.abs() & 3).any())  # planes 0 and 1 died where epochs 1 and 2 began


def test_a_detached_network_is_ordinary_and_holds_what_the_latents_stand_for(network: nn.Module, task: Task) -> None:
    inputs = next(iter(task.split("train")))[0]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    chosen = example("two_latents")
    chosen.attach(network, open_module(network).specs, [inputs])
    assert list(attach.quantizers(network)) and set(attach.latent_state(network)) == set(before)
    attach.detach(network)
    after = network.state_dict()
    assert not list(attach.quantizers(network)) and set(after) == set(before)
    assert all(torch.allclose(after[name], before[name]) for name in dict(network.named_parameters()))


def test_tied_weights_with_two_latents_stay_tied(task: Task) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)
            self.second.weight = self.first.weight

        def forward(self, inputs: Tensor) -> Tensor:
            out: Tensor = self.second(torch.relu(self.first(inputs)))
            return out

    torch.manual_seed(0)
    net, x = Tied(), torch.randn(64, 32)
    source = open_module(copy.deepcopy(net))
    example("two_latents").attach(net, source.specs, [x], source.aliases)
    optimizer = torch.optim.SGD(attach.param_groups(net, 0.1, 0.0), lr=0.1)
    for _ in range(3):
        net(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        attach.after_step(net)
    assert torch.equal(net.first.weight, net.second.weight)
    attach.detach(net)
    assert net.first.weight is net.second.weight
