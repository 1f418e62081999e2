"""ALQ as a whole: that no weight stands after the bases, average bits, budgets, resuming, and what is refused."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import tersenet
from stopped_training import Batches, Stopped
from tersenet.cli import main
from tersenet.core.grid import BinaryBases
from tersenet.core.method import Job, RunFolder
from tersenet.core.model import CompressedModel, QTensor
from tersenet.core.task import Task
from tersenet.errors import BudgetError, InputError, TrainingError, UsageError, WeightError
from tersenet.files.checkpoint import open_module
from tersenet.files.summary import summarize
from tersenet.lab.digits import train
from tersenet.methods import get
from tersenet.methods.alq import Alq
from tersenet.methods.alq.optimizer import LossAware
from tersenet.methods.alq.sums import SumOfBases
from tersenet.quantizers import attach
from tersenet.search.within import compress_within

FAST: dict[str, Any] = {"bases": 3, "rounds": 2, "epochs": 1, "coordinate_epochs": 1, "refine": 1, "group_size": 8}


def few(task: Task, batches: int = 4) -> Task:
    return replace(task, train=list(task.split("train"))[:batches])


def made(network: nn.Module, task: Task, **fields: Any) -> CompressedModel:
    return tersenet.compress(copy.deepcopy(network), "alq", task=few(task), **{**FAST, **fields})


def grids(model: CompressedModel) -> dict[str, BinaryBases]:
    found = {name: entry.grid for name, entry in model.tensors.items() if isinstance(entry, QTensor)}
    assert all(isinstance(grid, BinaryBases) for grid in found.values())
    return found  # type: ignore[return-value]


@pytest.fixture(scope="module")
def small(task: Task) -> nn.Module:
    """A network that trains in no time; rows of 64, 40 and 32 weights."""
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, 10)]
    return train(nn.Sequential(*layers), task, epochs=6)


def test_every_tensor_keeps_a_basis_and_a_goal_without_is_refused(small: nn.Module, task: Task) -> None:
    compact = made(small, task, bits=0.05, rounds=1)
    assert all(int(grid.counts.sum()) >= 1 for grid in grids(compact).values())
    with pytest.raises(BudgetError, match=r"one basis in each of 3 tensors, the least.*coordinate") as refused:
        made(small, task, bits=0.0001)
    assert 0.0001 < (refused.value.nearest or 0) < 0.05


def test_a_tensor_that_no_gradient_reaches_is_named(task: Task) -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(64, 10), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.used(x.flatten(1)) + 0 * self.idle(x.flatten(1))
            return out

    with pytest.raises(InputError, match=r"gradient of idle\.weight was 0.*exclude=\('idle\.weight',\)"):
        made(Idle(), task, bits=0.5)
    assert grids(made(Idle(), task, bits=1.0, criterion="coordinate")).keys() == {"used.weight", "idle.weight"}


def test_no_weight_in_full_precision_stands_behind_the_bases(small: nn.Module, task: Task) -> None:
    seen: list[str] = []

    def look(method: Alq, net: nn.Module) -> None:
        kept = {*net.parameters(), *net.buffers()}
        for name, quantizer, (latent,) in attach.quantizers(net):
            assert isinstance(quantizer, SumOfBases) and torch.equal(latent, quantizer.value())
            groups = quantizer.grouped(latent)
            counts = quantizer.alive.sum(1).tolist()
            assert all(len(g.unique()) <= 2**n for g, n in zip(groups, counts, strict=True))
            others = [t for t in kept if t.is_floating_point() and t.numel() >= latent.numel() and t is not latent]
            assert not [t for t in others if t.shape == latent.shape], name
            seen.append(name)

    states: list[set[str]] = []

    def watch(method: Alq, net: nn.Module, epoch: int, optimizer: LossAware, job: Job) -> None:
        Alq.on_epoch(method, net, epoch, optimizer, job)
        states.append({key for state in optimizer.state.values() for key in state})

    chosen = get("alq")(bits=0.8, **FAST)
    kind = type("Watched", (Alq,), {"after_step": look, "on_epoch": watch, "__module__": Alq.__module__})
    watched = kind(**vars(chosen))
    source = open_module(small)
    list(watched.compress(Job(source, small, few(task).for_method())))
    assert len(seen) == 3 * 4 * (2 * 3 + 2)
    assert set().union(*states) == {"mean", "square", "peak", "t", "by basis"}  # moments of gradients only


def test_latent_weights_are_there_only_if_asked_for_and_only_after_the_last_pruning(
    small: nn.Module, task: Task
) -> None:
    begun: list[str] = []
    original = LossAware.begin

    def begin(self: LossAware, kind: Any, pruning: Any = None) -> None:
        begun.append(kind)
        original(self, kind, pruning)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LossAware, "begin", begin)
        made(small, task, bits=0.8, latent=True)
    round_ = ["basis", "coordinate", "prune"]
    assert begun == [*round_, *round_, "latent", "coordinate"]


@pytest.mark.parametrize("bits", [1.5, 0.4])
def test_average_bits_are_the_ones_asked_for_and_are_reported_with_and_without_coordinates(
    bits: float, small: nn.Module, task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compact = made(small, task, bits=bits)
    facts, found = compact.provenance["alq"], grids(compact)
    weights = sum(compact.tensors[name].shape.numel() for name in found)
    planes = sum(int(grid.counts.sum(dtype=torch.int64)) * grid.group_size for grid in found.values())
    assert facts["bits"] == round(planes / weights, 4) and bits - 0.03 < facts["bits"] <= bits
    tersenet.save(compact, tmp_path / "x.terse")
    rows = [row for row in summarize(tmp_path / "x.terse").rows if row.grid]
    sides = 8 * sum(row.grid_bytes for row in rows) / weights
    assert facts["bits_with_coordinates"] == pytest.approx(planes / weights + sides, abs=1e-4)
    assert 8 * sum(row.bytes for row in rows) / weights <= facts["bits_with_coordinates"] + 0.05
    with pytest.raises(SystemExit):
        main(["inspect", str(tmp_path / "x.terse")])
    shown = capsys.readouterr().out
    assert "bits_with_coordinates" in shown and str(facts["bits"]) in shown


def test_the_file_gives_the_values_back_from_planes(small: nn.Module, task: Task, tmp_path: Path) -> None:
    compact = made(small, task, bits=0.7, latent=True)
    tersenet.save(compact, tmp_path / "x.terse")
    back = tersenet.load(tmp_path / "x.terse")
    for name, grid in grids(compact).items():
        assert torch.equal(back.tensors[name].dequantize(), compact.tensors[name].dequantize())
        assert bool((grid.coordinates > 0).all()) and int(grid.counts.min()) == 0


def test_a_training_stopped_in_any_part_goes_on_to_the_same_bytes(
    small: nn.Module, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tersenet.training.run.EVERY", 0.0)
    batches, source = list(few(task).split("train")), open_module(small)
    chosen = get("alq")(**FAST, bits=0.6, latent=True, act_bits=4)

    def result(folder: str, stop: int, resume: bool) -> bytes:
        given = replace(task.for_method(), train=Batches(batches, stop))
        job = Job(source, small, given, RunFolder(tmp_path / folder, resume))
        tersenet.save(chosen.model(source, chosen.compress(job)), tmp_path / f"{folder}.terse", overwrite=True)
        return (tmp_path / f"{folder}.terse").read_bytes()

    whole, steps = result("whole", -1, False), len(batches)
    for epoch in (1, 5, 6):  # in coordinate steps, in the second round's pruning, in latent steps
        at = steps + steps * epoch + 3  # the first epoch's worth sets the inputs' ranges
        with pytest.raises(Stopped):
            result(f"stopped at {at}", at, False)
        assert result(f"stopped at {at}", -1, True) == whole


def test_a_budget_of_bytes_is_met_by_average_bits(small: nn.Module, task: Task, tmp_path: Path) -> None:
    save_file(small.state_dict(), tmp_path / "n.safetensors")
    method = get("alq")(bases=2, rounds=1, epochs=0, coordinate_epochs=0, refine=0, group_size=8)
    given: dict[str, Any] = {"module": copy.deepcopy(small), "task": few(task), "max_bytes": 1500}
    found = compress_within(tmp_path / "n.safetensors", tmp_path / "o.terse", method, **given)
    assert found.holds and 1200 < (tmp_path / "o.terse").stat().st_size <= 1500
    assert tersenet.load(tmp_path / "o.terse").provenance["fields"]["bits"] < 1


@pytest.mark.parametrize("groups", ["pixel", "kernel", "channel", "sub-channel"])
def test_groups_are_what_they_are_called(groups: Any, network: nn.Module, task: Task) -> None:
    found = grids(made(network, task, groups=groups, group_size=None, rounds=0, refine=0, bits=2.0))["conv2.weight"]
    expected = {"pixel": (32, 9), "kernel": (9, 1), "channel": (288, 1), "sub-channel": (288, 1)}[groups]
    assert (found.group_size, found.stride) == expected


def test_a_group_size_divides_a_row_or_is_refused_with_some_that_do() -> None:
    method = get("alq")(group_size=400)
    assert isinstance(method, Alq)
    assert method.grouping("fc1", torch.Size((500, 800))) == (400, 1)
    assert method.grouping("small", torch.Size((10, 84))) == (84, 1)
    with pytest.raises(UsageError, match=r"group_size=400 does not divide the 500.*fc2.*250, 500"):
        method.grouping("fc2", torch.Size((10, 500)))
    plain = Alq()
    assert plain.grouping("fc1", torch.Size((500, 800))) == (400, 1)
    assert plain.grouping("first", torch.Size((16, 3, 3, 3))) == (27, 1)


WRONG: tuple[dict[str, Any], ...] = (
    {"bits": 0.0}, {"bits": 9.0}, {"bits": float("nan")}, {"bases": 9}, {"group_size": 0}, {"mantissa": 11},
    {"layer_bits": {"a": 9}}, {"rounds": -1}, {"groups": "row"}, {"optimizer": "sgd"}, {"bn": "fold"},
)  # fmt: skip


@pytest.mark.parametrize("fields", WRONG, ids=str)
def test_fields_that_cannot_be_are_refused(fields: Any) -> None:
    with pytest.raises(UsageError):
        get("alq")(**fields)


def test_nan_in_weights_and_in_the_loss_stops_it(small: nn.Module, task: Task) -> None:
    broken, late = copy.deepcopy(small), list(task.split("train")) * 2
    with torch.no_grad():
        broken.get_parameter("1.weight")[3, 1] = torch.nan
    with pytest.raises(WeightError, match=r"1\.weight has nan"):
        made(broken, task)
    late[10] = (late[10][0] * torch.nan, late[10][1])  # the first eight are looked at before
    with pytest.raises(TrainingError, match="step 11 of"):
        tersenet.compress(copy.deepcopy(small), "alq", task=replace(task, train=late), **FAST)


def test_inputs_are_rounded_but_those_of_the_first_and_the_last_layer(network: nn.Module, task: Task) -> None:
    assert made(network, task, act_bits=4, bits=2.0).activations.keys() == {"conv2", "conv3"}


def test_layers_with_bits_of_their_own_keep_them_and_are_not_in_the_average(small: nn.Module, task: Task) -> None:
    found = grids(made(small, task, bits=0.5, layer_bits={"3.weight": 2}))
    assert set(found["3.weight"].counts.unique().tolist()) == {2}
    others = [grid for name, grid in found.items() if name != "3.weight"]
    planes = sum(int(grid.counts.sum(dtype=torch.int64)) * grid.group_size for grid in others)
    assert planes / sum(grid.counts.numel() * grid.group_size for grid in others) <= 0.5


def test_a_half_precision_network_computes_in_values_of_its_own(small: nn.Module, task: Task) -> None:
    compact = tersenet.compress(copy.deepcopy(small).half(), "alq", task=few(task), bits=1.0, **FAST)
    values = compact.tensors["1.weight"].dequantize()
    assert values.dtype == torch.float16 and bool(values.any())


def test_a_loop_of_ones_own_with_another_optimizer_still_ends_in_what_it_computes(
    network: nn.Module, task: Task
) -> None:
    images, labels = next(iter(task.split("train")))
    net = tersenet.attach(network, "alq", [images], bases=2)
    optimizer = torch.optim.SGD(tersenet.param_groups(net, lr=0.5), momentum=0.9)
    before = {name: quantizer.codes.clone() for name, quantizer, _ in attach.quantizers(net)}  # type: ignore[union-attr, operator]
    for _ in range(4):
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        tersenet.after_step(net)
    small = tersenet.freeze(net, [images])
    with torch.no_grad():
        computed = net.eval()(images)
        assert torch.equal(small.apply_to(tersenet.detach(copy.deepcopy(net))).eval()(images), computed)
    assert any(not torch.equal(quantizer.codes, before[name]) for name, quantizer, _ in attach.quantizers(net))
