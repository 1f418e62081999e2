"""What a reviewer found in the training engine, kept as facts."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tersenet
from tersenet import methods
from tersenet.analysis.allocate import optimum
from tersenet.core.levels import Integers
from tersenet.core.method import Job, RunFolder
from tersenet.core.task import Task
from tersenet.errors import InputError, UsageError
from tersenet.files.checkpoint import open_module
from tersenet.quantizers.activation import Observer
from tersenet.quantizers.estimators import RULES, ewgs
from tersenet.quantizers.oscillation import Freezer
from tersenet.quantizers.powers import power_magnitudes, with_signs
from tersenet.quantizers.project import Rounding, some_of


def test_a_sample_of_images_sees_every_column() -> None:
    x = torch.randn(128, 16, 32, 32, generator=torch.Generator().manual_seed(0)).relu()
    x[..., 0] = 0
    seen = Observer()
    seen.see(x)
    assert seen.clip("percentile", Integers(0, 15)) > 2 and seen.clip("mse", Integers(0, 15)) > 1.5
    assert torch.equal(some_of(x, 1000), some_of(x, 1000)) and some_of(x, 10**9).numel() == x.numel()


def test_training_from_a_file_without_batch_norm_statistics_is_refused(
    network: nn.Module, task: Task, tmp_path: Path
) -> None:
    tersenet.save(tersenet.compress(network, "lsq", task=task, epochs=0, bn="scale-shift"), tmp_path / "x.terse")
    method, source = methods.get("lsq")(), open_module(network)
    with pytest.raises(UsageError, match="nothing can be trained from it"):
        list(method.compress(Job(source, network, task, RunFolder(start=tmp_path / "x.terse"))))
    with pytest.raises(UsageError, match="there is nothing"):
        list(method.compress(Job(source, network, task, RunFolder(tmp_path / "r", start=tmp_path / "none"))))
    assert not (tmp_path / "r").exists()


def test_without_a_rate_the_projecting_rule_does_not_pull() -> None:
    x = torch.linspace(-2, 2, 9)
    at = Rounding(x, x.round(), Integers(-2, 2), torch.ones(()), torch.tensor(0.7), torch.zeros(()))
    assert torch.equal(RULES["qea-project"](torch.ones(9), at), torch.ones(9))


def test_small_inputs_of_powers_of_two_have_small_clips() -> None:
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    x = torch.rand(32, 64) * 0.1
    small = tersenet.freeze(tersenet.attach(net, "pot", [x], bits=4, act_bits=4, first_last="same"))
    assert small.activations["0"].scale * small.activations["0"].levels.high < 0.11


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_attaching_to_other_precisions_or_twice_is_refused(dtype: torch.dtype) -> None:
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    with pytest.raises(UsageError, match="fp32"):
        tersenet.attach(copy.deepcopy(net).to(dtype), "lsq", [torch.randn(4, 64)])
    tersenet.attach(net, "lsq", [torch.randn(4, 64)])
    with pytest.raises(UsageError, match="already"):
        tersenet.attach(net, "lsq", [torch.randn(4, 64)])


def test_ewgs_never_turns_a_gradient_on_any_grid() -> None:
    levels = with_signs(power_magnitudes(3))
    x = torch.linspace(levels.low, levels.high, 1001)
    at = Rounding(x, levels.nearest(x), levels, torch.ones(()), torch.zeros(()), torch.zeros(()))
    for sign in (1.0, -1.0):
        assert (ewgs(torch.full_like(x, sign), at) * sign > 0).all()


def test_frozen_weights_still_move_their_scale() -> None:
    freezer, scale = Freezer(torch.tensor([2.0, -1.0])), torch.tensor(0.5, requires_grad=True)
    freezer.frozen.fill_(True)
    (freezer.held(torch.zeros(2), scale) * torch.tensor([3.0, 5.0])).sum().backward()
    assert float(scale.grad) == 3 * 2 - 5  # type: ignore[arg-type]


def test_an_optimum_that_just_fits_is_found() -> None:
    sizes = {f"layer{i}": 1000 + 7 * i for i in range(40)}
    assert set(optimum({name: {4: 1.0} for name in sizes}, sizes, 4.0).values()) == {4}
    assert set(optimum({name: {2: 2.0, 4: 1.0} for name in sizes}, sizes, 4.0).values()) == {4}


class Twice(nn.Module):
    """A layer that sees positive inputs first and negative ones later."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.last = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.shared(self.shared(self.first(x.flatten(1)).relu())))  # type: ignore[no-any-return]


def test_an_input_that_is_ever_negative_is_signed(task: Task) -> None:
    small = tersenet.compress(Twice(), "lapq", task=task, bits=8, act_bits=8, search="l2", first_last="same")
    assert small.activations["shared"].levels.low < 0


def test_the_ends_are_those_of_the_network_not_of_what_is_quantised(task: Task) -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
    )
    for name in ("lsq", "lapq"):
        fields = {"epochs": 0} if name == "lsq" else {"search": "l2"}
        small = tersenet.compress(net, name, task=task, bits=2, act_bits=4, **fields)
        assert small.tensors["2.weight"].codes.unique().numel() <= 4 and set(small.activations) == {"2"}  # type: ignore[union-attr]


def test_a_network_that_returns_a_mapping_trains_and_one_without_tensors_is_a_clear_error(task: Task) -> None:
    class Named(nn.Module):
        def __init__(self, text: bool) -> None:
            super().__init__()
            self.layer, self.text = nn.Linear(64, 10), text

        def forward(self, x: Tensor) -> dict[str, Any]:
            found = self.layer(x.flatten(1))
            return {"logits": "text" if self.text else found}

    small = tersenet.compress(Named(False), "lsq", task=task, epochs=1, bits=32)
    assert set(small.tensors) == {"layer.weight", "layer.bias"}
    with pytest.raises(InputError, match="returned"):
        tersenet.compress(Named(True), "lsq", task=task, epochs=1, bits=32)
