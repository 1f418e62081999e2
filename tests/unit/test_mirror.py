"""Mirror descent and its relatives: what they project to, how duals move, where they start, what they refuse."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

import tersenet
from tersenet.cli.fields import build_method
from tersenet.core.model import CompressedModel
from tersenet.errors import UsageError
from tersenet.files.summary import summarize
from tersenet.methods.mirror import Mirror
from tersenet.methods.mirror.projected import Levels, Projected, Rule, softmax_projection, tanh_projection

RULES: tuple[Rule, ...] = get_args(Rule)
BINARY, TERNARY = (-1.0, 1.0), (-1.0, 0.0, 1.0)


def projected(rule: Rule, levels: Levels = BINARY, *, beta: float = 2.0, weight: Tensor | None = None) -> Projected:
    start = torch.linspace(-0.9, 0.9, 24) if weight is None else weight
    return Projected(start, levels, rule, (beta, beta), scaled=weight is not None).train()


def descended(quantizer: Projected, steps: int, lr: float) -> list[Tensor]:
    """The duals after each of some steps of gradient descent on a regression."""
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(32, 24, generator=generator), torch.randn(32, generator=generator)
    dual, seen = quantizer.latents(torch.linspace(-0.9, 0.9, 24))[0].requires_grad_(), []
    for _ in range(steps):
        value = quantizer(dual)
        (grad,) = torch.autograd.grad((inputs @ value - targets).square().mean(), dual)
        with torch.no_grad():
            dual -= lr * grad
        quantizer.after_step(dual.detach())
        seen.append(dual.detach().clone())
    return seen


def gradient(w: Tensor, step: int) -> Tensor:
    """Some gradient at w, another one in every step."""
    return torch.sin(3 * w + step) / 2


def test_the_primal_and_the_dual_step_of_a_tanh_are_one_at_a_fixed_beta() -> None:
    beta, lr = 1.7, 0.3
    dual = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = torch.tanh(beta * dual)
    for step in range(20):
        g = gradient(w, step)
        e = (1 + w) / (1 - w) * torch.exp(-2 * beta * lr * g)
        w, dual = (e - 1) / (e + 1), dual - lr * gradient(tanh_projection(dual, beta, BINARY), step)
        assert (w - tanh_projection(dual, beta, BINARY)).abs().max() <= 1e-12


@pytest.mark.parametrize("levels", [BINARY, TERNARY, (-1.5, 0.25, 2.0)], ids=str)
def test_the_primal_and_the_dual_step_of_a_softmax_are_one_at_a_fixed_beta(levels: Levels) -> None:
    beta, lr, q = 1.7, 0.3, torch.tensor(levels, dtype=torch.float64)[:, None]
    duals = torch.randn(len(levels), 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u = torch.softmax(beta * duals, 0)
    for step in range(20):
        g = gradient((q * u).sum(0), step)
        u = u * torch.exp(-beta * lr * q * g)
        u = u / u.sum(0)
        duals = duals - lr * q * gradient(softmax_projection(duals, beta, levels), step)
        assert ((q * u).sum(0) - softmax_projection(duals, beta, levels)).abs().max() <= 1e-12


def test_two_levels_under_a_softmax_are_the_tanh() -> None:
    weight = torch.randn(500)
    for beta in (0.5, 3.0, 100.0):
        first, second = (projected(rule, beta=beta, weight=weight) for rule in ("md-tanh", "md-softmax"))
        assert torch.allclose(first(*first.latents(weight)), second(*second.latents(weight)), atol=1e-6)


@pytest.mark.parametrize("levels", [BINARY, TERNARY], ids=["binary", "ternary"])
def test_a_steep_tanh_is_binaryconnect_bit_for_bit(levels: Levels) -> None:
    steep = descended(projected("md-tanh", levels, beta=1e30), 15, 0.02)
    limit = descended(projected("binaryconnect", levels), 15, 0.02)
    assert all(torch.equal(a, b) for a, b in zip(steep, limit, strict=True))
    assert (limit[-1].sign() != limit[0].sign()).any() and limit[-1].abs().max() < 1  # no dual was clipped


@pytest.mark.parametrize("levels", [BINARY, TERNARY, (-2.0, 0.5, 1.0)], ids=str)
def test_a_projection_is_the_nearest_level_when_it_is_steep_and_never_nan(levels: Levels) -> None:
    dual = torch.cat([torch.linspace(-3, 3, 100), torch.tensor([1e30, -1e30, 0.0, 1e-3])])
    for rule in RULES[:2]:
        quantizer = projected(rule, levels, beta=1e30)
        latents = torch.stack([q * dual - q * q / 2 for q in levels]) if rule == "md-softmax" else dual
        soft, level = quantizer.soft(latents), quantizer.rounded(latents)
        off = (dual - torch.tensor([(low + high) / 2 for low, high in pairwise(levels)])[:, None] != 0).all(0)
        assert soft.isfinite().all() and torch.allclose(soft[off], level[off], atol=1e-6)
        assert set(level.tolist()) <= set(levels)


def test_a_dual_of_zero_is_the_upper_level() -> None:
    for rule in RULES:
        quantizer = projected(rule)
        zero = torch.zeros(2, 3) if quantizer.per_level else torch.zeros(3)
        assert quantizer.rounded(zero).tolist() == [1.0, 1.0, 1.0]


def test_the_rules_differ_in_the_gradient_of_the_dual() -> None:
    dual, g = torch.tensor([-0.3, 0.1, 0.6]), torch.tensor([1.0, -2.0, 3.0])
    slope = 2.0 * (1 - torch.tanh(2.0 * dual) ** 2)
    expected = {"md-tanh": g, "binaryconnect": g, "proxquant": g, "gd-tanh": g * slope}
    for rule, wanted in expected.items():
        latent = dual.clone().requires_grad_()
        projected(rule)(latent).backward(g)  # type: ignore[arg-type]
        assert latent.grad is not None and torch.allclose(latent.grad, wanted)
    for rule, factor in (("md-softmax", torch.ones(3)), ("pmf", slope / 2)):  # P is of half the duals' difference
        latent = torch.stack([-dual - 0.5, dual - 0.5]).requires_grad_()
        projected(rule)(latent).backward(g)  # type: ignore[arg-type]
        assert latent.grad is not None
        assert torch.allclose(latent.grad, torch.stack([-g, g]) * factor, atol=1e-6)


def test_binaryconnect_keeps_duals_between_the_outermost_levels() -> None:
    dual = torch.tensor([-3.0, 0.2, 7.0])
    projected("binaryconnect", TERNARY).after_step(dual)
    assert dual.tolist() == pytest.approx([-1.0, 0.2, 1.0])


def test_the_proximal_step_ends_on_the_levels() -> None:
    quantizer, dual = projected("proxquant"), torch.tensor([-0.4, 0.7, 1.3])
    quantizer.anneal(1.0, 0.1)
    quantizer.after_step(dual)
    first = dual.clone()
    for _ in range(20):
        quantizer.after_step(dual)
    assert (first - torch.tensor([-1.0, 1.0, 1.0])).abs().max() < 0.6
    assert dual.tolist() == [-1.0, 1.0, 1.0]


def test_beta_rises_with_the_progress_in_a_geometric_series() -> None:
    quantizer = Projected(torch.ones(3), BINARY, "md-tanh", (1.0, 1e4), scaled=True)
    for progress, expected in ((0.0, 1.0), (0.25, 10.0), (0.5, 100.0), (1.0, 1e4)):
        quantizer.anneal(progress, 0.0)
        assert float(quantizer.beta) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"levels": (1.0,)}, "2 to 127 numbers in increasing order"),
        ({"levels": (1.0, -1.0)}, "increasing order"),
        ({"levels": (-1.0, 0.0, 0.0, 1.0)}, "increasing order"),
        ({"levels": (1.0, 1.0 + 1e-12)}, "increasing order"),  # one number in fp32
        ({"levels": tuple(range(200))}, "2 to 127"),
        ({"levels": (-1e30, 1e30)}, "levels="),
        ({"levels": "-1,1"}, "levels="),
        ({"states": 1}, "states=1"),
        ({"final_beta": 1e39}, "final_beta="),
        ({"final_beta": math.inf}, "final_beta="),
        ({"final_beta": 10.0}, "final_beta="),
        ({"beta": 1e6}, "above final_beta"),
        ({"rule": "md"}, "rule="),
        ({"rule": "binaryconnect", "paper": True, "states": 3}, "no gradient"),
        ({"bn": "fold"}, "cannot be trained"),
        ({"layer_bits": {"a": 9}}, "expected 1 to 8"),
    ],
    ids=str,
)
def test_what_has_no_projection_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Mirror(**given)


def test_the_command_line_takes_levels_between_commas() -> None:
    method = build_method("mirror", ["--levels", "-1,0,1", "--rule", "md-softmax", "--paper"])
    assert isinstance(method, Mirror) and method.levels == TERNARY and method.paper
    assert build_method("lsq", ["--stages", "8,4", "--stages", "3"]) == build_method(
        "lsq", ["--stages", "8", "--stages", "4", "--stages", "3"]
    )
    assert build_method("rtn", ["--include", "a{b,c}"]).include == ("a{b,c}",)
    for text in ("-1,,1", "-1,a", ""):
        with pytest.raises(UsageError, match="levels="):
            build_method("mirror", ["--levels", text])


def test_a_budget_turns_the_number_of_levels_unless_they_are_given() -> None:
    assert Mirror().at(3) == Mirror(states=3) and len(Mirror().knob.values) == len(set(Mirror().knob.values))
    given = Mirror(levels=(-1, 3))
    assert given.knob.values == (2,) and given.at(2) == given


@pytest.mark.parametrize("levels", [BINARY, TERNARY], ids=["binary", "ternary"])
def test_weights_take_their_entropy_in_the_file_and_a_few_bytes(levels: Levels, tmp_path: Path) -> None:
    weight = torch.randn(256, 1024, generator=torch.Generator().manual_seed(0))
    quantizer = Projected(weight, levels, "md-tanh", (1.0, 1e4), scaled=True)
    tersenet.save(CompressedModel({"w": quantizer.freeze(*quantizer.latents(weight))}), tmp_path / "w.terse")
    (row,) = summarize(tmp_path / "w.terse").rows
    shares = torch.bincount((weight / weight.abs().mean()).clamp(-1, 1).round().long().reshape(-1) + 1) / row.weights
    entropy = 1.0 if levels == BINARY else float(-(shares * shares.log2()).sum())
    payload = row.bytes - row.grid_bytes - row.table_bytes
    assert payload <= entropy * row.weights / 8 + (0 if levels == BINARY else 256)
    assert row.grid_bytes + row.table_bytes <= 32
