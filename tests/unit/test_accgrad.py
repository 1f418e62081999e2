"""Accumulated gradients: groups, modes, ratios, and what is refused."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tersenet
from every_method import example
from last_network import check_law
from tersenet.analysis.evaluate import evaluate
from tersenet.core.grid import FixedPoint
from tersenet.core.model import CompressedModel, QTensor
from tersenet.core.task import Task
from tersenet.errors import BudgetError, InputError, UsageError
from tersenet.lab.models import build
from tersenet.methods import get
from tersenet.methods.accgrad.signal import clusters
from tersenet.report.size import storage

FAST: dict[str, Any] = {"epochs": 4, "warmup": 1, "lr": 0.02}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))


@pytest.fixture(scope="module")
def small(task: Task) -> nn.Module:
    from tersenet.lab.digits import train

    return train(net(), task, epochs=8)


def made(small: nn.Module, task: Task, **fields: Any) -> CompressedModel:
    return tersenet.compress(copy.deepcopy(small), "accgrad", task=task, **{**FAST, **fields})


def density(model: CompressedModel) -> float:
    entries = [entry for entry in model.tensors.values() if isinstance(entry, QTensor)]
    return sum(int((e.codes != 0).sum()) for e in entries) / sum(e.codes.numel() for e in entries)


def test_one_cluster_or_equal_bits_are_plain_fixed_point(small: nn.Module, task: Task) -> None:
    for fields in ({"bits": (6,)}, {"bits": (6, 6, 6), "clustering": "quantiles"}, {"bits": (6, 6)}):
        model = made(small, task, mode="post", **fields)
        for entry in model.tensors.values():
            assert isinstance(entry, QTensor) and isinstance(entry.grid, FixedPoint)
            assert int(entry.codes.min()) >= -32 and int(entry.codes.max()) <= 31
        assert set(model.provenance["accgrad"]["weights"]) == {"6"}


def test_sixteen_bits_change_nothing(small: nn.Module, task: Task) -> None:
    a, b = (made(small, task, mode="post", bits=bits) for bits in ((16,), (16, 16)))
    scores = [evaluate(m.apply_to(copy.deepcopy(small)), task, "validation").metric for m in (a, b)]
    assert scores[0] == scores[1] and scores[0] is not None and scores[0].mean > 0.85


def test_the_low_group_is_on_its_grid_at_the_end_and_is_the_larger(small: nn.Module, task: Task) -> None:
    model = made(small, task, mode="in", share=0.8, low_bits=2)
    counts = {int(bits): n for bits, n in model.provenance["accgrad"]["weights"].items()}
    total = sum(counts.values())
    assert set(counts) == {2, 16} and counts[2] == -(-total * 8 // 10)
    assert density(made(small, task, mode="in", share=0.8)) <= 0.2


def test_signals_choose_different_weights(small: nn.Module, task: Task) -> None:
    zero = [[(e.codes == 0) for e in made(small, task, mode="in", signal=s).tensors.values() if isinstance(e, QTensor)]
            for s in ("grad", "magnitude", "grad-magnitude")]  # fmt: skip
    assert not torch.equal(zero[0][0], zero[1][0]) and not torch.equal(zero[1][0], zero[2][0])


@pytest.mark.parametrize("mode", ["post", "in", "combined"])
def test_a_target_ratio_is_met_by_the_accounting_of_the_file(
    mode: str, small: nn.Module, task: Task, tmp_path: Path
) -> None:
    model = made(small, task, mode=mode, target_ratio=6.0, epochs=10, refine=2)
    size = tersenet.save(model, tmp_path / "x.terse")
    found = storage(tmp_path / "x.terse")
    assert 6.0 <= found.fp32 / found.csr < 9 and found.file == size
    assert found.fp32 / found.csr == pytest.approx(model.provenance["accgrad"]["ratio"], abs=1e-3)
    judged = evaluate(model.apply_to(copy.deepcopy(small)), task, "validation").metric
    assert judged is not None and judged.mean > (0.3 if mode == "post" else 0.8)


def test_a_target_ratio_counts_what_is_kept(network: nn.Module, task: Task, tmp_path: Path) -> None:
    for bn in ("keep", "scale-shift"):
        model = tersenet.compress(
            copy.deepcopy(network),
            "accgrad",
            task=task,
            mode="in",
            target_ratio=9.0,
            epochs=3,
            bn=bn,
            exclude=("linear*",),
        )
        tersenet.save(model, tmp_path / "x.terse", overwrite=True)
        found = storage(tmp_path / "x.terse")
        assert found.beside > 1_000 and 9.0 <= found.fp32 / found.csr < 10


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_a_recorded_ratio_is_true_though_what_is_kept_grows_in_training(seed: int, task: Task, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    fields = {"epochs": 3, "target_ratio": 8.0, "exclude": ("*bias",), "mode": "post", "bits": (0, 0, 4)}
    model = tersenet.compress(build("digits"), "accgrad", task=task, **fields)
    tersenet.save(model, tmp_path / "x.terse")
    found = storage(tmp_path / "x.terse")
    assert found.fp32 / found.csr >= 8.0
    assert found.fp32 / found.csr == pytest.approx(model.provenance["accgrad"]["ratio"], abs=1e-3)


def test_tuned_bits_are_the_best_of_those_that_meet_the_ratio(small: nn.Module, task: Task) -> None:
    model = made(small, task, mode="post", bits=(4, 4, 4), tune=True, target_ratio=5.0)
    assert model.provenance["accgrad"]["ratio"] >= 5.0
    plain = made(small, task, mode="post", bits=(0, 0, 8), target_ratio=5.0)
    scores = [evaluate(m.apply_to(copy.deepcopy(small)), task, "validation").metric for m in (model, plain)]
    assert scores[0] is not None and scores[1] is not None and scores[0].mean >= scores[1].mean


def test_a_killed_training_goes_on_to_the_same_codes(small: nn.Module, task: Task, tmp_path: Path) -> None:
    from tersenet.core.method import RunFolder

    class Killed(Exception):
        pass

    class Dies:
        def __init__(self, at: int) -> None:
            self.left = at

        def __len__(self) -> int:
            return 8

        def __iter__(self) -> Any:
            for batch in task.split("train"):
                self.left -= 1
                if self.left == 0:
                    raise Killed
                yield batch

    method = get("accgrad")(**FAST, target_ratio=14.0, refine=2)
    whole = tersenet.compress(copy.deepcopy(small), method, task=task)
    for at in (19, 33, 41):
        with pytest.raises(Killed):
            tersenet.compress(
                copy.deepcopy(small), method, task=replace(task, train=Dies(at)), run=RunFolder(tmp_path / str(at))
            )
        model = tersenet.compress(copy.deepcopy(small), method, task=task, run=RunFolder(tmp_path / str(at), True))
        for name, entry in whole.tensors.items():
            other = model.tensors[name]
            assert isinstance(entry, QTensor) and isinstance(other, QTensor) and torch.equal(entry.codes, other.codes)


def test_what_cannot_be_done_is_a_clear_error(small: nn.Module, task: Task) -> None:
    for words, fields in (
        ("widths from low to high", {"bits": (6, 4)}), ("2 to 16 or 0", {"bits": (1, 4)}),
        ("above 0.5", {"share": 0.3}), ("more epochs", {"warmup": 4}), ("above 1", {"target_ratio": 0.5}),
        ("give target_ratio", {"tune": True}), ("leave out bits", {"mode": "in", "bits": (4,)}),
        ("low_bits", {"low_bits": 1}),
        ("leaves no weights", {"bits": (0, 0)}), ("low_bits", {"low_bits": 16}),
        ("layer_bits gives", {"layer_bits": {"*": 1}}), ("refine", {"refine": -1}),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            made(small, task, **fields)
    with pytest.raises(BudgetError, match="leaves no weights"):
        made(small, task, target_ratio=1e6)
    with pytest.raises(BudgetError, match="by bits alone"):
        made(small, task, mode="post", tune=True, target_ratio=200.0)
    with pytest.raises(InputError, match="distinct values"):
        clusters(torch.tensor([1.0, 1.0, 2.0]), 3, "kmeans")
    dead = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), Dead())
    with pytest.raises(InputError, match=r"gradient of 2\.side\.weight was 0 in every batch"):
        made(dead, task)
    with pytest.raises(UsageError, match="accgrad trains"):
        tersenet.compress(small, "accgrad")


class Tied(nn.Module):
    """Two layers with one weight; the second is the first by name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.z, self.a, self.o = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.a.weight, self.a.bias = self.z.weight, self.z.bias
        self.o.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.a(self.z(x.flatten(1)).relu()).relu())  # type: ignore[no-any-return]


def test_tied_weights_are_stored_as_trained_under_any_name_and_frozen_ones_are_kept(task: Task, tmp_path: Path) -> None:
    module = Tied()
    torch.save(dict(sorted(module.state_dict().items())), tmp_path / "net.pt")
    for method, fields in (("accgrad", FAST), ("lsq", {"epochs": 1, "first_last": "same"})):
        small = tersenet.compress(tmp_path / "net.pt", method, module=Tied(), task=task, **fields)
        entry = small.tensors["a.weight"]
        assert isinstance(entry, QTensor) and not torch.allclose(entry.dequantize(), module.z.weight, atol=1e-3)
        assert small.aliases["z.weight"] == "a.weight" and not isinstance(small.tensors["o.bias"], QTensor)


class Dead(nn.Module):
    """A layer that runs, but whose output does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Linear(10, 30)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0 * self.side(x).sum()


@pytest.mark.parametrize(
    "fields",
    [
        {"epochs": 2, "mode": "post", "bits": (), "bn": "scale-shift"},
        {"epochs": 2, "mode": "in", "bits": (), "share": 0.6, "low_bits": 2},
    ],
    ids=str,
)
def test_the_network_that_was_trained_is_the_network_in_the_file(
    fields: dict[str, Any], network: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check_law(network, example("accgrad", **fields), task, tmp_path, monkeypatch)
