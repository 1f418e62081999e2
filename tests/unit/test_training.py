"""The training engine: what was trained is what is stored, runs resume, and bad input stops with a clear error."""

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
from last_network import check_law
from tersenet import methods
from tersenet.analysis.evaluate import evaluate
from tersenet.core.method import Job, RunFolder
from tersenet.core.model import KeptTensor, QTensor
from tersenet.core.task import Task
from tersenet.errors import InputError, TrainingError, UsageError
from tersenet.files.checkpoint import open_module
from tersenet.lab.models import build
from tersenet.network.batch_norm import reestimate
from tersenet.quantizers import attach

TRAINED = ["apot", "lsq", "pot"]
AGAINST_OSCILLATION = ["none", "dampen", "freeze", "stochastic", "uniform"]


def train_a_little(net: nn.Module, task: Task, steps: int = 6) -> None:
    """A user's own loop."""
    optimizer = torch.optim.SGD(net.parameters(), 0.02, 0.9)
    net.train()
    for step, (inputs, targets) in enumerate(list(task.split("train"))[:steps]):
        tersenet.anneal(net, step / steps, 0.2)
        loss = F.cross_entropy(net(inputs[:48]), targets[:48]) + tersenet.penalty(net)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()


def inputs_of(task: Task) -> list[Tensor]:
    return [inputs for inputs, _ in list(task.split("train"))[:2]]


@pytest.mark.parametrize("oscillation", AGAINST_OSCILLATION)
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("name", TRAINED)
def test_the_frozen_model_computes_what_the_trained_one_computed(
    name: str, granularity: str, oscillation: str, network: nn.Module, task: Task, tmp_path: Path
) -> None:
    fresh = copy.deepcopy(network)
    net = tersenet.attach(
        network,
        name,
        inputs_of(task),
        bits=3,
        act_bits=3,
        granularity=granularity,
        oscillation=oscillation,
        first_last="same",
    )
    train_a_little(net, task)
    small = tersenet.freeze(net)
    tersenet.save(small, tmp_path / "x.terse")
    back = tersenet.load(tmp_path / "x.terse").apply_to(fresh)
    inputs = next(iter(task.split("test")))[0] * 1.7  # beyond what was seen, so that inputs clip
    with torch.no_grad():
        assert torch.equal(net(inputs), back(inputs))
    weights = [entry for entry in small.tensors.values() if isinstance(entry, QTensor)]
    assert len(weights) == 4 and all(entry.codes.unique().numel() <= 8 for entry in weights) and len(back.state_dict())
    assert set(small.activations) == {"conv2", "conv3", "linear"} | {"conv1"}


@pytest.mark.parametrize("name", TRAINED)
def test_a_network_without_batch_norm_is_quantised_in_its_own_units(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    with torch.no_grad():
        net[2].weight.mul_(7).add_(0.5)
    expected = copy.deepcopy(net)
    tersenet.attach(net, name, [torch.randn(32, 64)], bits=5 if name == "pot" else 6, first_last="same")
    x = torch.randn(100, 64)
    assert (net(x) - expected(x)).norm() < (0.35 if name == "pot" else 0.12) * expected(x).norm()
    fresh = tersenet.freeze(net).apply_to(copy.deepcopy(expected))
    assert torch.equal(fresh(x), net(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_checkpoints_train_and_come_back_in_their_precision(dtype: torch.dtype, task: Task) -> None:
    net = build("digits").to(dtype)
    small = tersenet.compress(net, "apot", task=task, epochs=1, bits=4)
    for name, entry in small.tensors.items():
        assert entry.dtype == net.state_dict()[name].dtype
        if isinstance(entry, QTensor):
            exact = entry.grid.decode(entry.codes)
            assert torch.equal(entry.dequantize().float(), exact.to(dtype).float())


def test_first_and_last_layer_are_8_bits_kept_or_like_the_others(network: nn.Module, task: Task) -> None:
    for first_last, codes in (("8", 256), ("same", 4), ("keep", 0)):
        small = tersenet.compress(
            network, "lsq", task=task, epochs=0, bits=2, act_bits=2, first_last=first_last, include=("*t",)
        )
        last = small.tensors["linear.weight"]
        assert isinstance(last, KeptTensor) if codes == 0 else last.codes.unique().numel() <= codes  # type: ignore[union-attr]
        assert ("linear" in small.activations) == (first_last == "same")


def test_32_bits_is_fine_tuning_in_full_precision(network: nn.Module, task: Task) -> None:
    small = tersenet.compress(network, "lsq", task=task, epochs=1, bits=32, kept_dtype="exact")
    assert not small.activations and all(isinstance(entry, KeptTensor) for entry in small.tensors.values())
    assert not torch.equal(small.tensors["conv1.weight"].dequantize(), network.conv1.weight)  # type: ignore[arg-type]


def test_a_method_that_needs_a_task_to_choose_bits_cannot_be_attached_without_them(
    network: nn.Module, task: Task
) -> None:
    with pytest.raises(UsageError, match="chooses bits from a task"):
        tersenet.attach(network, "imprint", inputs_of(task))
    net = tersenet.attach(network, "imprint", inputs_of(task), layer_bits={"*": 3})
    assert attach.average_bits(net) == 3
    with pytest.raises(UsageError, match="does not train"):
        tersenet.attach(build("digits"), "rtn", inputs_of(task))


def test_a_reading_of_an_unseen_formula_says_so_in_the_file(network: nn.Module, task: Task) -> None:
    small = tersenet.compress(network, "apot", task=task, epochs=0, estimator="qea")
    assert "was not available" in small.provenance["notes"][0]
    assert "notes" not in tersenet.compress(network, "apot", task=task, epochs=0).provenance


def test_the_average_width_counts_every_weight(network: nn.Module, task: Task) -> None:
    net = tersenet.attach(network, "lsq", inputs_of(task), bits=3)
    ends = network.conv1.weight.numel() + network.linear.weight.numel()  # type: ignore[union-attr,operator]
    middle = network.conv2.weight.numel() + network.conv3.weight.numel()  # type: ignore[union-attr,operator]
    assert attach.average_bits(net) == pytest.approx((8 * ends + 3 * middle) / (ends + middle))


def test_training_leaves_the_given_network_as_it_was(network: nn.Module, task: Task) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    tersenet.compress(network, "lsq", task=task, epochs=1)
    after = network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("kind", ["lsq", "rcf", "pact", "minmax", "ema", "percentile", "mse"])
def test_every_way_to_find_a_range_works_at_8_bits(kind: str, network: nn.Module, task: Task) -> None:
    fresh = copy.deepcopy(network)
    small = tersenet.compress(network, "lsq", task=task, epochs=0, bits=8, act_bits=8, act_range=kind)
    result = evaluate(small.apply_to(copy.deepcopy(fresh)), task, reference=fresh)
    assert result.agreement is not None and result.agreement.mean > 0.97


def test_observed_ranges_are_what_they_say(network: nn.Module, task: Task) -> None:
    inputs = inputs_of(task)
    seen: list[Tensor] = []
    handle = network.conv2.register_forward_pre_hook(lambda part, given: seen.append(given[0]))  # type: ignore[union-attr]
    with torch.no_grad():
        for batch in inputs:
            network(batch)
    handle.remove()
    tops = [float(part.max()) for part in seen]
    expected = {"minmax": max(tops), "ema": 0.9 * tops[0] + 0.1 * tops[1]}
    for kind, top in expected.items():
        net = tersenet.attach(copy.deepcopy(network), "lsq", inputs, bits=32, act_bits=8, act_range=kind)
        assert tersenet.freeze(net).activations["conv2"].scale * 255 == pytest.approx(top, rel=2e-3)


def test_batch_norm_is_averaged_over_what_the_network_gives_now(network: nn.Module, task: Task) -> None:
    inputs = inputs_of(task)[:1]
    reestimate(network, inputs)
    with torch.no_grad():
        given = network.conv1(inputs[0])  # type: ignore[operator]
    assert torch.allclose(network.bn1.running_mean, given.mean((0, 2, 3)), atol=1e-5)  # type: ignore[union-attr,arg-type]
    assert not network.training and network.bn1.momentum == 0.1  # type: ignore[union-attr]


class Wider(nn.Module):
    """A network with a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.idle, self.head = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.net(x.flatten(1))))  # type: ignore[no-any-return]


def bad(task: Task, images: Tensor | None = None, labels: Tensor | None = None) -> Task:
    x, y = next(iter(task.split("train")))
    return replace(task, train=[(x if images is None else images, y if labels is None else labels)])


def test_bad_input_is_a_clear_error(network: nn.Module, task: Task, tmp_path: Path) -> None:
    x, y = next(iter(task.split("train")))
    cases: list[tuple[type[Exception], str, nn.Module, Task, dict[str, Any]]] = [
        (InputError, "labels from [01] to 10", network, bad(task, labels=y + 1), {}),
        (InputError, "labels from -1", network, bad(task, labels=y - 1), {}),
        (InputError, "no calibration inputs", network, replace(task, train=[]), {}),
        (InputError, "train split of the task is empty", network, replace(task, train=[]), {"bits": 32}),
        (InputError, "no split 'train'", network, replace(task, train=None), {}),
        (InputError, "no tensor of this network can be", nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), task, {}),
        (InputError, "NaN", network, bad(task, images=x * float("nan")), {"act_bits": 4}),
        (TrainingError, "loss is nan", network, bad(task, images=x * float("nan")), {"bits": 32}),
        (InputError, "no targets and the network returns no loss", network, replace(task, train=[x]), {}),
        (UsageError, "estimator='magic': expected a text, 'ste'", network, task, {"estimator": "magic"}),
        (UsageError, "bits=9: expected an integer", network, task, {"bits": 9}),
        (UsageError, "act_bits=1: expected an integer", network, task, {"act_bits": 1}),
        (UsageError, "fold", network, task, {"bn": "fold"}),
        (UsageError, "epochs=-1: expected an integer", network, task, {"epochs": -1}),
    ]
    for error, words, net, given, fields in cases:
        with pytest.raises(error, match=words):
            tersenet.compress(net, "lsq", task=given, **{"epochs": 1, **fields})
    with pytest.raises(UsageError, match="give the network's code"):
        tersenet.compress(network, "lsq")


def test_a_layer_that_never_runs_keeps_its_weights_quantised_but_has_no_input(task: Task) -> None:
    small = tersenet.compress(Wider(), "lsq", task=task, epochs=0, act_bits=4, first_last="same")
    assert isinstance(small.tensors["idle.weight"], QTensor) and "idle" not in small.activations


def test_a_hook_that_is_never_called_is_an_error(task: Task) -> None:
    from tersenet.core.levels import Integers
    from tersenet.quantizers.activation import InputQuantizer

    net = Wider()
    quantizer = InputQuantizer("lsq", lambda signed: Integers(0, 15))
    with pytest.raises(InputError, match="layer idle never ran"):
        attach.attach_inputs(net, {"idle": quantizer}, inputs_of(task))


def test_the_last_good_state_survives_a_nan(network: nn.Module, task: Task, tmp_path: Path) -> None:
    batches = list(task.split("train"))
    broken = replace(task, train=[*batches[:3], (batches[3][0] * float("nan"), batches[3][1])])
    source = open_module(network)
    method = methods.get("lsq")(epochs=1, bits=32)  # type: ignore[call-arg]
    with pytest.raises(TrainingError, match="step 4 of 4"):
        list(method.compress(Job(source, network, broken.for_method(), RunFolder(tmp_path / "r"))))
    state = torch.load(tmp_path / "r" / "last.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in state["model"].values() if value.is_floating_point())


def test_channels_of_zeros_and_large_weights_stay_finite(network: nn.Module, task: Task) -> None:
    with torch.no_grad():
        network.conv2.weight[:5] = 0  # type: ignore[union-attr,index]
        network.linear.weight.mul_(3e5)  # type: ignore[union-attr,operator]
    for name in TRAINED:
        small = tersenet.compress(network, name, task=task, epochs=1, lr=1e-6, granularity="channel", first_last="same")
        for entry in small.tensors.values():
            assert torch.isfinite(entry.dequantize()).all()


def test_tied_weights_are_quantised_once_and_stay_tied(task: Task) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.b(torch.relu(self.a(x.flatten(1))))))  # type: ignore[no-any-return]

    net = Net()
    small = tersenet.compress(net, "lsq", task=task, epochs=1, bits=3, first_last="same")
    assert small.aliases == {"b.weight": "a.weight"} and isinstance(small.tensors["a.weight"], QTensor)
    small.apply_to(net)
    assert torch.equal(net.a.weight, net.b.weight)


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("lsq", {"bits": 2, "act_bits": 32, "bn": "scale-shift", "first_last": "keep", "granularity": "channel"}),
        ("apot", {"bits": 3, "bn": "scale-shift", "oscillation": "freeze"}),
    ],
    ids=str,
)
def test_the_network_that_was_trained_is_the_network_in_the_file(
    method: str,
    fields: dict[str, Any],
    network: nn.Module,
    task: Task,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    check_law(network, example(method, **fields), task, tmp_path, monkeypatch)
