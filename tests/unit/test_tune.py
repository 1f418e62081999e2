"""Tuning batch norm and biases on calibration images: nearer to the original, budgets kept, no targets."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tersenet
from every_method import example
from last_network import outputs, seen_by
from tersenet.core.likeness import distance
from tersenet.core.model import CompressedModel, KeptTensor
from tersenet.core.samples import Samples
from tersenet.core.task import Task
from tersenet.errors import UsageError
from tersenet.methods.vlcq.tune import tuned
from tersenet.network.calibrate import calibration

REAL: dict[str, Any] = {"calibrate": True, "images": 1000}


def inputs_of(task: Task, split: str) -> Tensor:
    return torch.cat([inputs for inputs, _ in task.split(split)])


@pytest.fixture
def seen(task: Task) -> Task:
    """With more calibration images than digits has."""
    images = inputs_of(task, "train")[:1000]
    return replace(task, calibration=[(images, torch.zeros(len(images), dtype=torch.long))])


def far(small: CompressedModel, network: nn.Module, inputs: Tensor) -> float:
    with torch.no_grad():
        return float(distance(small.apply_to(copy.deepcopy(network)).eval()(inputs), network.eval()(inputs), "classes"))


@pytest.mark.parametrize("bn", ["keep", "scale-shift"])
def test_tuned_files_are_nearer_to_the_network_on_other_images_and_keep_its_statistics(
    bn: str, network: nn.Module, seen: Task
) -> None:
    plain, better = (
        tersenet.compress(network, "vlcq", task=seen, target_bits=1.2, bn=bn, tune=epochs, **REAL) for epochs in (0, 8)
    )
    others = torch.cat([inputs_of(seen, "validation"), inputs_of(seen, "test")])
    assert far(better, network, others) < 0.97 * far(plain, network, others)
    for name, entry in plain.tensors.items():
        if "running" in name:
            assert torch.equal(entry.dequantize(), better.tensors[name].dequantize())


def test_a_tuned_file_keeps_its_budget_and_what_is_excluded(network: nn.Module, seen: Task, tmp_path: Path) -> None:
    budget = 4_000
    small = tersenet.compress(
        network, "vlcq", task=seen, max_bytes=budget, exclude=("bn2.*",), calibrate=True, images=256
    )
    assert 0.95 * budget < tersenet.save(small, tmp_path / "x.terse") <= budget
    exact = network.state_dict()
    assert torch.allclose(small.tensors["bn2.weight"].dequantize(), exact["bn2.weight"], rtol=2**-10)
    assert not torch.allclose(small.tensors["bn1.weight"].dequantize(), exact["bn1.weight"], rtol=2**-10)


def test_targets_are_not_looked_at(network: nn.Module, task: Task) -> None:
    wrong = [(inputs, (targets + 1) % 10) for inputs, targets in task.split("calibration")]
    fields = {"target_bits": 2.0, **REAL}
    ours, theirs = (
        tersenet.compress(network, "vlcq", task=t, **fields) for t in (task, replace(task, calibration=wrong))
    )
    assert all(torch.equal(e.dequantize(), theirs.tensors[name].dequantize()) for name, e in ours.tensors.items())


def test_what_does_not_help_on_held_out_images_is_not_done(network: nn.Module, task: Task) -> None:
    network.eval()
    same = tersenet.compress(network, "rtn", bits=8, include=("conv1.weight",), exclude=("*",), kept_dtype="exact")
    names = [name for name, _ in network.named_parameters()]
    assert tuned(network, same, Samples(task.batches("calibration")), names, 4, 0) == {}
    small = tersenet.compress(network, "rtn", bits=2)
    assert tuned(network, small, Samples(task.batches("calibration")).first(7), names, 4, 0) == {}  # none to hold out
    assert tuned(network, small, Samples(task.batches("calibration")), [], 4, 0) == {}


def test_a_regression_is_tuned_by_relative_error() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 1)).eval()
    x = torch.randn(512, 16)
    pairs = [(x, network(x).detach())]
    task = Task(calibration=pairs, loss=F.mse_loss, metric=lambda out, y: -(out - y).pow(2).mean(1),
                agreement=lambda out, y: -(out - y).pow(2).mean(1))  # fmt: skip
    errors = []
    for epochs in (0, 30):
        small = tersenet.compress(copy.deepcopy(network), "vlcq", task=task, target_bits=1.0, calibrate=True,
                                  images=512, tune=epochs)  # fmt: skip
        other = torch.randn(400, 16, generator=torch.Generator().manual_seed(5))
        with torch.no_grad():
            found = small.apply_to(copy.deepcopy(network))(other)
            errors.append(float(F.mse_loss(found, network(other))))
    assert errors[1] < errors[0]


class Odd(nn.Module):
    """Two outputs, a parameter of integers, one that nothing uses, and biases of zeros."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(64, 64, bias), nn.Linear(64, 64, bias), nn.Linear(64, 10, bias)
        self.order = nn.Parameter(torch.arange(64), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(5))
        for part in (self.a, self.b, self.c):
            if bias:
                nn.init.zeros_(part.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.a(x.flatten(1))[:, self.order].relu()
        return self.c(self.b(y).relu()), y


@pytest.mark.parametrize("bias", [True, False])
def test_odd_networks_are_tuned_as_far_as_they_can_be(bias: bool, seen: Task) -> None:
    with torch.no_grad():
        small = tersenet.compress(Odd(bias), "vlcq", task=seen, target_bits=1.5, **REAL)
    assert torch.equal(small.tensors["order"].dequantize(), torch.arange(64))
    assert not bias or small.tensors["b.bias"].dequantize().any()


@pytest.mark.parametrize("budget", [1_300, 1_700, 2_500])
def test_a_budget_is_filled_though_tuned_biases_take_more_bytes_than_zeros(
    budget: int, seen: Task, tmp_path: Path
) -> None:
    small = tersenet.compress(Odd(True), "vlcq", task=seen, max_bytes=budget, calibrate=True, images=256)
    assert 0.92 * budget < tersenet.save(small, tmp_path / "x.terse") <= budget
    assert small.tensors["b.bias"].dequantize().any()


def test_a_negative_number_of_epochs_is_refused(network: nn.Module) -> None:
    with pytest.raises(UsageError, match="tune=-1: expected an integer, at least 0"):
        tersenet.compress(network, "vlcq", tune=-1)


@pytest.mark.parametrize("bn", ["keep", "scale-shift"])
def test_the_network_that_was_tuned_is_the_network_in_the_file(
    bn: str, network: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small = tersenet.compress(network, example("vlcq", target_bits=3.0, bn=bn), task=task)
    bias = small.tensors["bn2.bias"]
    assert isinstance(bias, KeptTensor) and bias.tensor.dtype == torch.float16
    worse = replace(small, tensors={**small.tensors, "bn2.bias": replace(bias, tensor=bias.tensor + 1)})
    with monkeypatch.context() as patch:
        seen = seen_by(patch, type(network))
        found = tuned(network, worse, Samples(calibration(task, 100)), ["bn2.bias", "bn2.weight"], 8, 0)
    assert set(found) == {"bn2.bias", "bn2.weight"}
    tersenet.save(replace(worse, tensors={**worse.tensors, **found}), tmp_path / "x.terse")
    back = tersenet.load(tmp_path / "x.terse").apply_to(copy.deepcopy(network)).eval()
    assert torch.equal(outputs(back, task), outputs(seen[-1], task))
