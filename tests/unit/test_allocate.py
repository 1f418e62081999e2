"""Bits for layers under a budget."""

import itertools
import random

import pytest

from tersenet.analysis.allocate import average, ladder, optimum
from tersenet.errors import BudgetError

SIZES = {"first": 100, "a": 1000, "b": 3000, "c": 500, "last": 50}
ORDER = ["b", "c", "a"]
PINNED = {"first": 8, "last": 8}


def of(budget: float) -> dict[str, int]:
    return ladder(ORDER, (8, 4, 2), lambda bits: average(SIZES, bits), budget, PINNED)


def test_the_least_important_layer_is_lowered_first_and_only_as_far_as_needed() -> None:
    assert of(8.0) == {"b": 8, "c": 8, "a": 8, "first": 8, "last": 8}
    assert of(6.0) == {"b": 4, "c": 8, "a": 8, "first": 8, "last": 8}
    assert of(4.5) == {"b": 4, "c": 4, "a": 4, "first": 8, "last": 8}  # then the second sweep begins
    assert of(3.5) == {"b": 2, "c": 4, "a": 4, "first": 8, "last": 8}


@pytest.mark.parametrize("budget", [7.9, 5.0, 4.0, 3.0, 2.5])
def test_the_ladder_meets_its_budget_and_one_step_less_would_not(budget: float) -> None:
    bits = of(budget)
    assert average(SIZES, bits) <= budget and all(bits[name] == 8 for name in PINNED)
    lowered = [name for name in ORDER if bits[name] < 8]
    last = max(lowered, key=lambda name: (-bits[name], ORDER.index(name)))
    back = {**bits, last: {4: 8, 2: 4}[bits[last]]}
    assert average(SIZES, back) > budget


def test_a_budget_below_the_lowest_rung_is_an_error_that_says_how_near() -> None:
    with pytest.raises(BudgetError, match="all layers at 2 bits") as error:
        of(2.0)
    assert error.value.nearest == pytest.approx(average(SIZES, {"first": 8, "last": 8, "a": 2, "b": 2, "c": 2}))
    with pytest.raises(BudgetError, match="the narrowest"):
        optimum({"a": {2: 1.0}}, {"a": 5}, 1.0)


@pytest.mark.parametrize("seed", range(10))
def test_the_optimum_is_that_of_all_assignments(seed: int) -> None:
    rng = random.Random(seed)
    names = "abcdef"
    sizes = {name: rng.randint(10, 500) for name in names}
    losses = {name: {bits: rng.random() * 4.0**-bits for bits in (2, 3, 4, 8)} for name in names}
    budget = rng.uniform(2.5, 6.0)
    found = optimum(losses, sizes, budget)
    assert average(sizes, found) <= budget + 1e-9

    def total(bits: dict[str, int]) -> float:
        return sum(losses[name][width] for name, width in bits.items())

    every = (dict(zip(names, widths, strict=True)) for widths in itertools.product((2, 3, 4, 8), repeat=6))
    allowed = [bits for bits in every if average(sizes, bits) <= budget * (1 - len(names) / 4096)]
    assert total(found) <= min(map(total, allowed)) + 1e-15


def test_an_optimum_that_just_fits_is_found() -> None:
    sizes = {f"layer{i}": 1000 + 7 * i for i in range(40)}
    assert set(optimum({name: {4: 1.0} for name in sizes}, sizes, 4.0).values()) == {4}
    assert set(optimum({name: {2: 2.0, 4: 1.0} for name in sizes}, sizes, 4.0).values()) == {4}
