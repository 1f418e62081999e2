"""Networks trained by mirror descent and its relatives: from a checkpoint, as in the paper, stopped, and spoilt."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

import tersenet
from every_method import example
from last_network import check_law
from stopped_training import Batches, Stopped
from tersenet.cli import main
from tersenet.core.grid import Codebook
from tersenet.core.method import Job, RunFolder
from tersenet.core.model import CompressedModel, QTensor
from tersenet.core.task import Task
from tersenet.errors import InputError, TrainingError, WeightError
from tersenet.files.checkpoint import open_module
from tersenet.methods.mirror import Mirror
from tersenet.methods.mirror.projected import Rule, even
from tersenet.quantizers import attach
from tersenet.training.phases import Phase

RULES: tuple[Rule, ...] = get_args(Rule)


@pytest.fixture
def brief(task: Task) -> Task:
    """Three batches to train on."""
    return replace(task, train=list(task.split("train"))[:3])


def made(network: nn.Module, task: Task, **fields: Any) -> CompressedModel:
    return tersenet.compress(copy.deepcopy(network), "mirror", task=task, **{"epochs": 2, **fields})


def codes(small: CompressedModel) -> dict[str, Tensor]:
    """The positions of everything on levels."""
    entries = {name: entry for name, entry in small.tensors.items() if isinstance(entry, QTensor)}
    return {name: entry.codes for name, entry in entries.items() if isinstance(entry.grid, Codebook)}


def test_a_whole_training_with_a_steep_tanh_is_binaryconnect(network: nn.Module, brief: Task) -> None:
    fields = {"paper": True, "beta": 1e30, "final_beta": 1e30, "lr": 0.01}
    steep, limit = (codes(made(network, brief, rule=rule, **fields)) for rule in ("md-tanh", "binaryconnect"))
    gentle = codes(made(network, brief, rule="md-tanh", paper=True, lr=0.01))
    assert all(torch.equal(steep[name], limit[name]) for name in limit)
    assert not all(torch.equal(gentle[name], limit[name]) for name in limit)


@pytest.mark.parametrize("rule", RULES)
def test_duals_start_at_the_weight_over_its_mean_magnitude_and_stand_for_it(rule: Rule, network: nn.Module) -> None:
    weight = network.conv2.weight.detach().clone()  # type: ignore[union-attr]
    inputs = torch.randn(8, 1, 8, 8)
    net = tersenet.attach(network, "mirror", [inputs], rule=rule, states=3)
    found = next(each for each in attach.quantizers(net) if each.name == "conv2.weight")
    assert float(found.quantizer.scale) == pytest.approx(float(weight.abs().mean()), rel=2**-10)  # type: ignore[arg-type]
    assert found.latents[0].shape == ((3, *weight.shape) if rule in ("md-softmax", "pmf") else weight.shape)
    assert torch.equal(net.eval().conv2.weight.sign(), torch.where(  # type: ignore[union-attr]
        weight.abs() < found.quantizer.scale / 2, 0.0, weight.sign()  # type: ignore[operator]
    ))  # fmt: skip
    assert torch.allclose(tersenet.detach(net).conv2.weight, weight, atol=1e-6)  # type: ignore[union-attr]


@pytest.mark.parametrize("rule", RULES)
def test_after_training_every_weight_is_a_level_times_its_scale(rule: Rule, network: nn.Module, brief: Task) -> None:
    small = made(network, brief, rule=rule, levels=(-1, 0.5, 2), first_last="same")
    on_levels = codes(small)
    assert set(on_levels) == {"conv1.weight", "conv2.weight", "conv3.weight", "linear.weight"}
    for name in on_levels:
        entry = small.tensors[name]
        assert isinstance(entry, QTensor) and isinstance(entry.grid, Codebook) and entry.grid.scale is not None
        assert entry.grid.values.dtype == torch.float16
        values = torch.tensor([-1, 0.5, 2]) * entry.grid.scale.float()
        assert set(entry.dequantize().unique().tolist()) <= set(values.tolist())


@pytest.mark.parametrize("states", [2, 3])
def test_as_in_the_paper_every_parameter_is_a_bare_level_and_norms_do_nothing(
    states: int, network: nn.Module, brief: Task
) -> None:
    small = made(network, brief, paper=True, states=states, lr=0.05, exclude=("conv3.weight",))
    norms = {f"bn{i}.{part}": value for i in (1, 2, 3) for part, value in (("weight", 1.0), ("bias", 0.0))}
    for name, parameter in network.named_parameters():
        value = small.tensors[name].dequantize()
        if name in norms:
            assert (value == norms[name]).all()
        elif name == "conv3.weight":
            begun = made(network, brief, paper=True, epochs=0, exclude=("conv3.weight",)).tensors[name]
            assert not isinstance(begun, QTensor) and torch.allclose(begun.dequantize(), parameter, rtol=2**-10)
        else:
            assert name in codes(small) and set(value.unique().tolist()) <= set(even(states))
    again = made(network, brief, paper=True, states=states, lr=0.05, exclude=("conv3.weight",))
    other = made(network, brief, paper=True, states=states, lr=0.05, exclude=("conv3.weight",), seed=1)
    assert all(torch.equal(codes(small)[name], codes(again)[name]) for name in codes(small))
    assert not all(torch.equal(codes(small)[name], codes(other)[name]) for name in codes(small))


def test_first_and_last_layers_and_single_ones_have_their_own_widths(network: nn.Module, brief: Task) -> None:
    def counts(**fields: Any) -> dict[str, int]:
        small = made(network, brief, epochs=0, **fields)
        entries = {name: entry for name, entry in small.tensors.items() if isinstance(entry, QTensor)}
        return {name.removesuffix(".weight"): len(entry.codes.unique()) for name, entry in entries.items()}

    plain = counts()
    assert plain["conv2"] == plain["conv3"] == 2 and plain["conv1"] > 16 and plain["linear"] > 16
    assert set(counts(first_last="keep")) == {"conv2", "conv3"}
    assert counts(first_last="same", states=3) == dict.fromkeys(plain, 3)
    assert counts(states=3, layer_bits={"conv3.weight": 1})["conv3"] == 2


@pytest.mark.parametrize("rule", RULES)
def test_ones_own_loop_gives_the_network_that_it_trained(rule: Rule, network: nn.Module, task: Task) -> None:
    batches = list(task.split("train"))[:4]
    net = tersenet.attach(network, "mirror", [x for x, _ in batches], rule=rule, states=3)
    optimizer = torch.optim.Adam(tersenet.param_groups(net, lr=0.01, weight_decay=0.0))
    for step, (inputs, targets) in enumerate(batches):
        tersenet.anneal(net.train(), step / len(batches), 0.01)
        (nn.functional.cross_entropy(net(inputs), targets) + tersenet.penalty(net)).backward()
        optimizer.step()
        optimizer.zero_grad()
        tersenet.after_step(net)
    small = tersenet.freeze(net, [x for x, _ in batches])
    with torch.no_grad():
        expected = net.eval()(batches[0][0])
        assert torch.equal(small.apply_to(copy.deepcopy(tersenet.detach(net))).eval()(batches[0][0]), expected)


def test_ones_own_loop_may_begin_as_in_the_paper(network: nn.Module) -> None:
    before = network.conv2.weight.detach().clone()  # type: ignore[union-attr]
    net = tersenet.attach(network, "mirror", [torch.randn(8, 1, 8, 8)], paper=True)
    assert {each.name for each in attach.quantizers(net)} >= {"conv1.weight", "linear.bias"}
    assert not network.bn1.weight.requires_grad  # type: ignore[union-attr]
    assert not torch.allclose(tersenet.detach(net).conv2.weight, before)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("rule", "paper"),
    [("md-tanh", False), ("md-softmax", True), ("proxquant", False), ("binaryconnect", False)],
    ids=str,
)
def test_a_stopped_training_goes_on_to_the_same_bytes(
    rule: Rule, paper: bool, network: nn.Module, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tersenet.training.run.EVERY", 0.0)
    batches, source = list(task.split("train"))[:3], open_module(network)
    method = Mirror(rule=rule, paper=paper, epochs=3, lr=0.02, states=3)

    def result(folder: str, stop: int, resume: bool) -> bytes:
        job = Job(source, network, replace(task.for_method(), train=Batches(batches, stop)),
                  RunFolder(tmp_path / folder, resume))  # fmt: skip
        tersenet.save(method.model(source, method.compress(job)), tmp_path / f"{folder}.terse", overwrite=True)
        return (tmp_path / f"{folder}.terse").read_bytes()

    whole = result("whole", -1, False)
    with pytest.raises(Stopped):
        result("stopped", 3 + 5, False)  # calibration took the first three
    assert result("stopped", -1, True) == whole


def test_a_training_as_in_the_paper_goes_on_from_another(network: nn.Module, brief: Task, tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "first")
    begun = tersenet.compress(copy.deepcopy(network), Mirror(paper=True, epochs=1), task=brief, run=first)
    after = RunFolder(start=tmp_path / "first")
    same = tersenet.compress(copy.deepcopy(network), Mirror(paper=True, epochs=0, seed=7), task=brief, run=after)
    assert all(torch.equal(found, codes(same)[name]) for name, found in codes(begun).items())


class Twice(Mirror):
    """A second phase, with new quantizers, that takes no step."""

    def phases(self) -> tuple[Phase, ...]:
        return Phase(self, 1, self.lr), Phase(self, 0, self.lr)


def test_a_second_phase_goes_on_from_the_duals_of_the_first_and_norms_stay_as_they_are(
    network: nn.Module, brief: Task
) -> None:
    method = Twice(paper=True, lr=0.05)
    small = tersenet.compress(copy.deepcopy(network), method, task=brief)
    assert all((small.tensors[f"bn{i}.weight"].dequantize() == 1).all() for i in (1, 2, 3))
    one = codes(made(network, brief, paper=True, lr=0.05, epochs=1))
    assert one and all(torch.equal(codes(small)[name], found) for name, found in one.items())


class Deaf(nn.Module):
    """A network whose outputs do not depend on its weights."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.net = network

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = 0 * self.net(x)
        return out


@pytest.mark.parametrize("rule", RULES)
def test_gradients_that_are_all_zero_leave_every_weight_at_its_level(
    rule: Rule, network: nn.Module, brief: Task
) -> None:
    small, start = (made(Deaf(network), brief, rule=rule, epochs=epochs) for epochs in (2, 0))
    assert codes(start) and all(torch.equal(codes(small)[name], found) for name, found in codes(start).items())


def test_a_tensor_of_zeros_stays_one(network: nn.Module, brief: Task) -> None:
    nn.init.zeros_(network.conv2.weight)  # type: ignore[union-attr,arg-type]
    assert not made(network, brief).tensors["conv2.weight"].dequantize().any()


def test_nan_and_infinity_are_refused_where_they_are(network: nn.Module, brief: Task) -> None:
    broken = copy.deepcopy(network)
    broken.conv2.weight.data[3, 1, 0, 2] = math.nan  # type: ignore[union-attr,operator]
    with pytest.raises(WeightError, match=r"conv2\.weight has nan at \[3, 1, 0, 2\]"):
        made(broken, brief)
    batches = list(brief.split("train"))
    spoilt = replace(brief, train=[(batches[0][0] * math.nan, batches[0][1])])
    with pytest.raises(InputError, match="NaN"):
        made(network, spoilt)
    with pytest.raises(TrainingError, match="not finite"):
        made(network, replace(brief, loss=lambda outputs, targets: outputs.sum() * math.nan))


def test_the_command_line_compresses_to_the_levels_it_is_told(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compress", str(checkpoint), "-o", str(tmp_path / "x.terse"), "--model", "digits", "--task", "digits",
              "--method", "mirror", "--levels", "-2,-1,1,2", "--rule", "pmf", "--epochs", "0", "--json"])  # fmt: skip
    assert not ended.value.code and '"method": "mirror"' in capsys.readouterr().out
    model = tersenet.load(tmp_path / "x.terse")
    assert set(codes(model)) == {"conv2.weight", "conv3.weight"}
    assert all(found.unique().tolist() == [0, 1, 2, 3] for found in codes(model).values())
    assert model.provenance["fields"]["levels"] == [-2, -1, 1, 2]


@pytest.mark.parametrize(
    "fields",
    [
        {"rule": "md-softmax", "states": 2, "levels": (-1.0, 0.3, 2.0), "first_last": "same"},
        {"rule": "proxquant", "states": 4},
        {"rule": "binaryconnect", "layer_bits": {"conv3.weight": 2}},
        {"rule": "gd-tanh", "states": 2, "first_last": "keep", "bn": "scale-shift"},
        {"rule": "pmf", "paper": True, "lr": 0.1},
    ],
    ids=str,
)
def test_the_network_that_was_trained_is_the_network_in_the_file(
    fields: dict[str, Any], network: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check_law(network, example("mirror", **fields), task, tmp_path, monkeypatch)
