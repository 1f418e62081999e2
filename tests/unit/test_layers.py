"""Layers of a network: in running order, with their batch norms, and which are the first and the last."""

import torch
from torch import nn

import tersenet
from tersenet.core.task import Task
from tersenet.network.layers import find_layers, input_of


def test_the_ends_are_those_of_the_network_not_of_what_is_quantised(task: Task) -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
    )
    for name in ("lsq", "lapq"):
        fields = {"epochs": 0} if name == "lsq" else {"search": "l2"}
        small = tersenet.compress(net, name, task=task, bits=2, act_bits=4, **fields)
        assert small.tensors["2.weight"].codes.unique().numel() <= 4 and set(small.activations) == {"2"}  # type: ignore[union-attr]


def test_layers_are_found_in_running_order_with_their_batch_norms(network: nn.Module) -> None:
    layers = find_layers(network, torch.zeros(2, 1, 8, 8))
    assert [(layer.path, layer.batch_norm) for layer in layers] == [
        ("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("linear", "")
    ]  # fmt: skip
    assert input_of(network, "conv2", torch.zeros(2, 1, 8, 8)).shape == (2, 32, 4, 4)
