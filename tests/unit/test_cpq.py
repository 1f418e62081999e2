"""CPQ as a method: learned widths, what a run leaves after, own loops, bad input, resuming, clustering."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tersenet
from every_method import example
from last_network import check_law
from stopped_training import Batches, Stopped
from tersenet import methods
from tersenet.analysis.evaluate import evaluate
from tersenet.cli import main
from tersenet.core.method import Job, RunFolder
from tersenet.core.task import Task
from tersenet.errors import InputError, UsageError
from tersenet.files.checkpoint import open_module
from tersenet.lab import digits
from tersenet.methods.cpq import Cpq, weights_of
from tersenet.methods.cpq.quantizers import signed_range
from tersenet.quantizers import attach


def compress(network: nn.Module, task: Task, **fields: Any) -> Any:
    return tersenet.compress(copy.deepcopy(network), "cpq", task=task, **fields)


def widths(small: Any) -> list[int]:
    return list(small.provenance["cpq"]["bits"].values())


def test_a_large_penalty_leaves_one_bit_and_none_all(network: nn.Module, task: Task) -> None:
    fields: dict[str, Any] = {"bits": 3, "heterogeneous": True, "epochs": 2, "lr": 0.02}
    many = compress(network, task, **fields, penalty=0.0)
    few = compress(network, task, **fields, penalty=1e5, clip_grad=0.0)
    assert widths(many) == [3, 3, 3, 3] and widths(few) == [1, 1, 1, 1]
    assert {few.tensors[name].codes.unique().numel() for name in few.provenance["cpq"]["bits"]} <= {1, 2}


@pytest.fixture
def learned(network: nn.Module, task: Task, tmp_path: Path) -> tuple[Any, Path]:
    """A run with learned widths that differ, and its folder."""
    method = Cpq(bits=3, heterogeneous=True, penalty=30.0, epochs=3, refine=1, lr=0.02)
    source = open_module(network)
    job = Job(source, network, task.for_method(), RunFolder(tmp_path / "run"))
    return method.model(source, method.compress(job)), tmp_path / "run"


def test_learned_widths_are_in_the_codes_the_provenance_and_a_file_of_bits(
    learned: tuple[Any, Path], checkpoint: Path, tmp_path: Path
) -> None:
    small, run = learned
    bits = json.loads((run / "layer_bits.json").read_text())["layer_bits"]
    assert bits == small.provenance["cpq"]["bits"] and len(set(bits.values())) > 1
    for name, width in bits.items():
        codes = small.tensors[name].codes
        low, high = signed_range(width)
        assert low <= int(codes.min()) and int(codes.max()) <= high
    sizes = {name: small.tensors[name].codes.numel() for name in bits}
    mean = sum(bits[name] * size for name, size in sizes.items()) / sum(sizes.values())
    assert small.provenance["cpq"]["average"] == pytest.approx(mean, abs=1e-4)
    with pytest.raises(SystemExit) as ended:  # the control
        main(["compress", str(checkpoint), "-o", str(tmp_path / "o.terse"), "--model", "digits", "--task", "digits",
              "--method", "cpq", "--epochs", "0", "--layer-bits", str(run / "layer_bits.json")])  # fmt: skip
    assert not ended.value.code
    control = tersenet.load(tmp_path / "o.terse")
    assert control.provenance["fields"]["layer_bits"] == bits and "cpq" not in control.provenance
    assert all(int(control.tensors[name].codes.min()) >= signed_range(width)[0] for name, width in bits.items())  # type: ignore[union-attr]


def test_widths_stay_and_gates_rest_while_it_refines(network: nn.Module, task: Task) -> None:
    seen: list[tuple[list[int], list[bool], list[int]]] = []

    class Watching(Cpq):
        def after_step(self, network: nn.Module) -> None:
            found = weights_of(network).values()
            masks = [each._distribution().masks.numel() for each in found]
            seen.append(([each.bits for each in found], [each.gates.requires_grad for each in found], masks))

    method = Watching(bits=3, heterogeneous=True, penalty=30.0, epochs=2, refine=2, lr=0.02)
    list(method.compress(Job(open_module(network), network, task.for_method())))
    first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert all(all(learns) and set(masks) == {3} for _, learns, masks in first)
    assert all(bits == second[0][0] and not any(learns) and set(masks) == {1} for bits, learns, masks in second)


def test_what_layer_bits_names_keeps_its_width_while_others_learn(network: nn.Module, task: Task) -> None:
    small = compress(network, task, bits=3, heterogeneous=True, penalty=1e5, epochs=2, lr=0.02, clip_grad=0.0,
                     layer_bits={"conv2.weight": 2})  # fmt: skip
    assert small.provenance["cpq"]["bits"]["conv2.weight"] == 2 and sorted(widths(small)) == [1, 1, 1, 2]


def test_inputs_learn_step_and_temperature_and_freeze_to_what_was_trained(network: nn.Module, task: Task) -> None:
    inputs, targets = next(iter(task.split("train")))
    net = tersenet.attach(network, "cpq", [inputs], bits=3, act_bits=3, dropbits=True, heterogeneous=True)
    groups = tersenet.param_groups(net, lr=0.01)
    assert {round(group["lr"], 6) for group in groups} == {0.01, 0.001, 0.1}
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    reached: dict[str, float] = {}
    net.train()
    for step in range(4):
        tersenet.anneal(net, step / 4, 0.1)
        (nn.functional.cross_entropy(net(inputs), targets) + tersenet.penalty(net)).backward()
        for name, value in net.named_parameters():
            assert value.grad is not None, name
            reached[name] = max(reached.get(name, 0.0), float(value.grad.abs().max()))
        optimizer.step()
        optimizer.zero_grad()
        tersenet.after_step(net)
    for kind, count in (("log_step", 8), ("log_sigma", 8), ("gates", 4)):
        grads = [size for name, size in reached.items() if name.endswith(kind)]
        assert len(grads) == count and all(grads), kind
    small = tersenet.freeze(net, [inputs])
    assert len(small.activations) == 4
    with torch.no_grad():
        trained = net(inputs * 1.5)
        assert torch.equal(small.apply_to(tersenet.detach(net)).eval()(inputs * 1.5), trained)


def bad(fields: dict[str, Any], words: str) -> Any:
    return pytest.param(fields, words, id=words)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        bad({"bits": 9}, "bits=9: expected an integer, 1 to 8 or 32"),
        bad({"act_bits": 1}, "act_bits=1"),
        bad({"layer_bits": {"*": 12}}, "12 bits; expected 1 to 8"),
        bad({"penalty": -0.1}, "penalty=-0.1"),
        bad({"keep": 1.0}, "keep=1.0"),
        bad({"heterogeneous": True, "bits": 32}, "chooses widths up to that; expected 2 to 8"),
        bad({"jacobian": "argmax"}, "'winner' or 'full'"),
        bad({"bn": "fold"}, "cannot be trained"),
    ],
)
def test_fields_that_cannot_be_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        Cpq(**fields)


def test_nan_and_a_missing_task_and_nothing_to_learn_are_said(network: nn.Module, task: Task) -> None:
    with pytest.raises(UsageError, match="cpq trains: give"):
        tersenet.compress(network, "cpq")
    with pytest.raises(UsageError, match="leave out heterogeneous"):
        compress(network, task, heterogeneous=True, layer_bits={"*": 3}, epochs=1)
    with torch.no_grad():
        network.conv2.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises((InputError, UsageError), match=r"conv2\.weight"):
        compress(network, task, epochs=1)


def test_the_knob_is_bits_or_the_penalty_where_bits_are_learned() -> None:
    fixed, learns = Cpq(epochs=3), Cpq(epochs=3, heterogeneous=True)
    assert (fixed.knob.field, fixed.untrained) == ("bits", Cpq(epochs=0))
    assert (learns.knob.field, learns.untrained) == ("penalty", None)
    assert list(learns.knob.values) == sorted(learns.knob.values) and learns.at(0.07).penalty == 0.07  # type: ignore[attr-defined]


@pytest.mark.parametrize("fields", [{"dropbits": True, "act_bits": 3}, {"heterogeneous": True, "refine": 1}], ids=str)
def test_a_stopped_training_goes_on_to_the_same_bytes(
    fields: dict[str, Any], network: nn.Module, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tersenet.training.run.EVERY", 0.0)
    batches = [(inputs[:32], targets[:32]) for inputs, targets in task.split("train")]
    source, method = open_module(network), methods.get("cpq")(bits=3, epochs=2, **fields)

    def result(folder: str, stop: int, resume: bool) -> bytes:
        given = replace(task.for_method(), train=Batches(batches, stop))
        job = Job(source, network, given, RunFolder(tmp_path / folder, resume))
        tersenet.save(method.model(source, method.compress(job)), tmp_path / f"{folder}.terse", overwrite=True)
        return (tmp_path / f"{folder}.terse").read_bytes()

    whole, steps = result("whole", -1, False), len(batches)
    for at in (steps + 12, 2 * steps + 11 if "refine" in fields else steps + 14):
        with pytest.raises(Stopped):
            result(f"stopped at {at}", at, False)
        assert result(f"stopped at {at}", -1, True) == whole
    assert result("whole", -1, True) == whole


@pytest.mark.slow
def test_weights_gather_around_levels_more_than_by_the_straight_through_estimator(task: Task) -> None:
    distances: dict[str, list[float]] = {"cpq": [], "lsq": []}
    scores: dict[str, list[float]] = {"cpq": [], "lsq": []}
    for seed in range(3):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 10))
        digits.train(net, task, epochs=15, seed=seed)
        for name in distances:
            method: Any = methods.get(name)(bits=3, first_last="same", epochs=40, lr=0.05, seed=seed)  # type: ignore[call-arg]
            score, distance = gathered(net, method, task)
            distances[name].append(distance)
            scores[name].append(score)
    assert all(ours < theirs - 0.015 for ours, theirs in zip(distances["cpq"], distances["lsq"], strict=True))
    assert abs(sum(scores["cpq"]) - sum(scores["lsq"])) / 3 < 0.01


def gathered(net: nn.Module, method: Any, task: Task) -> tuple[float, float]:
    """The accuracy, and the mean distance of weights inside the range from their levels, in steps."""
    found: list[torch.Tensor] = []

    def pieces(network: nn.Module, source: Any) -> Any:
        for each in attach.quantizers(network):
            entry: Any = each.quantizer.freeze(*each.latents)
            away = (each.latents[0].detach() / entry.grid.scale.float() - entry.codes).abs()
            found.append(away[away <= 0.5])
        return type(method).pieces(method, network, source)

    object.__setattr__(method, "pieces", pieces)
    small = tersenet.compress(net, method, task=task)
    score = evaluate(small.apply_to(copy.deepcopy(net)).eval(), task).metric
    assert score is not None
    return score.mean, float(torch.cat(found).mean())


@pytest.mark.parametrize(
    "fields",
    [
        {"bits": 3, "act_bits": 3, "dropbits": True},
        {"bits": 2, "act_bits": 32, "bn": "scale-shift", "first_last": "8"},
        {"heterogeneous": True, "penalty": 30.0, "refine": 1},
    ],
    ids=str,
)
def test_the_network_that_was_trained_is_the_network_in_the_file(
    fields: dict[str, Any], network: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check_law(network, example("cpq", **fields), task, tmp_path, monkeypatch)
