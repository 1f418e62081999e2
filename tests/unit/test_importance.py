"""Imprinting: taps, telescoping gains, order; and curvature against closed forms."""

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tersenet.analysis.scores import embedding, fisher, hessian, imprint, loss_increase, rank
from tersenet.core.batch import Batch
from tersenet.core.task import Task
from tersenet.errors import InputError
from tersenet.lab.models import build
from tersenet.network.calibrate import mean_loss
from tersenet.network.features import taps


def test_features_are_after_batch_norm_and_activation_and_before_pooling() -> None:
    found = taps(build("digits").eval(), torch.randn(2, 1, 8, 8))
    assert [tap.path for tap in found] == ["conv1", "conv2", "conv3"]  # the classifier is left out
    assert [tuple(tap.features.shape[2:]) for tap in found] == [(8, 8), (4, 4), (2, 2)]
    assert all(float(tap.features.min()) == 0 for tap in found)


def test_a_residual_block_is_tapped_after_its_addition_and_its_layers_share_the_score() -> None:
    net = build("resnet20").eval()
    x = torch.randn(2, 3, 32, 32)
    found = taps(net, x)
    assert [tap.members for tap in found[:2]] == [["conv1"], ["layer1.0.conv1", "layer1.0.conv2"]]
    assert len(found) == 10 and sum(len(tap.members) for tap in found) == 19
    with torch.no_grad():
        expected = net.layer1[0](torch.relu(net.bn1(net.conv1(x))))  # type: ignore[index,operator]
    assert torch.equal(found[1].features, expected)


class Bottleneck(nn.Module):
    """A block with a projection, then one that adds in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 16, 1)
        self.down, self.c, self.head = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.b(torch.relu(self.a(x))) + self.down(x))
        y = self.c(x)
        y += x
        return self.head(torch.relu(y).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_projection_belongs_to_its_block() -> None:
    found = taps(Bottleneck().eval(), torch.randn(2, 3, 8, 8))
    assert [tap.members for tap in found] == [["stem"], ["a", "b", "down"], ["c"]]


def test_maps_are_pooled_to_about_512_numbers() -> None:
    shapes = {(2, 16, 32, 32): 576, (2, 64, 8, 8): 576, (2, 2048, 4, 4): 2048, (2, 100): 100, (2, 197, 768): 197 * 3}
    for shape, numbers in shapes.items():
        assert embedding(torch.randn(shape)).shape == (2, numbers)


def result(net: nn.Module, task: Task, seed: int = 0) -> Any:
    return imprint(net, task.batches("train"), task.batches("validation"), seed)


def test_gains_telescope_and_a_trained_network_gains_in_every_module(trained: nn.Module, task: Task) -> None:
    found = result(copy.deepcopy(trained), task)
    assert sum(found.gains) == pytest.approx(found.accuracies[-1] - found.accuracies[0], abs=1e-12)
    assert found.accuracies[-1] > 0.95 and set(found.scores()) == {f"conv{i}.weight" for i in (1, 2, 3)}
    assert all(low <= gain <= high for gain, (low, high) in zip(found.gains, found.intervals, strict=True))


def test_no_backward_pass_is_ever_called(trained: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch.autograd, "grad", lambda *given, **more: asked.append("grad"))
    monkeypatch.setattr(torch.Tensor, "backward", lambda *given, **more: asked.append("backward"))
    net = copy.deepcopy(trained)
    found = result(net, task)
    assert found.gains and not asked and all(parameter.grad is None for parameter in net.parameters())


class WithIdentity(nn.Module):
    """Layers with one in the middle that does nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.same, self.b, self.head = (
            nn.Linear(64, 40),
            nn.Linear(40, 40),
            nn.Linear(40, 30),
            nn.Linear(30, 10),
        )
        with torch.no_grad():
            self.same.weight.copy_(torch.eye(40))
            self.same.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x.flatten(1)))
        return self.head(torch.relu(self.b(torch.relu(self.same(x)))))  # type: ignore[no-any-return]


def test_a_layer_that_does_nothing_gains_nothing(task: Task) -> None:
    found = result(WithIdentity().eval(), task)
    assert found.gains[found.paths.index("same")] == 0


def test_an_untrained_network_loses_in_total(task: Task) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 20),
        nn.ReLU(),
        nn.Linear(20, 12),
        nn.ReLU(),
        nn.Linear(12, 8),
        nn.ReLU(),
        nn.Linear(8, 10),
    )
    found = result(net.eval(), task)
    assert sum(found.gains) < -0.1 and min(found.gains) < 0


def test_the_numbers_of_the_classes_do_not_matter(trained: nn.Module, task: Task) -> None:
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    turned = Task(
        train=[(x, order[y]) for x, y in task.split("train")],
        validation=[(x, order[y]) for x, y in task.split("validation")],
    )
    assert result(copy.deepcopy(trained), turned).accuracies == result(copy.deepcopy(trained), task).accuracies


def test_a_class_without_examples_is_an_error(trained: nn.Module, task: Task) -> None:
    few = [Batch(x[y != 3], y[y != 3]) for x, y in task.split("train")]
    with pytest.raises(InputError, match="class 3 has no example"):
        imprint(copy.deepcopy(trained), few, task.batches("validation"))
    with pytest.raises(InputError, match="held-out"):
        imprint(copy.deepcopy(trained), task.batches("train"), [])


def test_halves_of_the_data_agree_on_the_order(task: Task) -> None:
    torch.manual_seed(0)
    widths = [64, 60, 50, 40, 30, 24, 20, 16]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(16, 10)).eval()
    train, held = list(task.batches("train")), list(task.split("validation"))
    x, y = (torch.cat(parts) for parts in zip(*held, *list(task.split("test")), strict=True))
    first = imprint(net, train[:4], [Batch(x[::2], y[::2])]).gains
    second = imprint(net, train[4:], [Batch(x[1::2], y[1::2])]).gains
    ranks = [torch.tensor(part).argsort().argsort().double() for part in (first, second)]
    assert float(torch.corrcoef(torch.stack(ranks))[0, 1]) >= 0.8


def quadratic() -> tuple[nn.Module, list[Batch]]:
    """A linear layer with squared loss: its Hessian is known."""
    torch.manual_seed(0)
    net = nn.Linear(6, 3, bias=False)
    task = Task(loss=lambda outputs, targets: (outputs - targets).square().sum(1).mean())
    return net, [Batch(torch.randn(50, 6), torch.randn(50, 3), task)]


def test_the_hessian_trace_of_a_quadratic_is_exact_on_average() -> None:
    net, batches = quadratic()
    found = hessian(net, ["weight"], batches, probes=3000)["weight"]
    exact = 2 * float(batches[0].inputs.square().mean(0).sum()) * 3 / 18  # trace over 18 weights
    assert found == pytest.approx(exact, rel=0.03)


def test_the_fisher_score_is_the_mean_squared_gradient() -> None:
    net, batches = quadratic()
    batches[0].loss(batches[0].run(net))[0].backward()
    assert fisher(net, ["weight"], batches)["weight"] == pytest.approx(float(net.weight.grad.square().mean()))  # type: ignore[union-attr]


def test_the_loss_increase_is_measured_one_layer_at_a_time(network: nn.Module, task: Task) -> None:
    batches = list(task.batches("calibration"))
    names = ["conv2.weight", "conv3.weight"]
    rounded = {name: torch.zeros_like(network.get_parameter(name)) for name in names}
    before = mean_loss(network, batches)
    found = loss_increase(network, rounded, batches)
    assert all(value > 0.1 for value in found.values()) and mean_loss(network, batches) == before
    assert rank(found) == sorted(names, key=found.__getitem__)
