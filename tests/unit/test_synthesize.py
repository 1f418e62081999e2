"""Inputs made from the statistics of batch norm."""

import copy

import pytest
import torch
from torch import nn

import tersenet
from tersenet.errors import InputError
from tersenet.network.layers import input_of
from tersenet.network.synthesize import guess_shape, synthesize


def gauss(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_synthesised_inputs_show_batch_norm_its_own_statistics(network: nn.Module) -> None:
    inputs = synthesize(network, 32, guess_shape(network), steps=25)
    y = network.conv2(input_of(network, "conv2", inputs))
    noise = network.conv2(input_of(network, "conv2", gauss(64, *inputs.shape[1:])))
    mean, deviation = network.bn2.running_mean, network.bn2.running_var.sqrt()

    @torch.no_grad()
    def distance(z: torch.Tensor) -> float:
        return float(((z.mean((0, 2, 3)) - mean) / deviation).square().mean().detach())

    assert distance(y) < 0.1 * distance(noise)
    again = [synthesize(network, 8, guess_shape(network), steps=3) for _ in range(2)]
    assert torch.equal(again[0], again[1])


def test_without_batch_norm_the_user_is_told_and_the_weights_are_still_compressed() -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
    net(torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputError, match="no batch-norm statistics"):
        synthesize(net, 4, (3, 8, 8))
    with pytest.warns(UserWarning, match="no batch-norm statistics"):
        small = tersenet.compress(net, "vlcq", target_bits=4)
    assert small.apply_to(copy.deepcopy(net))(torch.ones(1, 3, 8, 8)).isfinite().all()
