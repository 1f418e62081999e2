"""LAPQ: norms, parabola, Powell's search, bias correction, and what it may look at."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tersenet
from every_method import example
from last_network import check_law, outputs, seen_by
from tersenet import methods
from tersenet.analysis.evaluate import evaluate
from tersenet.core.activation import Activation
from tersenet.core.model import QTensor
from tersenet.core.task import Task
from tersenet.errors import InputError, UsageError
from tersenet.files.checkpoint import open_module
from tersenet.methods import settings
from tersenet.methods.lapq import vertex
from tersenet.methods.lapq.fake_quant import FakeQuantNetwork, WeightGrid, norm_clip, rounded_plainly
from tersenet.network.calibrate import calibration, mean_loss


def gauss(seed: int = 0) -> Tensor:
    return torch.randn(20_000, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("zero_level", [True, False])
@pytest.mark.parametrize("bits", [2, 4])
def test_the_clip_of_the_second_norm_is_the_least_squares_clip(bits: int, zero_level: bool) -> None:
    values, grid = gauss(), WeightGrid(bits, zero_level, 0)
    found = norm_clip(values, 2.0, lambda x, c: rounded_plainly(x, c, grid))
    errors = {c / 100: float((rounded_plainly(values, c / 100, grid) - values).square().mean()) for c in range(50, 500)}
    assert float((rounded_plainly(values, found, grid) - values).square().mean()) <= 1.005 * min(errors.values())


def test_a_larger_norm_has_a_larger_clip() -> None:
    grid = WeightGrid(3, True, 0)
    clips = [norm_clip(gauss(), p, lambda x, c: rounded_plainly(x, c, grid)) for p in (1.0, 2.0, 3.0, 4.0)]
    assert clips == sorted(clips) and clips[-1] > 1.2 * clips[0]


def test_the_papers_grid_has_two_to_the_b_levels_without_zero_and_ours_has_one() -> None:
    weight = gauss()[:3200].reshape(8, 400)
    for zero_level in (True, False):
        entry = WeightGrid(2, zero_level, 0).quantised(weight, 1.5)
        levels = sorted(
            {round(v, 3) for v in rounded_plainly(weight, 1.5, WeightGrid(2, zero_level, 0)).unique().tolist()}
        )
        assert len(levels) == 4 == entry.codes.unique().numel() and (0 in levels) == zero_level


@pytest.mark.parametrize("zero_level", [True, False])
def test_the_mean_of_every_channel_is_restored_by_a_stored_offset(zero_level: bool) -> None:
    weight = (gauss()[:3200] + 0.3).reshape(8, 400)
    entry = WeightGrid(3, zero_level, 0).quantised(weight, 1.0)
    assert torch.allclose(entry.dequantize().mean(1), weight.mean(1), atol=1e-3)
    assert entry.grid.offset is not None and entry.grid.offset.dtype == torch.float16  # type: ignore[union-attr]


def test_without_restoring_only_the_grid_is_left() -> None:
    weight = (gauss()[:3200] + 0.3).reshape(8, 400)
    entry = WeightGrid(3, True, 0, restore=False).quantised(weight, 1.0)
    assert torch.allclose(entry.dequantize(), rounded_plainly(weight, 1.0, WeightGrid(3, True, 0)), atol=1e-6)


def test_the_parabola_gives_its_vertex_only_where_it_is_a_minimum_inside() -> None:
    p = [2.0, 2.5, 3.0, 3.5, 4.0]
    assert vertex(p, [(x - 3.2) ** 2 for x in p]) == pytest.approx(3.2)
    assert vertex(p, [-((x - 3.2) ** 2) for x in p]) is None
    assert vertex(p, [(x - 9) ** 2 for x in p]) is None
    assert vertex(p, [1.0] * 5) is None


def prepared(network: nn.Module, task: Task, **fields: Any) -> tuple[Any, FakeQuantNetwork]:
    method = methods.get("lapq")(**fields)
    return method, method.fake_quant_network(open_module(network), network, task.for_method())


def loss_of(network: nn.Module, task: Task, **fields: Any) -> float:
    method, rounded = prepared(network, task, **fields)
    rounded.set(method.clips(rounded))
    return rounded.loss()


def test_at_2_bits_every_phase_has_a_lower_calibration_loss(network: nn.Module, task: Task) -> None:
    first, second, third = (
        loss_of(network, task, bits=2, act_bits=2, search=search, evaluations=150) for search in ("l2", "lp", "powell")
    )
    assert first > second > third


def test_8_bits_lose_nothing(network: nn.Module, task: Task) -> None:
    small = tersenet.compress(network, "lapq", task=task, bits=8, act_bits=8, search="lp")
    result = evaluate(small.apply_to(copy.deepcopy(network)), task, reference=network)
    assert result.agreement is not None and result.agreement.mean >= 0.996


def test_the_file_is_the_network_that_was_searched(network: nn.Module, task: Task) -> None:
    method, rounded = prepared(network, task, bits=3, act_bits=3, evaluations=30)
    clips = method.clips(rounded)
    rounded.set(clips)
    small = tersenet.compress(network, "lapq", task=task, bits=3, act_bits=3, evaluations=30)
    inputs = next(iter(task.split("validation")))[0] * 1.5
    with torch.no_grad():
        assert torch.equal(small.apply_to(copy.deepcopy(network))(inputs), rounded.module(inputs))


def test_the_evaluations_are_capped_and_the_best_point_is_kept(network: nn.Module, task: Task) -> None:
    method, rounded = prepared(network, task, bits=2, act_bits=2, evaluations=7)
    seen: list[float] = []
    measure = rounded.loss
    rounded.loss = lambda: seen.append(measure()) or seen[-1]  # type: ignore[func-returns-value,method-assign]
    rounded.set(method.clips(rounded))
    assert len(seen) <= 11 + 7 and measure() == pytest.approx(min(seen), rel=1e-6)


def test_the_policy_for_first_and_last_layers_is_followed_and_recorded(network: nn.Module, task: Task) -> None:
    for first_last, wide in (("8", True), ("keep", False), ("same", False)):
        small = tersenet.compress(network, "lapq", task=task, bits=2, act_bits=4, search="l2", first_last=first_last)
        first = small.tensors["conv1.weight"]
        assert isinstance(first, QTensor) == (first_last != "keep")
        assert (isinstance(first, QTensor) and first.codes.unique().numel() > 4) == wide
        assert ("linear" in small.activations) == (first_last == "same")
        assert all(isinstance(value, Activation) for value in small.activations.values())
        assert {s.name: s.value for s in settings(small.provenance).fields}["first_last"] == first_last


def test_it_needs_calibration_data_and_never_sees_the_test_split(network: nn.Module, task: Task) -> None:
    class Untouchable:
        def __iter__(self) -> Any:
            raise AssertionError("the test split was read")

    tersenet.compress(network, "lapq", task=replace(task, test=Untouchable()), search="l2")
    with pytest.raises(InputError, match="no split 'calibration'"):
        tersenet.compress(network, "lapq", task=replace(task, calibration=None))
    with pytest.raises(InputError, match="calibration split of the task is empty"):
        tersenet.compress(network, "lapq", task=replace(task, calibration=[]))
    with pytest.raises(UsageError, match="give the network's code"):
        tersenet.compress(network, "lapq")


@pytest.mark.parametrize(
    "fields",
    [
        {"bits": 3, "act_bits": 4, "bn": "scale-shift", "search": "lp"},
        {"bn": "fold", "equalise": True, "search": "l2"},
        {"bits": 3, "act_bits": 32, "first_last": "keep", "search": "l2"},
    ],
    ids=str,
)
def test_the_network_that_was_searched_is_the_network_in_the_file(
    fields: dict[str, Any], network: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check_law(network, example("lapq", **fields), task, tmp_path, monkeypatch)


@pytest.mark.parametrize("bn", ["keep", "scale-shift"])
def test_the_least_loss_that_was_found_is_that_of_the_file(
    bn: str, network: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[float] = []

    def noted(self: FakeQuantNetwork) -> float:
        losses.append(mean_loss(self.module, self.batches))
        return losses[-1]

    monkeypatch.setattr(FakeQuantNetwork, "loss", noted)
    small = tersenet.compress(network, "lapq", task=task, bits=2, act_bits=2, evaluations=20, bn=bn)
    assert min(losses) == mean_loss(small.apply_to(copy.deepcopy(network)).eval(), calibration(task, 512))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_half_precision_network_is_searched_as_it_is_stored(
    dtype: torch.dtype, network: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        seen = seen_by(patch, type(network))
        half = copy.deepcopy(network).to(dtype)
        small = tersenet.compress(half, "lapq", task=task, bits=4, act_bits=4, search="l2")
    assert small.tensors["conv2.weight"].dtype == dtype
    assert torch.equal(outputs(small.apply_to(copy.deepcopy(network)), task), outputs(seen[-1], task))


class Twice(nn.Module):
    """A layer that sees positive inputs first and negative ones later."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.last = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.shared(self.shared(self.first(x.flatten(1)).relu())))  # type: ignore[no-any-return]


def test_an_input_that_is_ever_negative_is_signed(task: Task) -> None:
    small = tersenet.compress(Twice(), "lapq", task=task, bits=8, act_bits=8, search="l2", first_last="same")
    assert small.activations["shared"].levels.low < 0
