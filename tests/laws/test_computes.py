"""Law 1: what a method searched, tuned or trained last is, bit for bit, the network in its file."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tersenet
from tersenet import methods
from tersenet.core.model import CompressedModel, KeptTensor
from tersenet.core.samples import Samples
from tersenet.core.task import Task
from tersenet.methods import accgrad
from tersenet.methods.lapq import Lapq
from tersenet.methods.lapq.fake_quant import FakeQuantNetwork
from tersenet.methods.vlcq import tune
from tersenet.network.calibrate import calibration, mean_loss
from tersenet.training import phases

OTHERS = ("rtn", "vlcq")  # rtn runs no network; vlcq's last one is where it tunes (below)
OF_ALL = {
    "lapq": [
        {"bits": 3, "act_bits": 3, "evaluations": 20}, {"bits": 3, "act_bits": 4, "bn": "scale-shift", "search": "lp"},
        {"bits": 4, "act_bits": 4, "bn": "fold", "equalise": True, "search": "l2"},
        {"bits": 3, "first_last": "keep", "search": "l2"},
        {"bits": 3, "act_bits": 3, "kept_dtype": "exact", "search": "l2"},
    ],
    "lsq": [
        {"bits": 3, "act_bits": 4},
        {"bits": 2, "bn": "scale-shift", "first_last": "keep", "granularity": "channel"},
    ],
    "pot": [{"bits": 3, "act_bits": 4}],
    "apot": [{"bits": 3, "bn": "scale-shift", "oscillation": "freeze"}],
    "alq": [
        {"bits": 0.8, "act_bits": 4, "rounds": 1, "coordinate_epochs": 1, "refine": 1},
        {"bits": 1.5, "rounds": 1, "coordinate_epochs": 0, "refine": 1, "latent": True, "bn": "scale-shift"},
        {"bits": 0.5, "rounds": 1, "coordinate_epochs": 1, "refine": 0, "groups": "kernel", "bases": 2},
    ],
    "imprint": [{"average_bits": 5.0, "act_bits": 4}],
    "accgrad": [
        {"epochs": 3, "warmup": 1, "share": 0.6, "bits": (6,)}, {"epochs": 2, "mode": "post", "bn": "scale-shift"},
        {"epochs": 2, "warmup": 1, "mode": "in", "share": 0.6, "low_bits": 2},
    ],
}  # fmt: skip
CASES = [(name, fields) for name, cases in OF_ALL.items() for fields in cases]


def watched(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Where the networks appear that methods run: LAPQ's rounded one, trained ones at their end, tuned ones."""
    seen: list[nn.Module] = []

    def passing(call: Callable[..., Any], network_of: Callable[..., nn.Module]) -> Callable[..., Any]:
        def wrapped(*given: Any, **named: Any) -> Any:
            found = call(*given, **named)
            seen.append(network_of(found, *given))
            return found

        return wrapped

    monkeypatch.setattr(Lapq, "prepare", passing(Lapq.prepare, lambda found, *given: found.module))
    for place in (phases, accgrad):
        monkeypatch.setattr(place, "finish", passing(phases.finish, lambda found, network, *rest: network))
    monkeypatch.setattr(tune, "deepcopy", passing(copy.deepcopy, lambda found, *given: found))
    return seen


def outputs(network: nn.Module, task: Task) -> Tensor:
    with torch.no_grad():
        return torch.cat([network(batch.inputs * 1.5) for batch in calibration(task, 1000)])


def made(network: nn.Module, name: str, task: Task, fields: dict[str, Any]) -> CompressedModel:
    trains = methods.facts(name).needs == "training" and name != "accgrad"
    task = replace(task, train=list(task.split("train"))[:4])
    return tersenet.compress(copy.deepcopy(network), name, task=task, **({"epochs": 1} if trains else {}) | fields)


@pytest.mark.parametrize(("name", "fields"), CASES, ids=str)
def test_the_network_that_a_method_saw_last_is_the_network_in_its_file(
    name: str, fields: dict[str, Any], network: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = watched(monkeypatch)
    small = made(network, name, task, fields)
    tersenet.save(small, tmp_path / "x.terse")
    back = tersenet.load(tmp_path / "x.terse").apply_to(copy.deepcopy(network)).eval()
    assert seen and torch.equal(outputs(back, task), outputs(seen[-1], task))


@pytest.mark.parametrize("bn", ["keep", "scale-shift"])
def test_the_network_that_vlcq_tuned_is_the_network_in_its_file(
    bn: str, network: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small = made(network, "vlcq", task, {"target_bits": 3.0, "bn": bn, "images": 16, "synthesis_steps": 3})
    bias = small.tensors["bn2.bias"]
    assert isinstance(bias, KeptTensor) and bias.tensor.dtype == torch.float16
    worse = replace(small, tensors={**small.tensors, "bn2.bias": replace(bias, tensor=bias.tensor + 1)})
    seen, inputs = watched(monkeypatch), Samples(calibration(task, 100))
    found = tune.tuned(network, worse, inputs, ["bn2.bias", "bn2.weight"], 8, 0)
    assert set(found) == {"bn2.bias", "bn2.weight"}
    tersenet.save(replace(worse, tensors={**worse.tensors, **found}), tmp_path / "x.terse")
    back = tersenet.load(tmp_path / "x.terse").apply_to(copy.deepcopy(network)).eval()
    assert torch.equal(outputs(back, task), outputs(seen[-1], task))


def test_every_method_is_among_them() -> None:
    assert {*OF_ALL, *OTHERS} == set(methods.names())


@pytest.mark.parametrize("bn", ["keep", "scale-shift"])
def test_the_loss_that_lapq_found_least_is_that_of_its_file(
    bn: str, network: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[float] = []
    monkeypatch.setattr(FakeQuantNetwork, "loss", lambda self: found.append(mean_loss(self.module, self.batches))
                        or found[-1])  # type: ignore[func-returns-value]  # fmt: skip
    small = made(network, "lapq", task, {"bits": 2, "act_bits": 2, "evaluations": 20, "bn": bn})
    network = small.apply_to(copy.deepcopy(network)).eval()
    assert min(found) == mean_loss(network, calibration(task, 512))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_lapq_searches_a_half_precision_network_as_it_is_stored(
    dtype: torch.dtype, network: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watched(monkeypatch)
    small = made(copy.deepcopy(network).to(dtype), "lapq", task, {"bits": 4, "act_bits": 4, "search": "l2"})
    assert small.tensors["conv2.weight"].dtype == dtype
    assert torch.equal(outputs(small.apply_to(copy.deepcopy(network)), task), outputs(seen[-1], task))
