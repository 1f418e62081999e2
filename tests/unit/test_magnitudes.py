"""Weights of any magnitude: the scale of all, tiny ones beside others, and those that arithmetic cannot hold."""

import pytest
import torch
from torch import Tensor, nn

import tersenet
from tersenet.errors import WeightError

pytestmark = pytest.mark.filterwarnings("ignore:.* has no batch-norm statistics")


@pytest.mark.parametrize("scale", [1e-25, 1e-6, 1e6, 1e20])
def test_the_scale_of_all_weights_does_not_matter(scale: float) -> None:
    torch.manual_seed(0)
    weight = torch.randn(32, 64) * scale
    for method in ("rtn", "vlcq"):
        back = tersenet.compress(_module(weight), method).state_dict()["weight"]
        assert (back.double() - weight).norm() < 0.2 * weight.double().norm(), method


def test_a_tiny_tensor_beside_a_normal_one_keeps_its_bits() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(_module(torch.randn(32, 64)), _module(torch.randn(32, 64) * 1e-14))
    for name, weight in tersenet.compress(net, "vlcq").state_dict().items():
        original = net.state_dict()[name].double()
        assert (weight.double() - original).norm() <= 0.2 * original.norm(), name


@pytest.mark.parametrize("value", [3e38, float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["rtn", "vlcq"])
def test_weights_beyond_arithmetic_are_refused_by_name(value: float, method: str) -> None:
    weight = torch.randn(32, 64)
    weight[3, 4] = value
    with pytest.raises(WeightError, match=r"tensor weight has .* at \[3, 4\]"):
        tersenet.compress(_module(weight), method)


def test_half_precision_weights_at_its_end_stay_finite() -> None:
    weight = torch.full((32, 64), 65504.0).half()
    back = tersenet.compress(_module(weight), "rtn").state_dict()["weight"]
    assert back.dtype == torch.float16 and torch.isfinite(back).all()


def _module(weight: Tensor) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight)
    return layer
