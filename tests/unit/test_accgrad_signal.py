"""The signal of accumulated gradients, its clusters, and the fixed-point grid of every width."""

import pytest
import torch
from torch import nn

from tersenet.core.grid import FixedPoint
from tersenet.core.task import Task
from tersenet.methods.accgrad.fixed_point import MixedFixedPoint
from tersenet.methods.accgrad.signal import clusters, give, lowest, parts, record
from tersenet.quantizers import attach


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))


def attached(module: nn.Module) -> nn.Module:
    found = {name: MixedFixedPoint(p.detach()) for name, p in module.named_parameters()}
    attach.attach_weights(module, found, {})
    return module


def test_the_signal_is_the_sum_of_absolute_gradients_of_batches_and_never_falls(task: Task) -> None:
    module, loss = attached(net()), nn.functional.cross_entropy
    record(module)
    expected, before = (
        [torch.zeros_like(w) for _, _, w in parts(module)],
        [torch.zeros_like(w) for *_, w in parts(module)],
    )
    for inputs, targets in list(task.split("train"))[:4]:
        gradients = torch.autograd.grad(loss(module(inputs), targets), [w for *_, w in parts(module)])
        expected = [total + gradient.abs() for total, gradient in zip(expected, gradients, strict=True)]
        loss(module(inputs), targets).backward()  # type: ignore[no-untyped-call]
        for (_, quantizer, latent), total, old in zip(parts(module), expected, before, strict=True):
            assert torch.equal(quantizer.signal, total) and (quantizer.signal >= old).all()
            old.copy_(quantizer.signal)
            latent.grad = None


def test_a_weight_whose_input_is_always_0_has_signal_0_and_is_in_the_lowest_cluster(task: Task) -> None:
    module, loss = attached(net()), nn.functional.cross_entropy
    record(module)
    for inputs, targets in task.split("train"):
        masked = inputs.clone()
        masked[..., :2] = 0
        loss(module(masked), targets).backward()  # type: ignore[no-untyped-call]
    signal = {name: q.signal for name, q, _ in parts(module)}["1.weight"].reshape(40, 8, 8)
    assert (signal[..., :2] == 0).all() and (signal[..., 2:] > 0).float().mean() > 0.5
    assert (clusters(signal.reshape(-1), 4, "log-kmeans").reshape(40, 8, 8)[..., :2] == 0).all()


@pytest.mark.parametrize("width", [2, 3, 5, 8, 16])
def test_fixed_point_is_twos_complement_with_halves_away_from_zero(width: int) -> None:
    weight = torch.randn(4000, generator=torch.Generator().manual_seed(0)) * 0.3
    quantizer = MixedFixedPoint(weight)
    quantizer.give(torch.full(weight.shape, width, dtype=torch.int8), weight)
    integer = int(quantizer.integer)
    assert 2.0 ** (integer - 2) < weight.abs().max() <= 2.0 ** (integer - 1)
    step = 2.0 ** (integer - width)
    plain = (weight.sign() * (weight.abs() / step + 0.5).floor()).clamp(
        -(2 ** (width - 1)), 2 ** (width - 1) - 1
    ) * step
    assert torch.equal(quantizer(weight), plain)
    frozen = quantizer.freeze(weight)
    assert isinstance(frozen.grid, FixedPoint) and torch.equal(frozen.dequantize(), plain)


def test_gradients_go_through_unchanged_and_width_0_is_0() -> None:
    weight = torch.randn(50, requires_grad=True)
    quantizer = MixedFixedPoint(weight)
    quantizer.give(torch.tensor([0, 3] * 25, dtype=torch.int8), weight)
    (quantizer(weight) * torch.arange(50.0)).sum().backward()
    assert torch.equal(weight.grad, torch.arange(50.0)) and not quantizer(weight)[::2].any()  # type: ignore[arg-type]


def test_wider_clusters_have_larger_signals_and_kmeans_is_a_fixed_point_of_lloyd() -> None:
    values = torch.rand(3000, generator=torch.Generator().manual_seed(1)) ** 4
    for how in ("kmeans", "log-kmeans", "quantiles"):
        place = clusters(values, 4, how)
        tops = [float(values[place == k].max()) for k in range(4)]
        bottoms = [float(values[place == k].min()) for k in range(4)]
        assert all(top <= bottom for top, bottom in zip(tops, bottoms[1:], strict=False))
    place = clusters(values, 4, "kmeans")
    means = torch.stack([values[place == k].double().mean() for k in range(4)])
    assert torch.equal((values.double().unsqueeze(1) - means).abs().argmin(1), place)
    assert clusters(values, 4, "quantiles").bincount().tolist() == [750] * 4


def test_give_splits_one_vector_over_all_tensors_and_of_equals_the_first_are_lowest() -> None:
    assert lowest(torch.tensor([3.0, 1.0, 1.0, 2.0]), 2).tolist() == [False, True, True, False]
    module = attached(net())
    found = parts(module)
    total = sum(w.numel() for *_, w in found)
    give(found, torch.arange(total) % 5 + 2)
    assert torch.equal(torch.cat([q.widths.reshape(-1) for _, q, _ in found]).long(), torch.arange(total) % 5 + 2)
