"""Folding batch norm and equalising channels: the network computes the same, its weights are easier to round."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tersenet
from tersenet.core.task import Task
from tersenet.errors import UsageError
from tersenet.lab.models import build
from tersenet.network.fold import equalise, fold


def settled(net: nn.Module, shape: tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    """A network whose batch norms have random statistics and scales, and inputs for it."""
    torch.manual_seed(0)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.2, 3), nn.init.normal_(part.bias)
            nn.init.normal_(part.running_mean), nn.init.uniform_(part.running_var, 0.1, 4)  # type: ignore[arg-type]
    return net.eval(), torch.randn(4, *shape)


def mobile() -> nn.Module:
    """A depthwise block with ReLU, a pooling, and a flattened map."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 16, 10),
    )  # fmt: skip


NETWORKS = {"mobile": (mobile, (3, 8, 8), 4, 3), "resnet20": (lambda: build("resnet20"), (3, 32, 32), 19, 9)}


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_and_equalising_leave_the_output_unchanged_to_1e_5(name: str) -> None:
    make, shape, norms, links = NETWORKS[name]
    net, inputs = settled(make(), shape)
    with torch.no_grad():
        expected, rewritten = net(inputs), copy.deepcopy(net)
        folded = fold(rewritten, inputs)
        assert len(folded) == sum(isinstance(part, nn.BatchNorm2d) for part in net.modules()) and len(folded) <= norms
        assert torch.allclose(rewritten(inputs), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
        assert equalise(rewritten, inputs) == links
        assert torch.allclose(rewritten(inputs), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert all((part.weight == 1).all() for part in rewritten.modules() if isinstance(part, nn.BatchNorm2d))


def test_equalised_channels_have_the_same_range_on_both_sides() -> None:
    net, inputs = settled(mobile(), (3, 8, 8))
    fold(net, inputs), equalise(net, inputs)
    first, depthwise, last = (net.get_submodule(path).weight for path in ("0", "3", "6"))
    assert isinstance(first, Tensor) and isinstance(depthwise, Tensor) and isinstance(last, Tensor)
    ranges = [part.flatten(1).abs().amax(1) for part in (first, depthwise, last.transpose(0, 1))]
    assert torch.allclose(ranges[0], ranges[1], rtol=0.02) and torch.allclose(ranges[1], ranges[2], rtol=0.02)


def test_layers_with_something_else_between_them_are_left_alone() -> None:
    torch.manual_seed(0)
    for between in (nn.Tanh(), nn.GELU(), nn.Softmax(1), nn.ReLU6(), nn.Hardtanh(-3, 3)):
        net = nn.Sequential(nn.Linear(20, 30), between, nn.Linear(30, 5))
        assert equalise(net, torch.randn(4, 20)) == 0
    assert equalise(nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5)), torch.randn(4, 20)) == 1


@pytest.mark.parametrize("method", ["rtn", "lapq"])
def test_a_folded_file_with_one_scale_per_tensor_is_better_after_equalising(
    method: str, network: nn.Module, task: Task
) -> None:
    with torch.no_grad():  # rows of very different sizes, which batch norm hides
        network.conv2.weight.mul_(scale := torch.logspace(-1, 2, 64).view(-1, 1, 1, 1))  # type: ignore[operator,union-attr]
        network.bn2.running_mean.mul_(scale.view(-1)), network.bn2.running_var.mul_(scale.view(-1).square())  # type: ignore[union-attr,operator]
    inputs = next(iter(task.split("validation")))[0]
    fields = {"granularity": "tensor"} if method == "rtn" else {"search": "l2"}
    with torch.no_grad():
        expected = network(inputs)
        errors = []
        for more in ({"bn": "keep"}, {"bn": "fold"}, {"bn": "fold", "equalise": True}):
            small = tersenet.compress(network, method, task=task, bits=4, **fields, **more)
            errors.append(float((small.apply_to(copy.deepcopy(network))(inputs) - expected).square().mean()))
    assert errors[0] > 2 * errors[1] and errors[0] > 2 * errors[2]


def test_rewriting_needs_the_code_and_something_to_rewrite(network: nn.Module, checkpoint: str) -> None:
    with pytest.raises(UsageError, match="need the network's code"):
        tersenet.compress(checkpoint, "rtn", bn="fold")
    plain = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 20))
    with pytest.raises(UsageError, match="no batch norm that a layer feeds"):
        tersenet.compress(plain, "rtn", bn="fold")
    with pytest.raises(UsageError, match="no two layers follow"):
        tersenet.compress(plain, "rtn", equalise=True)
    with pytest.raises(UsageError, match="needs batch norm folded"):
        tersenet.compress(network, "rtn", bn="scale-shift", equalise=True)


class Net(nn.Module):
    """Two convolutions and batch norms; `way` says how they are wired."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.bn1, self.bn2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        for norm in (self.bn1, self.bn2):
            norm.weight.data.uniform_(-2, 2)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.1, 3)
        if way == "tied weight":
            self.conv2.weight = self.conv1.weight
        if way == "tied norms":
            self.bn2.weight, self.bn2.bias = self.bn1.weight, self.bn1.bias
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        if self.way == "skip before the norm":
            return y + self.conv2(F.relu(self.bn1(y)))
        if self.way == "in place":
            y += x
        if self.way == "relu in place":
            y = F.relu_(y)
        if self.way == "functional":
            return self.bn2(self.conv2(F.relu(self.bn1(y)))) + F.conv2d(x, self.conv1.weight, padding=1)
        return self.bn2(self.conv2(F.relu(self.bn1(y))))


WAYS = ["plain", "skip before the norm", "in place", "relu in place", "functional", "tied weight", "tied norms"]


@pytest.mark.parametrize("bn", ["scale-shift", "fold"])
@pytest.mark.parametrize("way", WAYS)
def test_a_batch_norm_is_merged_only_where_it_alone_sees_its_layer(way: str, bn: str) -> None:
    net, x = Net(way), torch.randn(4, 8, 12, 12)
    fields: dict[str, Any] = {"target_bits": 8, "images": 8, "synthesis_steps": 3, "input_shape": "8x12x12"}
    try:
        small = tersenet.compress(net, "vlcq", bn=bn, **fields)
    except UsageError:
        assert way == "tied norms"
        return
    expected = net(x)
    assert (small.apply_to(Net(way))(x) - expected).norm() < 0.02 * expected.norm()
