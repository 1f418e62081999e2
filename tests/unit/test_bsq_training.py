"""Trainings of BSQ: bits over alpha, layers without planes, the file, resuming, a loop of one's own."""

import copy
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tersenet
from every_method import example
from last_network import check_law
from stopped_training import Batches, Stopped
from tersenet.analysis.evaluate import evaluate
from tersenet.core.method import Job, RunFolder
from tersenet.core.model import CompressedModel, KeptTensor, QTensor
from tersenet.core.task import Task
from tersenet.files.checkpoint import open_module
from tersenet.files.summary import summarize
from tersenet.methods.bsq import Bsq, planes_of
from tersenet.methods.bsq.planes import PLANES
from tersenet.report.size import storage
from tersenet.training.loop import MOMENTUM
from tersenet.training.randomness import seed_all, seeded


def compressed(network: nn.Module, task: Task, **fields: Any) -> CompressedModel:
    given: dict[str, Any] = {"epochs": 4, "refine": 1} | fields
    return tersenet.compress(copy.deepcopy(network), "bsq", task=task, **given)


def test_more_penalty_gives_fewer_bits_and_never_more_than_eight_planes(network: nn.Module, task: Task) -> None:
    found = [compressed(network, task, alpha=alpha) for alpha in (0.0, 3e-4, 1e-3, 2e-3)]
    bits = [model.provenance["bsq"]["bits"]["without_sign"] for model in found]
    assert bits[0] == 8 and bits == sorted(bits, reverse=True) and bits[-1] < 5
    assert all(1 <= n <= PLANES for model in found for n in model.provenance["bsq"]["planes"].values())
    judged = evaluate(found[1].apply_to(copy.deepcopy(network)), task, "validation").metric
    assert judged is not None and judged.mean > 0.95


def test_the_file_has_no_dead_planes_and_the_bits_with_sign_are_those_of_its_codes(
    network: nn.Module, task: Task, tmp_path: Path
) -> None:
    small = compressed(network, task, alpha=1e-3)
    size, facts = tersenet.save(small, tmp_path / "x.terse"), small.provenance["bsq"]
    read = tersenet.load(tmp_path / "x.terse")
    for name, planes in facts["planes"].items():
        codes = read.tensors[name].codes  # type: ignore[union-attr]
        assert int(codes.abs().max()).bit_length() == planes and bool((codes & 1).any())
    sizes = {name: read.tensors[name].shape.numel() for name in facts["planes"]}
    total = sum(sizes.values())
    with_sign = sum(n * (facts["planes"][name] + 1) for name, n in sizes.items()) / total
    assert facts["bits"]["with_sign"] == pytest.approx(with_sign, abs=1e-4)
    assert facts["bits"]["without_sign"] == pytest.approx(with_sign - 1, abs=1e-4)
    found, summary = storage(tmp_path / "x.terse"), summarize(tmp_path / "x.terse")
    assert 8 * (found.dense - found.beside) == pytest.approx(with_sign * total, abs=8)
    assert summary.provenance["bsq"] == facts and summary.size == size
    assert summary.bits_per_weight < facts["bits"]["with_sign"]


class Residual(nn.Module):
    """A linear layer around which its input goes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x.flatten(1)))
        out: Tensor = self.last(x + self.middle(x))
        return out


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_a_layer_around_which_there_is_a_way_can_have_0_bits(factor: float, task: Task, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Residual()
    with torch.no_grad():
        net.middle.weight.mul_(factor)
    small = compressed(net, task, alpha=0.03, epochs=2, lr=1e-4)
    tersenet.save(small, tmp_path / "x.terse")
    facts, sizes = small.provenance["bsq"], {"first.weight": 2048, "middle.weight": 1024, "last.weight": 320}
    assert facts["planes"]["middle.weight"] == 0 and "middle.weight" not in facts.get("spared", [])
    assert not tersenet.load(tmp_path / "x.terse").tensors["middle.weight"].dequantize().any()
    rows = {row.name: row.bytes for row in summarize(tmp_path / "x.terse").rows}
    assert rows["middle.weight"] <= 16 < rows["last.weight"]
    shares = {name: 0 if n == 0 else n + 1 for name, n in facts["planes"].items()}
    expected = sum(sizes[name] * bits for name, bits in shares.items()) / sum(sizes.values())
    assert facts["bits"]["with_sign"] == pytest.approx(expected, abs=1e-4)


def test_a_network_that_would_be_constant_keeps_one_plane_of_the_last_good_state_and_says_so(
    network: nn.Module, task: Task, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "tersenet"):
        small = compressed(network, task, alpha=0.5, epochs=2)
    facts = small.provenance["bsq"]
    assert "all planes of conv1.weight died" in caplog.text and "alpha=0.5 is too much" in caplog.text
    assert "conv1.weight" in facts["spared"] and facts["planes"]["conv1.weight"] >= 1
    inputs = next(iter(task.split("test")))[0]
    with torch.no_grad():
        outputs = small.apply_to(copy.deepcopy(network)).eval()(inputs)
    assert outputs.isfinite().all() and outputs.std(0).min() > 1e-3


def test_biases_are_kept_or_penalised_without_reweighing(network: nn.Module, task: Task) -> None:
    inputs, alpha = next(iter(task.split("train")))[0], 1e-4
    assert isinstance(compressed(network, task, epochs=0, refine=0).tensors["linear.bias"], KeptTensor)
    small = compressed(network, task, epochs=0, refine=0, biases=True)
    assert isinstance(small.tensors["linear.bias"], QTensor)
    net = tersenet.attach(copy.deepcopy(network), "bsq", [inputs], alpha=alpha, biases=True)
    found = {name: quantizer for name, quantizer, _ in planes_of(net)}
    total = sum(quantizer.codes.numel() for quantizer in found.values())
    shares = {name: 1.0 if name == "linear.bias" else q.codes.numel() * 8 / total for name, q in found.items()}
    expected = alpha * sum(
        shares[name] * sum(math.sqrt(float(q.planes[:, b].square().sum())) for b in range(PLANES))
        for name, q in found.items()
    )
    assert float(tersenet.penalty(net)) == pytest.approx(expected, rel=1e-5)


def test_widths_that_are_given_stay_and_count_the_sign(network: nn.Module, task: Task) -> None:
    small = compressed(network, task, alpha=2e-3, layer_bits={"conv3.weight": 4, "conv1.weight": 2})
    assert {"conv1.weight": 1, "conv3.weight": 3}.items() <= small.provenance["bsq"]["planes"].items()


def test_a_stopped_training_goes_on_to_the_same_bytes_in_both_phases_and_starts_another(
    network: nn.Module, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tersenet.training.run.EVERY", 0.0)
    batches, source = list(task.split("train"))[:4], open_module(network)
    chosen = Bsq(alpha=1e-3, epochs=2, refine=2, act_bits=4, distill=0.5)

    def result(folder: str, stop: int, resume: bool, start: Path | None = None) -> bytes:
        given = replace(task.for_method(), train=Batches(batches, stop))
        job = Job(source, network, given, RunFolder(tmp_path / folder, resume, start))
        tersenet.save(chosen.model(source, chosen.compress(job)), tmp_path / f"{folder}.terse", overwrite=True)
        return (tmp_path / f"{folder}.terse").read_bytes()

    whole = result("whole", -1, False)
    assert result("whole", -1, True) == whole  # of a finished training
    for at in (4 + 4 + 3, 4 + 8 + 4 + 2):  # calibration took four
        with pytest.raises(Stopped):
            result(f"stopped at {at}", at, False)
        assert result(f"stopped at {at}", -1, True) == whole
    assert result("another", -1, False, tmp_path / "whole") != whole


def test_a_loop_of_ones_own_trains_what_compress_trains(network: nn.Module, task: Task) -> None:
    batches, lr, epochs = list(task.split("train"))[:6], 0.02, 3
    fields: dict[str, Any] = {"alpha": 1e-3, "act_bits": 4, "epochs": epochs, "refine": 0}
    expected = tersenet.compress(copy.deepcopy(network), "bsq", task=Task(train=batches), **fields, lr=lr)
    with seeded(0):
        net = tersenet.attach(network, "bsq", [x for x, _ in batches], **fields, lr=lr)
    optimizer = torch.optim.SGD(tersenet.param_groups(net, 1.0), lr=1.0, momentum=MOMENTUM)
    step, total = 0, epochs * len(batches)
    net.train()
    for epoch in range(epochs):
        seed_all(epoch)
        tersenet.on_epoch(net, epoch, optimizer)
        assert not any(weight in optimizer.state for *_, weight in planes_of(net))
        for inputs, targets in batches:
            rate = lr * (1 + math.cos(math.pi * step / total)) / 2
            for group in optimizer.param_groups:
                group["lr"] = rate
            tersenet.anneal(net, step / total, rate / (1 - MOMENTUM))
            (F.cross_entropy(net(inputs), targets) + tersenet.penalty(net)).backward()
            optimizer.step()
            optimizer.zero_grad()
            tersenet.after_step(net)
            step += 1
    tersenet.on_epoch(net, epochs, optimizer)
    with seeded(0):
        small = tersenet.freeze(net, [x for x, _ in batches])
    assert small.activations == expected.activations and len(small.activations) == 2
    for name, entry in expected.tensors.items():
        assert torch.equal(small.tensors[name].dequantize(), entry.dequantize()), name


@pytest.mark.parametrize(
    "fields",
    [
        {"refine": 0, "bn": "scale-shift", "biases": True, "alpha": 1e-4},
        {"epochs": 1, "alpha": 1e-3},
    ],
    ids=str,
)
def test_the_network_that_was_trained_is_the_network_in_the_file(
    fields: dict[str, Any], network: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check_law(network, example("bsq", **fields), task, tmp_path, monkeypatch)
