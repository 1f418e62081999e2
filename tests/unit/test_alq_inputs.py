"""Inputs as sums of binary bases: levels, gradients, what a file holds of them, and what is refused."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tersenet
from tersenet.core.task import Task
from tersenet.errors import UsageError
from tersenet.methods.alq import Alq
from tersenet.methods.alq.inputs import UNITS, SummedInput, sketched, sums


def settled(values: Tensor, bases: int) -> SummedInput:
    quantizer = SummedInput(bases)
    quantizer(values)
    quantizer.settle()
    return quantizer


def test_more_bases_come_nearer_and_one_sided_inputs_are_met_by_the_centre() -> None:
    torch.manual_seed(0)
    for values in (torch.randn(64, 50), torch.randn(64, 50).relu(), torch.rand(64, 50) + 3):
        errors = [
            float((settled(values, i).freeze()(values) - values).square().mean() / values.var()) for i in (1, 2, 3, 4)
        ]
        assert errors == sorted(errors, reverse=True)
        assert errors[0] < 0.45 and errors[3] < 0.02


def test_coordinates_come_largest_first_and_one_base_is_the_mean_magnitude() -> None:
    values = torch.tensor([-3.0, -1.0, 1.0, 3.0]).double()
    assert torch.allclose(sketched(values, 1), torch.tensor([0.0, 2.0]).double(), atol=1e-5)
    assert torch.allclose(sketched(values, 2), torch.tensor([0.0, 2.0, 1.0]).double(), atol=1e-5)


def test_where_coordinates_at_least_halve_the_nearest_sum_is_the_sign_of_the_residual() -> None:
    values = torch.randn(4, 500, generator=torch.Generator().manual_seed(1))
    quantizer = settled(values, 3)
    coordinates = torch.tensor([0.0625, 0.5, 0.25, 0.125])
    quantizer.coordinates.data.copy_(coordinates)
    scaled = coordinates * UNITS * quantizer.unit
    residual = values - scaled[0]
    for each in scaled[1:]:
        residual = residual - torch.where(residual >= 0, each, -each)
    assert torch.allclose(quantizer(values), values - residual, atol=1e-5)


def test_gradients_of_coordinates_are_those_of_the_sum() -> None:
    values = torch.randn(8, 100, generator=torch.Generator().manual_seed(2))
    quantizer, weight = settled(values, 3), torch.randn(8, 100, generator=torch.Generator().manual_seed(3))
    given = values.clone().requires_grad_()
    (quantizer(given) * weight).sum().backward()
    found, signs = sums(quantizer.coordinates.detach())
    which = (values.unsqueeze(-1) / quantizer.unit - found).abs().argmin(-1)
    expected = (weight.unsqueeze(-1) * signs[which]).sum((0, 1)) * quantizer.unit * UNITS * quantizer.factor
    assert torch.allclose(quantizer.coordinates.grad, expected, rtol=1e-4)
    inside = (values / quantizer.unit >= found[0]) & (values / quantizer.unit <= found[-1])
    assert torch.equal(given.grad, weight * inside)


@pytest.mark.parametrize("bases", [1, 2, 4])
def test_frozen_rounding_is_that_of_training(bases: int) -> None:
    values = torch.randn(16, 100, generator=torch.Generator().manual_seed(4)) * 1e-3
    quantizer = settled(values, bases)
    assert torch.equal(quantizer.freeze()(values), quantizer(values))
    assert len(quantizer(values).unique()) == 2**bases


def test_constant_inputs_are_kept() -> None:
    for constant in (0.0, 2.5, -1e-12):
        values = torch.full((4, 10), constant)
        assert torch.allclose(settled(values, 2)(values), values, atol=max(1e-3 * abs(constant), 1e-2))


def test_a_trained_network_reloads_with_its_sums(network: nn.Module, task: Task, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"bases": 2, "rounds": 1, "epochs": 1, "coordinate_epochs": 0, "refine": 1}
    small = tersenet.compress(copy.deepcopy(network), "alq", task=task, act_bits=2, act_grid="bases", **fields)
    tersenet.save(small, tmp_path / "x.terse")
    again = tersenet.load(tmp_path / "x.terse")
    assert small.activations and all(each.levels.count == 4 for each in small.activations.values())
    images = next(iter(task.split("test")))[0]
    outputs = [each.apply_to(copy.deepcopy(network)).eval()(images) for each in (small, again)]
    assert torch.equal(*outputs)


def test_bits_that_a_kind_of_input_levels_does_not_have_are_refused() -> None:
    with pytest.raises(UsageError, match=r"act_bits=1: inputs on uniform levels have 2 to 8"):
        Alq(act_bits=1)
    with pytest.raises(UsageError, match=r"act_bits=5: inputs on bases levels have 1 to 4"):
        Alq(act_bits=5, act_grid="bases")
    assert not Alq(act_grid="bases").rounds_inputs
