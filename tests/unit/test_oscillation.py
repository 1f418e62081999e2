"""Weights that swing between two levels: what stops them, and what does not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tersenet.core.levels import Integers
from tersenet.quantizers import estimators as rules
from tersenet.quantizers.oscillation import Freezer, dampening
from tersenet.quantizers.project import Rounding


def test_frozen_weights_still_move_their_scale() -> None:
    freezer, scale = Freezer(torch.tensor([2.0, -1.0])), torch.tensor(0.5, requires_grad=True)
    freezer.frozen.fill_(True)
    (freezer.held(torch.zeros(2), scale) * torch.tensor([3.0, 5.0])).sum().backward()
    assert float(scale.grad) == 3 * 2 - 5  # type: ignore[arg-type]


def swings(
    rule: Callable[..., Tensor], oscillation: str = "none", strength: float = 1.0, steps: int = 3000
) -> tuple[int, Tensor]:
    """Level changes in the last 1000 steps of min (q(w) - 0.3)^2 / 2, rate 0.02, levels the integers; and the
    weight."""
    w, levels = torch.tensor([0.0]), Integers(-8, 8)
    freezer, changes, before = Freezer(levels.nearest(w)), 0, 0.0
    for step in range(steps):
        progress = torch.tensor(step / steps)
        if oscillation == "freeze":
            freezer.watch(w, levels, progress)
        at = Rounding(w, levels.nearest(w), levels, torch.ones(()), progress, torch.tensor(0.02))
        q = torch.where(freezer.frozen, freezer.level, at.q)
        g = rule(q - 0.3, at) * ~freezer.frozen
        if oscillation == "dampen":
            latent = w.clone().requires_grad_()
            (strength * (latent - levels.nearest(w)).square().sum()).backward()
            g = g + latent.grad
        w = w - 0.02 * g
        changes += int(step >= steps - 1000 and float(q) != before)
        before = float(q)
    return changes, w


def test_multiplicative_rules_cannot_stop_a_weight_from_swinging() -> None:
    assert swings(rules.ste)[0] > 500
    assert swings(rules.ewgs)[0] == pytest.approx(swings(rules.ste)[0], rel=0.1)


def test_dampening_and_freezing_stop_it_and_the_frozen_weight_stays() -> None:
    assert 250 < swings(rules.ste, "dampen", 0.2)[0] < 400 < swings(rules.ste)[0]
    assert swings(rules.ste, "dampen", 1.0)[0] == 0
    changes, weight = swings(rules.ste, "freeze")
    assert changes == 0 and weight.abs() < 1


def test_dampening_rises_to_a_tenth_of_the_squared_distance() -> None:
    x = torch.tensor([0.3, 1.5, -9.0])
    distance = 0.3**2 + 0.5**2  # what lies outside is clipped first
    for progress, factor in ((0.0, 0.0), (0.5, 0.05), (1.0, 0.1)):
        assert float(dampening(x, Integers(-2, 2), torch.tensor(progress))) == pytest.approx(
            factor * distance, abs=1e-6
        )
