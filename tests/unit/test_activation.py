"""The range of a layer's inputs: what is observed, and where clips start."""

import torch
from torch import nn

import tersenet
from tersenet.core.levels import Integers
from tersenet.quantizers.activation import Observer
from tersenet.quantizers.project import some_of


def test_a_sample_of_images_sees_every_column() -> None:
    x = torch.randn(128, 16, 32, 32, generator=torch.Generator().manual_seed(0)).relu()
    x[..., 0] = 0
    seen = Observer()
    seen.see(x)
    assert seen.clip("percentile", Integers(0, 15)) > 2 and seen.clip("mse", Integers(0, 15)) > 1.5
    assert torch.equal(some_of(x, 1000), some_of(x, 1000)) and some_of(x, 10**9).numel() == x.numel()


def test_small_inputs_of_powers_of_two_have_small_clips() -> None:
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    x = torch.rand(32, 64) * 0.1
    small = tersenet.freeze(tersenet.attach(net, "pot", [x], bits=4, act_bits=4, first_last="same"))
    assert small.activations["0"].scale * small.activations["0"].levels.high < 0.11
