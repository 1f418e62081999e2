"""ALQ's parts: sketched bases, both steps against the local model, worth, and pruning to a count."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tersenet.methods.alq.bases import Bases, fitted, nearest, packed, positive, rounded, sketched, summed
from tersenet.methods.alq.optimizer import LossAware, Pruning
from tersenet.methods.alq.pruning import Pool, average, prune
from tersenet.methods.alq.sums import SumOfBases

GROUPED = {"consecutive": ((6, 40), 20, 1), "taps": ((4, 16, 3, 3), 16, 9), "kernels": ((4, 8, 5, 5), 25, 1)}


def weight_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sums(weight: Tensor, size: int, stride: int = 1, most: int = 3, mantissa: int = 5) -> SumOfBases:
    return SumOfBases(weight, size, stride, most, mantissa, pinned=False)


def pool(quantizer: SumOfBases, gradient: float | Tensor = 0.0, curvature: float | Tensor = 1.0) -> Pool:
    filled = [torch.zeros_like(quantizer.coordinates) + each for each in (gradient, curvature)]
    return Pool("w", quantizer.value(), quantizer, *filled)


# The first bases


def test_the_error_of_the_sketch_falls_with_the_number_of_bases() -> None:
    torch.manual_seed(0)
    group = torch.randn(1, 64)
    errors = [(summed(sketched(group, most)) - group).square().sum() / group.square().sum() for most in range(1, 7)]
    assert [round(float(error), 3) for error in errors] == [0.377, 0.130, 0.068, 0.039, 0.025, 0.016]


def test_a_group_stops_at_the_bases_that_it_needs() -> None:
    signs = weight_of(2, 30).sign()
    groups = torch.cat([torch.zeros(1, 30), 0.5 * signs[:1], signs.sum(0, keepdim=True) + signs[:1]])
    found = sketched(groups, 6)
    assert found.alive.sum(1).tolist()[:2] == [0, 1] and int(found.alive[2].sum()) <= 3
    assert torch.allclose(summed(found), groups, atol=1e-4)
    assert bool((found.coordinates[found.alive] > 0).all()) and not found.coordinates[~found.alive].any()


def test_a_group_of_one_weight_is_one_basis() -> None:
    found = sketched(torch.tensor([[-0.25], [3.0]]), 4)
    assert found.alive.sum(1).tolist() == [1, 1]
    assert torch.allclose(summed(found), torch.tensor([[-0.25], [3.0]]), rtol=1e-5)


def test_coordinates_solve_the_weighted_least_squares_problem() -> None:
    groups, curvature = weight_of(3, 50), weight_of(3, 50, seed=1).square() + 0.1
    bases = sketched(groups, 3)
    for row, own in enumerate(fitted(bases, groups, curvature)):
        signs = torch.stack([torch.where(bases.codes[row] >> i & 1 > 0, 1.0, -1.0) for i in range(3)], 1)
        root = curvature[row].sqrt().unsqueeze(1)
        expected = torch.linalg.lstsq(root * signs, root * groups[row].unsqueeze(1)).solution.squeeze(1)
        assert torch.allclose(own, expected, atol=1e-4)


def test_the_basis_step_finds_the_nearest_of_all_sums() -> None:
    coordinates, target = weight_of(5, 4).abs(), weight_of(5, 40, seed=1) * 2
    patterns = torch.arange(16, dtype=torch.int16).expand(5, -1)
    every = summed(Bases(patterns, coordinates, coordinates > 0))
    best = (every.unsqueeze(1) - target.unsqueeze(2)).abs().amin(2)
    found = summed(Bases(nearest(coordinates, target), coordinates, coordinates > 0))
    assert torch.allclose((found - target).abs(), best)


def test_turning_negative_coordinates_turns_their_bases_with_them() -> None:
    bases = sketched(weight_of(8, 30), 3)
    mixed = bases._replace(coordinates=bases.coordinates * weight_of(8, 3, seed=1).sign())
    turned = positive(mixed)
    assert bool((turned.coordinates >= 0).all()) and torch.equal(summed(turned), summed(mixed))


def test_packing_keeps_every_bit_of_the_sums() -> None:
    bases = sketched(weight_of(40, 30), 5)
    alive = bases.alive & (weight_of(40, 5, seed=2) > 0)
    holes = Bases(bases.codes, bases.coordinates * alive, alive)
    found = packed(holes)
    assert torch.equal(summed(found), summed(holes)) and not bool((found.alive[:, 1:] & ~found.alive[:, :-1]).any())
    assert bool((found.codes >> found.alive.sum(1, keepdim=True).to(torch.int16) == 0).all())


@pytest.mark.parametrize("mantissa", [0, 3, 10])
def test_coordinates_are_rounded_to_their_bits_and_stay_positive(mantissa: int) -> None:
    given = torch.tensor([[1e-40, 0.0, 1e-3, 0.3, 1.99, 1e35]])
    found = rounded(given, torch.ones_like(given, dtype=torch.bool), mantissa)
    assert bool((found > 0).all()) and not bool((found.view(torch.int32) & ((1 << 23 - mantissa) - 1)).any())
    assert bool(((found / given - 1).abs()[0, 2:5] <= 2.0 ** -(mantissa + 1)).all())


# The steps


def model(quantizer: SumOfBases, begin: Tensor, gradient: Tensor, curvature: Tensor) -> float:
    """What the local model around `begin` says of the value."""
    change = (quantizer.value() - begin).double()
    return float((gradient * change + curvature * change.square() / 2).sum())


@pytest.mark.parametrize("mantissa", [1, 3, 10])
@pytest.mark.parametrize("case", GROUPED)
def test_neither_the_basis_step_nor_the_speed_up_lets_the_model_rise(
    case: str, mantissa: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, size, stride = GROUPED[case]
    quantizer = sums(weight_of(*shape), size, stride, mantissa=mantissa)
    for step in range(6):
        begin = quantizer.value()
        given = begin, weight_of(*shape, seed=step) * 0.3, weight_of(*shape, seed=99 - step).square() + 1e-3
        target, curvature = quantizer.grouped(begin - given[1] / given[2]), quantizer.grouped(given[2])
        first = copy.deepcopy(quantizer)
        with monkeypatch.context() as patch:  # the basis step alone
            patch.setattr("tersenet.methods.alq.sums.fitted", lambda bases, *rest: bases.coordinates)
            first.move(target, curvature)
        quantizer.move(target, curvature)
        assert model(quantizer, *given) <= model(first, *given) + 1e-5 and model(first, *given) < 0
        assert bool((quantizer.coordinates >= 0).all())
    assert model(quantizer, *given) < -0.1


def test_a_gradient_of_zero_changes_nothing() -> None:
    quantizer = sums(weight_of(4, 32), 16)
    latent = nn.Parameter(quantizer.value())
    before = latent.detach().clone()
    optimizer = LossAware([{"params": [latent]}], 0.1, {latent: ("w", quantizer)})
    for kind in ("basis", "coordinate", "latent"):
        optimizer.begin(kind)  # type: ignore[arg-type]
        latent.grad = torch.zeros_like(latent)
        optimizer.step()
        assert torch.equal(latent, before) and torch.equal(quantizer.value(), before)


def test_a_coordinate_step_moves_sums_along_their_bases_and_coordinates_stay_positive() -> None:
    quantizer = sums(weight_of(4, 32), 16, mantissa=10)
    by = weight_of(8, 3, seed=1)
    held = Bases(quantizer.codes.clone(), quantizer.coordinates + by, quantizer.alive)
    turned = quantizer.shift(by)
    assert bool(turned.any()) and bool((quantizer.coordinates >= 0).all())
    assert torch.allclose(quantizer.value().reshape(8, 16), summed(held), rtol=1e-2, atol=1e-3)


def test_the_gradient_of_coordinates_is_the_sum_over_their_signs() -> None:
    quantizer, gradient = sums(weight_of(4, 16, 3, 3), 16, 9), weight_of(4, 16, 3, 3, seed=1)
    coordinates = quantizer.coordinates.clone().requires_grad_()
    values = summed(Bases(quantizer.codes, coordinates, quantizer.alive))
    (values * quantizer.grouped(gradient)).sum().backward()
    assert coordinates.grad is not None
    assert torch.allclose(quantizer.across(quantizer.grouped(gradient)), coordinates.grad, atol=1e-5)


def test_moments_of_coordinates_start_from_those_of_weights() -> None:
    quantizer = sums(weight_of(4, 32), 16)
    latent = nn.Parameter(quantizer.value())
    optimizer = LossAware([{"params": [latent]}], 1e-3, {latent: ("w", quantizer)})
    latent.grad = weight_of(4, 32, seed=1)
    optimizer.step()
    state, codes = optimizer.state[latent], quantizer.codes.clone()
    mean, square = quantizer.across(quantizer.grouped(state["mean"])), quantizer.grouped(state["square"]).sum(1)
    optimizer.begin("coordinate")
    latent.grad = torch.zeros_like(latent)
    optimizer.step()
    assert torch.equal(codes, quantizer.codes)
    assert torch.allclose(state["by basis"]["mean"], 0.9 * mean)
    assert torch.allclose(state["by basis"]["square"][:, 0], 0.999 * square)


def test_what_has_no_bases_learns_as_by_amsgrad() -> None:
    ours, theirs = nn.Parameter(weight_of(30)), nn.Parameter(weight_of(30))
    first = LossAware([{"params": [ours], "weight_decay": 0.1}], 0.01, {})
    second = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1, amsgrad=True)
    for step in range(20):
        for parameter, optimizer in ((ours, first), (theirs, second)):
            parameter.grad = weight_of(30, seed=step)
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


# Pruning


def test_the_global_prune_hits_the_count_exactly_again_and_again() -> None:
    layers = [sums(weight_of(8, 64, seed=seed), 16) for seed in range(3)]
    total = sum(int(layer.alive.sum()) for layer in layers)
    size, count = 16, sum(layer.shape.numel() for layer in layers)
    left = total
    for goes in (1, 17, 40):
        left -= goes
        found = prune([pool(layer) for layer in layers], size * left / count, "coordinate")
        assert found == goes and sum(int(layer.alive.sum()) for layer in layers) == left
        assert average(layers) == pytest.approx(size * left / count)


@pytest.mark.parametrize("criterion", ["loss", "coordinate"])
def test_the_least_of_those_that_are_left_goes_first(criterion: Any) -> None:
    layers = [sums(weight_of(8, 64, seed=seed), 16) for seed in range(2)]
    gone: list[float] = []
    for _ in range(12):
        pools = [pool(layer, weight_of(32, 3, seed=5) * 0.1, weight_of(32, 3, seed=6).square()) for layer in layers]
        worth = torch.cat([each.worth(criterion).reshape(-1) for each in pools])
        before = torch.cat([layer.alive.reshape(-1) for layer in layers])
        assert prune(pools, average(layers) - 1e-6, criterion) == 1
        after = torch.cat([layer.alive.reshape(-1) for layer in layers])
        (index,) = (before & ~after).nonzero().reshape(-1).tolist()
        assert worth[index] == worth.min() and bool(before[index])
        gone.append(float(worth[index]))
    assert gone == sorted(gone)


def test_worth_is_the_rise_of_the_model_without_the_basis_for_each_of_its_bits() -> None:
    quantizer = sums(weight_of(2, 16), 16, most=2, mantissa=10)
    slope, bend = weight_of(2, 2, seed=1), weight_of(2, 2, seed=2).square()
    worth = pool(quantizer, slope, bend).worth("loss")
    a = quantizer.coordinates
    expected = (-slope * a + bend * a * a / 2) / 16
    assert torch.allclose(worth[worth.isfinite()], expected[worth.isfinite()]) and int(worth.isinf().sum()) == 1


def test_pruning_goes_by_equal_factors_and_ends_at_its_goal() -> None:
    plan = Pruning(2.0, 0.5, 4)
    assert [round(plan.at(step), 3) for step in range(5)] == [2.0, 1.414, 1.0, 0.707, 0.5]
