"""Constants of gradient rules that are measured in a training."""

import pytest
import torch

import tersenet
from tersenet.core.task import Task
from tersenet.quantizers import attach
from tersenet.quantizers.weight import LearnedScale
from tersenet.training.curvature import measure_deltas


def test_the_measured_delta_is_the_curvature_over_the_gradient() -> None:
    """Loss `(a x w)^2 / 2` summed over outputs: the Hessian's diagonal is known."""
    net = torch.nn.Linear(32, 16, bias=False)
    x = torch.ones(4, 32)
    tersenet.attach(net, "lsq", [x], bits=3, first_last="same", estimator="ewgs-hessian")
    held = next(attach.quantizers(net)).quantizer
    assert isinstance(held, LearnedScale) and float(held.delta) == 0
    task = Task(train=[(x, torch.zeros(4, 16))], loss=lambda outputs, y: (outputs - y).square().sum() / 8)
    measure_deltas(net, list(task.batches("train")), 0)
    value = net.weight.detach()
    gradient = (value.sum(1, keepdim=True)).expand(16, 32)  # of sum over outputs of (sum of a row)^2 / 2
    scale = float(held._prepared(net.parametrizations.weight.original)[1].detach())
    assert float(held.delta) == pytest.approx(scale * 1.0 / (3 * float(gradient.std())), rel=0.35)  # 8 probes
