"""BSQ's planes: their digits, their adjustment, how they move, and what is refused."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tersenet.errors import UsageError
from tersenet.methods.bsq import Bsq
from tersenet.methods.bsq.planes import PLANES, SHRINK, BitPlanes, digits, ramp, summed
from tersenet.training.loop import MOMENTUM

POWERS = 2.0 ** torch.arange(PLANES)


def on_planes(planes: Tensor, count: int, step: float = 0.125) -> tuple[BitPlanes, Tensor]:
    """A quantizer that holds `planes`, `count` of them alive, and the weight that they stand for."""
    shape = planes.shape[2:]
    made = BitPlanes(torch.full(shape, step * (2**count - 1)), count, 0.0, reweighs=True, pinned=False)
    made.planes.copy_(planes)
    weight = summed(planes.flatten(2), made.places).view(shape) * made.held
    return made, nn.Parameter(weight)


def random_planes(seed: int, most: float) -> tuple[Tensor, int]:
    """Fractional planes up to `most`, some of them zero in all weights."""
    generator = torch.Generator().manual_seed(seed)
    count = seed % PLANES + 1
    planes = torch.rand(2, PLANES, 6, 7, generator=generator) * most
    planes *= torch.rand(2, PLANES, 6, 7, generator=generator) < torch.rand(1, generator=generator)
    planes[:, torch.rand(PLANES, generator=generator) < 0.3] = 0
    planes[:, count:] = 0
    return planes, count


def test_an_adjustment_changes_no_weight_and_leaves_exact_digits_without_dead_planes() -> None:
    for seed in range(300):
        planes, count = random_planes(seed, 1.0)
        made, weight = on_planes(planes, count)
        before = made(weight).detach()
        if died := made.adjust(weight):
            made.write(weight, torch.zeros_like(made.codes))
        assert torch.equal(made(weight), before) and died == (not before.any()) and made.count <= count
        held = made.planes
        assert torch.equal(summed(held.flatten(2), made.places).view(6, 7) * made.held, made(weight))
        assert ((held == 0) | (held == 1)).all() and not (held[0] * held[1]).any()
        assert torch.equal(made.places, POWERS * (torch.arange(PLANES) < made.count))
        if made.count > 1:
            assert held[:, 0].any() and held[:, made.count - 1].any()


def test_codes_that_planes_up_to_2_carry_get_one_plane_more_and_never_a_ninth() -> None:
    for seed in range(200):
        planes, count = random_planes(seed, 2.0)
        made, weight = on_planes(planes, count)
        unclipped = (weight.detach() / made.held).round() * made.held
        if made.adjust(weight):
            continue
        assert made.count <= min(count + 1, PLANES)
        most = 255 * float(made.held)
        assert (made(weight) - unclipped.clamp(-most, most)).abs().max() <= 1e-6
    made, weight = on_planes(digits(torch.full((4, 4), 7)) * 2, 3)
    assert made.adjust(weight) is False and made.count == 3 and float(made.held) == 0.25  # 14 = 7 * 2
    made, weight = on_planes(digits(torch.tensor([[7, 0]])) * 2 + digits(torch.tensor([[0, 1]])), 3)
    assert made.adjust(weight) is False and made.count == 4 and (made.codes == torch.tensor([[14, 1]])).all()


def test_the_gradients_of_adjacent_planes_have_the_ratio_2_exactly() -> None:
    planes = torch.rand(2, PLANES, 30, requires_grad=True)
    step = torch.tensor(0.013)
    (summed(planes, POWERS) * step * torch.randn(30)).sum().backward()  # type: ignore[no-untyped-call]
    assert planes.grad is not None and torch.equal(planes.grad[:, 1:], 2 * planes.grad[:, :-1])
    assert torch.equal(planes.grad[0], -planes.grad[1])
    made, weight = on_planes(torch.full((2, PLANES, 5, 6), 0.5), PLANES)
    with torch.no_grad():
        weight += torch.linspace(-8, 8, 30).view(5, 6)
        before = made.planes.clone()
        made.after_step(weight)
    moved = (made.planes - before)[0]
    assert torch.allclose(moved[1:], 2 * moved[:-1], atol=2e-7) and moved.abs().max() > 1e-3


def test_planes_move_as_if_sgd_with_momentum_trained_them_and_are_clipped() -> None:
    torch.manual_seed(0)
    weight, target = torch.randn(8, 9) * 0.1, torch.randn(8, 9)
    made = BitPlanes(weight, PLANES, 0.0, reweighs=True, pinned=False)
    made.step.requires_grad_(False)
    latent = nn.Parameter(made.latents(weight)[0])
    plain = nn.Parameter(made.planes.clone())
    ours = torch.optim.SGD([latent], 0.05, MOMENTUM)
    theirs = torch.optim.SGD([plain], 0.05 * made.speed / made.first**2, MOMENTUM)
    for _ in range(30):
        for optimizer, value in ((ours, latent), (theirs, summed(plain.flatten(2), POWERS).view(8, 9) * made.held)):
            optimizer.zero_grad()
            (value - target).square().sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            made.after_step(latent)
            plain.clamp_(0, 2)
    assert (made.planes - plain).abs().max() < 1e-4 and plain.max() == 2 and plain.min() == 0


def test_the_penalty_takes_from_norms_what_the_cosine_has_passed_and_nothing_without_alpha() -> None:
    for strength in (0.0, 1e-5):
        weight = torch.randn(40, 50, generator=torch.Generator().manual_seed(0))
        made = BitPlanes(weight, PLANES, strength, reweighs=True, pinned=False)
        latent, first = nn.Parameter(made.latents(weight)[0]), made.planes.flatten(2).norm(dim=(0, 2))
        before = latent.detach().clone()
        for step in range(20):
            made.anneal(step / 20, 0.1)
            with torch.no_grad():
                made.after_step(latent)
        lost = SHRINK * math.sqrt(2000) * strength * PLANES * ramp(torch.tensor(0.95))
        assert torch.allclose(made.planes.flatten(2).norm(dim=(0, 2)), first - lost, rtol=1e-4)
        assert torch.equal(latent, before) == (strength == 0)
        assert torch.allclose(made.penalty(latent), strength * PLANES * (first - lost).sum(), rtol=1e-4)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"alpha": -0.1}, "alpha=-0.1: expected a number, 0 to 1000"),
        ({"alpha": math.nan}, "alpha=nan: expected a number, 0 to 1000"),
        ({"planes": 9}, "planes=9: expected an integer, 1 to 8"),
        ({"layer_bits": {"a": 9}}, "layer_bits gives a 9 bits; expected 2 to 8"),
        ({"bn": "fold"}, "cannot be trained"),
        ({"act_bits": 9}, "act_bits=9"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_by_its_name(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Bsq(**given)
