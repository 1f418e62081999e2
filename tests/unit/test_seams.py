"""Methods from outside the package: one file each, with everything that ours have."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tersenet
from tersenet import methods
from tersenet.core.method import Job, RunFolder
from tersenet.core.model import QTensor
from tersenet.core.task import Task
from tersenet.files.checkpoint import open_module
from tersenet.quantizers import attach

OUTSIDE = Path(__file__).parents[1] / "outside"
FIELDS: dict[str, dict[str, Any]] = {
    "two_latents.py:TwoLatents": {"epochs": 2},
    "binary.py:Binary": {"epochs": 4, "lr": 0.05, "steepest": 100.0},
    "planes.py:DyingPlanes": {"epochs": 3},
    "own_optimizer.py:Signed": {"epochs": 1, "more": 2},
}


def method(where: str, **more: Any) -> Any:
    return methods.get(str(OUTSIDE / where))(**FIELDS[where], **more)


@pytest.fixture(params=FIELDS)
def where(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Stopped(Exception):
    """Raised in the middle of a training."""


class Batches:
    """A loader that shuffles, and fails at batch number `at`."""

    def __init__(self, batches: list[Any], at: int) -> None:
        self.batches, self.left = batches, at

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for i in torch.randperm(len(self.batches)).tolist():
            self.left -= 1
            if self.left == 0:
                raise Stopped
            yield self.batches[i]


def test_a_method_from_outside_computes_what_its_file_says(where: str, network: nn.Module, task: Task) -> None:
    chosen, trained, caught = method(where), [], []

    def seen(net: nn.Module, source: Any) -> Iterator[Any]:
        trained.append(net)
        return type(chosen).pieces(chosen, net, source)

    inputs = next(iter(task.split("test")))[0]
    object.__setattr__(chosen, "pieces", seen)
    small = tersenet.compress(network, chosen, task=task)
    with torch.no_grad():
        caught.append(trained[-1].eval()(inputs))
        assert torch.equal(small.apply_to(copy.deepcopy(network)).eval()(inputs), caught[0])
    assert any(isinstance(entry, QTensor) for entry in small.tensors.values())


def test_a_stopped_training_from_outside_goes_on_to_the_same_bytes(
    where: str, network: nn.Module, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tersenet.training.run.EVERY", 0.0)
    batches, source = list(task.split("train")), open_module(network)

    def result(folder: str, stop: int, resume: bool) -> bytes:
        chosen = method(where)
        given = replace(task.for_method(), train=Batches(batches, stop))
        job = Job(source, network, given, RunFolder(tmp_path / folder, resume))
        tersenet.save(chosen.model(source, chosen.compress(job)), tmp_path / f"{folder}.terse", overwrite=True)
        return (tmp_path / f"{folder}.terse").read_bytes()

    whole, steps = result("whole", -1, False), len(batches)
    for at in (steps + 12, 2 * steps + 11):  # calibration took the first eight; in the second and third epoch
        with pytest.raises(Stopped):
            result(f"stopped at {at}", at, False)
        assert result(f"stopped at {at}", -1, True) == whole


def test_the_command_line_takes_a_file_and_its_fields(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tersenet.cli import main

    place = str(OUTSIDE / "two_latents.py") + ":TwoLatents"
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
    small = tersenet.compress(network, method("binary.py:Binary"), task=task)
    codes = {name for name, entry in small.tensors.items() if isinstance(entry, QTensor)}
    assert codes == {name for name, _ in network.named_parameters()}
    assert all(len(small.tensors[name].dequantize().unique()) <= 2 for name in codes)


def test_planes_die_and_the_optimizer_forgets(network: nn.Module, task: Task) -> None:
    chosen = method("planes.py:DyingPlanes")
    small = tersenet.compress(network, chosen, task=task)
    for entry in small.tensors.values():
        if isinstance(entry, QTensor):
            assert not bool((entry.codes.abs() & 3).any())  # planes 0 and 1 died where epochs 1 and 2 began


def test_a_detached_network_is_ordinary_and_holds_what_the_latents_stand_for(network: nn.Module, task: Task) -> None:
    inputs = next(iter(task.split("train")))[0]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    chosen = method("two_latents.py:TwoLatents")
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
    method("two_latents.py:TwoLatents").attach(net, source.specs, [x], source.aliases)
    optimizer = torch.optim.SGD(attach.param_groups(net, 0.1, 0.0), lr=0.1)
    for _ in range(3):
        net(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        attach.after_step(net)
    assert torch.equal(net.first.weight, net.second.weight)
    attach.detach(net)
    assert net.first.weight is net.second.weight
