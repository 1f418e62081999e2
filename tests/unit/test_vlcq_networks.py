"""VLCQ on networks that are no plain chain of convolution and batch norm: they keep computing what they did."""

import copy

import pytest
import torch
from torch import Tensor, nn

import tersenet


class Mixed(nn.Module):
    """Convolutions with biases, a depthwise one, batch norm with and without parameters, a dict as output."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(32, affine=False)
        self.depthwise = nn.Conv2d(32, 32, 3, groups=32, padding=1)
        self.norm2 = nn.BatchNorm2d(32)
        self.point = nn.Conv2d(32, 48, 1)
        self.norm3 = nn.BatchNorm2d(48)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.norm2(self.depthwise(self.norm1(self.first(x)).relu())).relu()
        return {"logits": self.head(self.norm3(self.point(x)).relu().mean((2, 3)))}


class Twice(nn.Module):
    """A layer that runs twice, defined before the one that runs first."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(16, 16, 3, padding=1)
        self.first = nn.Conv2d(3, 16, 3)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.again(self.again(self.norm(self.first(x)).relu())).mean((2, 3))}


def trained(kind: type[nn.Module]) -> nn.Module:
    """A network whose batch norms and biases are far from their initial values."""
    torch.manual_seed(0)
    net = kind()
    with torch.no_grad():
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.3)
                part.running_var.uniform_(0.3, 2)
                if part.affine:
                    part.weight.uniform_(-1.5, 1.5)
                    part.bias.normal_()
            elif isinstance(part, nn.Conv2d):
                part.bias.normal_()
    return net.eval()


@pytest.mark.parametrize("bn", ["keep", "scale-shift", "fold"])
@pytest.mark.parametrize("kind", [Mixed, Twice])
def test_the_output_hardly_moves_at_eight_bits(kind: type[nn.Module], bn: str) -> None:
    net = trained(kind)
    small = tersenet.compress(net, "vlcq", target_bits=8, bn=bn, images=4, synthesis_steps=2, input_shape="3x16x16")
    x = torch.randn(16, 3, 16, 16)
    with torch.no_grad():
        before, after = net(x)["logits"], small.apply_to(copy.deepcopy(net))(x)["logits"]
    assert float((after - before).square().mean() / before.var()) < 2e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_networks_of_every_precision_are_compressed(dtype: torch.dtype) -> None:
    net = trained(Mixed).to(dtype)
    small = tersenet.compress(net, "vlcq", target_bits=6, images=4, synthesis_steps=2, input_shape="3x16x16")
    assert all(value.dtype == net.state_dict()[name].dtype for name, value in small.state_dict().items())


def test_a_network_of_which_nothing_is_quantised_is_kept_whole() -> None:
    net = trained(Mixed)
    small = tersenet.compress(net, "vlcq", exclude=("*",), kept_dtype="exact")
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in small.state_dict().items())
