"""A training loop of one's own, with the quantizers of a method."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tersenet
from tersenet.core.task import Task
from tersenet.errors import UsageError
from tersenet.training.loop import MOMENTUM
from tersenet.training.randomness import seed_all, seeded

FIELDS = {"bits": 3, "act_bits": 4, "estimator": "qea-project", "granularity": "channel"}


def test_a_loop_of_ones_own_trains_what_compress_trains(network: nn.Module, task: Task) -> None:
    batches, lr, epochs = list(task.split("train"))[:6], 0.02, 2
    few = Task(train=batches, validation=task.validation)
    expected = tersenet.compress(copy.deepcopy(network), "apot", task=few, epochs=epochs, lr=lr, **FIELDS)
    with seeded(0):
        net = tersenet.attach(network, "apot", [x for x, _ in batches], epochs=epochs, lr=lr, **FIELDS)
    optimizer = torch.optim.SGD(tersenet.param_groups(net, 1.0), lr=1.0, momentum=MOMENTUM)
    factors = [group["lr"] for group in optimizer.param_groups]
    step, total = 0, epochs * len(batches)
    net.train()
    for epoch in range(epochs):
        seed_all(epoch)
        for inputs, targets in batches:
            rate = lr * (1 + math.cos(math.pi * step / total)) / 2
            for group, factor in zip(optimizer.param_groups, factors, strict=True):
                group["lr"] = rate * factor
            tersenet.anneal(net, step / total, rate / (1 - MOMENTUM))
            (F.cross_entropy(net(inputs), targets) + tersenet.penalty(net)).backward()
            optimizer.step()
            optimizer.zero_grad()
            tersenet.after_step(net)
            step += 1
    tersenet.anneal(net, 1.0)
    with seeded(0):
        small = tersenet.freeze(net, [x for x, _ in batches])
    assert set(factors) == {1.0, 0.5, 2.5} and small.activations == expected.activations
    for name, entry in expected.tensors.items():
        assert torch.equal(small.tensors[name].dequantize(), entry.dequantize()), name


def test_the_penalty_does_not_forget_how_far_the_training_is(network: nn.Module, task: Task) -> None:
    inputs = next(iter(task.split("train")))[0]
    net = tersenet.attach(network, "lsq", [inputs], bits=3, oscillation="dampen").train()
    tersenet.anneal(net, 0.5)
    half = tersenet.penalty(net).detach()
    assert half > 0 and torch.equal(tersenet.penalty(net).detach(), half)


def test_detaching_gives_the_network_back(network: nn.Module, task: Task) -> None:
    inputs = next(iter(task.split("train")))[0]
    before = {name: value.clone() for name, value in network.named_parameters()}
    net = tersenet.attach(network, "lsq", [inputs], bits=3, act_bits=4)
    with pytest.raises(UsageError, match="attached to this module already"):
        tersenet.attach(net, "lsq", [inputs])
    assert tersenet.detach(net) is net and all(
        torch.equal(value, before[name]) for name, value in net.named_parameters()
    )
    with pytest.raises(UsageError, match="nothing is attached"):
        tersenet.freeze(net)
    tersenet.attach(net, "lsq", [inputs])


def test_detaching_a_copy_leaves_the_original_attached(network: nn.Module, task: Task) -> None:
    inputs = next(iter(task.split("train")))[0]
    net = tersenet.attach(network, "lsq", [inputs], bits=3, act_bits=4).eval()
    before = net(inputs)
    tersenet.detach(copy.deepcopy(net))
    assert torch.equal(net(inputs), before)


def test_the_public_names_are_shown_and_are_there() -> None:
    assert {"attach", "param_groups", "TrainedMethod"} <= set(dir(tersenet)) == set(tersenet.__all__)
    assert all(getattr(tersenet, name) is not None for name in dir(tersenet))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_attaching_to_other_precisions_or_twice_is_refused(dtype: torch.dtype) -> None:
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    with pytest.raises(UsageError, match="fp32"):
        tersenet.attach(copy.deepcopy(net).to(dtype), "lsq", [torch.randn(4, 64)])
    tersenet.attach(net, "lsq", [torch.randn(4, 64)])
    with pytest.raises(UsageError, match="already"):
        tersenet.attach(net, "lsq", [torch.randn(4, 64)])
