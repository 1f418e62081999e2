"""Levels and what they can do: the sets of POT and APoT, the nearest level, shifts and adds."""

import itertools

import pytest
import torch

from tersenet.core.activation import Activation
from tersenet.core.levels import Integers, Levels, Points
from tersenet.quantizers.powers import additive_magnitudes, additive_terms, power_magnitudes, with_signs, without_signs
from tersenet.quantizers.weight import least_squares_clip


def normalised(magnitudes: tuple[int, ...]) -> list[float]:
    return [m / magnitudes[-1] for m in magnitudes]


def test_the_additive_levels_are_those_of_the_authors() -> None:
    assert normalised(additive_magnitudes(2)) == [0, 0.25, 0.5, 1]
    assert normalised(additive_magnitudes(3)) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1])
    four = normalised(additive_magnitudes(4))
    assert len(four) == 16 and four[1] == pytest.approx(1 / 48) and four[-1] == 1
    assert additive_terms(5) == [(1, 3, 6), (2, 4, 7), (5,)]


def test_powers_of_two_are_powers_of_two() -> None:
    assert normalised(power_magnitudes(3)) == [0, *(2.0**-i for i in range(6, -1, -1))]


@pytest.mark.parametrize("bits", range(2, 7))
def test_b_bit_weights_have_two_to_the_b_minus_one_values(bits: int) -> None:
    for magnitudes in (power_magnitudes, additive_magnitudes):
        levels = with_signs(magnitudes(bits - 1))
        assert levels.count == 2**bits - 1


def test_two_bit_weights_are_ternary() -> None:
    assert with_signs(additive_magnitudes(1)) == with_signs(power_magnitudes(1)) == Integers(-1, 1)


SETS: list[Levels] = [
    Integers(-8, 7),
    Integers(0, 15),
    with_signs(additive_magnitudes(3)),
    without_signs(power_magnitudes(4)),
    Points((-7, -1, 0, 100, 9000)),
]


@pytest.mark.parametrize("levels", SETS, ids=str)
def test_the_nearest_level_is_the_nearest(levels: Levels) -> None:
    values = range(levels.low, levels.high + 1) if isinstance(levels, Integers) else levels.values
    table = torch.tensor(list(values), dtype=torch.float32)
    x = torch.cat([torch.linspace(levels.low - 3, levels.high + 3, 4001), table, torch.tensor([-1e9, 1e9])])
    best = (x.unsqueeze(1) - table).abs().min(1).values
    found = levels.nearest(x)
    assert torch.isin(found, table).all() and torch.equal((x - found).abs(), best)
    codes = levels.codes(found)
    assert torch.equal(levels.grid(torch.tensor(1.0)).decode(codes), found)


@pytest.mark.parametrize("levels", SETS, ids=str)
def test_nan_stays_nan(levels: Levels) -> None:
    assert levels.nearest(torch.tensor([float("nan"), 0.0])).isnan().tolist() == [True, False]


@pytest.mark.parametrize("levels", SETS, ids=str)
def test_a_cell_holds_what_is_in_it(levels: Levels) -> None:
    x = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * (levels.high - levels.low) + levels.low
    lower, gap = levels.below(x)
    assert (lower <= x).all() and (x <= lower + gap).all()
    assert torch.equal(levels.nearest(lower), lower) and torch.equal(levels.nearest(lower + gap), lower + gap)


def sqnr(levels: Levels, sample: torch.Tensor) -> float:
    """Signal to noise in decibels at the best clip."""
    scale = least_squares_clip(sample.unsqueeze(0), levels) / levels.high
    error = (levels.nearest(sample / scale) * scale - sample).square().mean()
    return float(10 * torch.log10(sample.square().mean() / error))


def test_powers_of_two_saturate_at_4_bits_and_sums_of_them_beat_uniform_only_there() -> None:
    sample = torch.erfinv(torch.linspace(-1, 1, 200_003)[1:-1].double()).float() * 2**0.5
    found = {
        bits: tuple(
            sqnr(levels, sample)
            for levels in (
                Integers(1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1),
                with_signs(power_magnitudes(bits - 1)),
                with_signs(additive_magnitudes(bits - 1)),
            )
        )
        for bits in (3, 4, 5)
    }
    published = {3: (13.24, 13.21, 13.21), 4: (18.84, 14.24, 19.12), 5: (24.24, 14.24, 22.22)}
    for bits, expected in published.items():
        assert found[bits] == pytest.approx(expected, abs=0.12), bits
    assert found[5][1] - found[4][1] < 0.01
    assert [bits for bits, (uniform, _, additive) in found.items() if additive > uniform] == [4]


@pytest.mark.parametrize("kind", ["pot", "apot"])
@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_a_dot_product_in_integer_shifts_and_adds_is_the_float_path_exactly(kind: str, bits: int) -> None:
    terms = [tuple(range(2 ** (bits - 1) - 1))] if kind == "pot" else additive_terms(bits - 1)
    last = max(e for term in terms for e in term)
    magnitudes = (power_magnitudes if kind == "pot" else additive_magnitudes)(bits - 1)
    shifts = {}  # level -> the shifts of its terms
    for chosen in itertools.product(*[(None, *term) for term in terms]):
        used = [last - e for e in chosen if e is not None]
        shifts.setdefault(sum(1 << s for s in used), used)
    assert sorted(shifts) == sorted(magnitudes)
    assert max(map(len, shifts.values())) <= (1 if kind == "pot" else -(-(bits - 1) // 2))
    generator = torch.Generator().manual_seed(bits)
    levels = with_signs(magnitudes)
    weight = levels.nearest(torch.randn(500, generator=generator) * levels.high / 3)
    inputs = torch.randint(0, 16, (500,), generator=generator)
    total = 0
    for w, x in zip(weight.int().tolist(), inputs.tolist(), strict=True):
        product = sum(x << shift for shift in shifts[abs(w)])
        total += product if w > 0 else -product
    assert total == float((weight.double() * inputs).sum())


def test_an_activation_rounds_to_levels_times_scale() -> None:
    given = torch.tensor([-1.0, 0.3, 2.6, 99.0])
    assert Activation(Points((0, 1, 2, 4)), 0.5)(given).tolist() == [0.0, 0.5, 2.0, 2.0]
