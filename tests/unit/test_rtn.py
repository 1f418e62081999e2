"""Round to nearest puts every weight on the nearest level, for every granularity, width and axis."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import tersenet
from tersenet.core.grid import Uniform
from tersenet.core.model import CompressedModel, QTensor
from tersenet.errors import UsageError, WeightError
from tersenet.files.terse import load, save
from tersenet.methods.rtn import Rtn
from tersenet.verifier import read

sys.path[:0] = [str(Path(__file__).parents[1])]


def weights(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.randn(12, 40, 3, 3, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.02).to(dtype)


def spread_scale(q: QTensor) -> torch.Tensor:
    """The step of the grid at every weight."""
    return q.grid.decode(torch.ones_like(q.codes)) - q.grid.decode(torch.zeros_like(q.codes))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("affine", [False, True], ids=["symmetric", "affine"])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_no_weight_is_further_than_half_a_step_from_its_level(
    granularity: str, bits: int, affine: bool, axis: int
) -> None:
    if bits == 1 and not affine:
        pytest.skip("symmetric 1 bit does not reach the extremes: see the test of +-s")
    w = weights()
    q = Rtn(bits=bits, granularity=granularity, affine=affine, group_size=50).quantize("w", w, axis)
    assert len(torch.unique(q.codes)) <= 2**bits
    # fp16 scales move the last level by up to 2^(bits - 1) * 2^-11 of a step
    assert ((q.dequantize() - w).abs() <= spread_scale(q) * (0.5 + 2.0 ** (bits - 12) + 1e-3)).all()


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_symmetric_one_bit_is_the_sign_times_the_mean_magnitude(granularity: str) -> None:
    w = weights()
    q = Rtn(bits=1, granularity=granularity, group_size=60).quantize("w", w)
    values = q.dequantize()
    assert torch.equal(values >= 0, w >= 0)
    units = {"tensor": (1, -1), "channel": (12, -1), "group": (72, 60)}[granularity]
    mean = w.abs().reshape(units).mean(1, keepdim=True)
    assert torch.allclose(values.abs().reshape(units), mean.expand(-1, values.numel() // units[0]), rtol=1e-3)


def test_a_finer_unit_never_has_a_larger_error() -> None:
    w = weights()
    errors = [
        float((Rtn(bits=3, granularity=g, group_size=36).quantize("w", w).dequantize() - w).square().sum())
        for g in ("tensor", "channel", "group")
    ]
    assert errors[0] > errors[1] > errors[2]


def test_an_all_zero_channel_stays_zero_and_a_constant_tensor_keeps_its_value() -> None:
    w = weights()
    w[3] = 0
    assert torch.equal(Rtn(bits=4).quantize("w", w).dequantize()[3], w[3])
    constant = torch.full((8, 64), 0.25)
    assert torch.allclose(Rtn(bits=2).quantize("c", constant).dequantize(), constant)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_the_original_dtype_comes_back(dtype: torch.dtype) -> None:
    w = weights(dtype)
    q = Rtn(bits=8).quantize("w", w)
    assert q.dequantize().dtype == dtype
    assert torch.equal(q.codes, Rtn(bits=8).quantize("w", w.float()).codes)


def test_quantizing_does_not_change_the_input() -> None:
    w = weights()
    before = w.clone()
    Rtn(bits=4, granularity="group").quantize("w", w)
    assert torch.equal(w, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(value: float) -> None:
    w = weights()
    w[7, 5, 1, 2] = value
    with pytest.raises(WeightError, match=r"layer\.weight has (nan|inf) at \[7, 5, 1, 2\].*exclude="):
        Rtn().quantize("layer.weight", w)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(st.integers(1, 40), min_size=2, max_size=4).filter(lambda shape: math.prod(shape) <= 60_000),
    bits=st.integers(1, 8),
    group=st.sampled_from([16, 32, 50, 128, 1000]),
    shift=st.sampled_from([0.0, 0.1, -3.0]),
)
def test_affine_groups_take_no_more_than_packed_codes_and_two_halves_a_group(
    shape: list[int], bits: int, group: int, shift: float, tmp_path: Path
) -> None:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(1)) + shift
    entry = Rtn(bits=bits, granularity="group", affine=True, group_size=group).quantize("w", w)
    assert isinstance(entry.grid, Uniform) and entry.grid.zero_point is not None
    size = save(CompressedModel({"w": entry}), tmp_path / "x.terse", overwrite=True)
    assert size <= math.ceil(bits * w.numel() / 8) + 4 * entry.grid.scale.numel() + 600
    back = load(tmp_path / "x.terse").tensors["w"].dequantize()
    assert torch.equal(back, entry.dequantize()) and np.array_equal(read(tmp_path / "x.terse")["w"], back)


def test_only_the_zero_points_of_groups_are_narrow() -> None:
    kinds = {g: Rtn(granularity=g, affine=True).quantize("w", weights()).grid for g in ("tensor", "channel", "group")}
    assert [grid.zero_point.dtype for grid in kinds.values()] == [torch.int32, torch.int32, torch.int8]  # type: ignore[union-attr]


def test_bits_outside_1_to_8_are_refused() -> None:
    with pytest.raises(UsageError, match="bits=9: expected an integer, 1 to 8"):
        Rtn(bits=9)


def test_huge_groups_take_no_memory(tmp_path: Path) -> None:
    small = tersenet.compress(nn.Linear(64, 64), "rtn", granularity="group", group_size=1 << 31)
    tersenet.save(small, tmp_path / "x.terse")
    assert tersenet.load(tmp_path / "x.terse").state_dict()["weight"].shape == (64, 64)
