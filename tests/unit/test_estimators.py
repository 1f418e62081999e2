"""Gradient rules against closed forms, their limits, and the one-weight problem that the straight-through rule cannot
solve."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from tersenet import methods
from tersenet.core.levels import Integers, Levels, Points
from tersenet.errors import UsageError
from tersenet.quantizers import estimators as rules
from tersenet.quantizers.estimators import RULES, ewgs
from tersenet.quantizers.powers import power_magnitudes, with_signs
from tersenet.quantizers.project import Rounding, noisy, project, project_clipped, stored_scale

X = torch.linspace(-2.9, 3.3, 63)
UNIFORM, UNEVEN, SIGNS = Integers(-2, 2), Points((-2, -1, 0, 1, 3)), Integers(-1, 1)


def rounding(
    x: Tensor, levels: Levels = UNIFORM, progress: float = 0.5, scale: float = 1.0, lr: float = 0.1
) -> Rounding:
    return Rounding(x, levels.nearest(x), levels, torch.tensor(scale), torch.tensor(progress), torch.tensor(lr))


def slope(rule: Callable[..., Tensor], x: Tensor, **given: float | Levels) -> Tensor:
    return rule(torch.ones_like(x), rounding(x, **given))  # type: ignore[arg-type]


INSIDE = ((X >= -2) & (X <= 2)).float()


def test_the_straight_through_rule_passes_everything_and_the_clipped_one_what_is_inside() -> None:
    assert torch.equal(slope(rules.ste, X), torch.ones_like(X))
    assert torch.equal(slope(rules.clipped, X), INSIDE)


def test_ewgs_adds_the_distance_in_the_direction_of_the_gradient() -> None:
    distance = X - X.round().clamp(-2, 2)
    assert torch.allclose(slope(rules.ewgs, X), INSIDE * (1 + 0.2 * distance))
    down = rules.ewgs(-torch.ones_like(X), rounding(X))
    assert torch.allclose(down, -INSIDE * (1 - 0.2 * distance))


@pytest.mark.parametrize("levels", [UNIFORM, UNEVEN], ids=["uniform", "uneven"])
def test_qea_stays_within_half_a_delta_of_one_on_any_grid(levels: Levels) -> None:
    factor = slope(partial(rules.qea, delta=0.4), X, levels=levels)
    assert (factor >= 0.8 - 1e-6).all() and (factor <= 1.2 + 1e-6).all() and factor.std() > 0.05


def test_qea_on_a_uniform_grid_is_ewgs_inside_the_range() -> None:
    inside = INSIDE.bool()
    assert torch.allclose(slope(rules.qea, X)[inside], slope(rules.ewgs, X)[inside])


def test_qea_project_lands_between_the_step_and_the_level_next_to_it() -> None:
    g, scale, lr, progress = torch.randn(63, generator=torch.Generator().manual_seed(0)), 0.5, 0.1, 0.5
    w = X * scale
    landed = w - lr * rules.qea_project(g, rounding(X, progress=progress, scale=scale, lr=lr), beta=0.4)
    step = w - lr * g
    level = scale * UNIFORM.nearest(step / scale)
    assert torch.allclose(landed, 0.8 * step + 0.2 * level, atol=1e-6)


def test_dsq_rises_by_one_over_every_cell_and_is_steep_for_small_a() -> None:
    x = torch.linspace(0, 1, 100_001)
    for a in (0.05, 0.2, 0.5):
        assert float(slope(partial(rules.dsq, a=a), x).mean()) == pytest.approx(1, abs=1e-3)
    k = math.log(2 / 0.2 - 1)
    closed = k / (2 * math.tanh(k / 2)) * (1 - torch.tanh(k * (x - 0.5)) ** 2)
    assert torch.allclose(slope(rules.dsq, x[:-1]), closed[:-1], atol=1e-6)
    assert float(slope(partial(rules.dsq, a=1e-4), torch.tensor([0.05]))) < 0.01


def test_the_stacked_sigmoid_has_mean_one_in_every_cell_and_becomes_the_clipped_rule() -> None:
    x = torch.linspace(0, 1, 100_001)
    for alpha in (0.5, 1.0, 4.0):
        assert float(slope(partial(rules.stacked_sigmoid, alpha=alpha), x).mean()) == pytest.approx(1, abs=1e-4)
    assert torch.allclose(slope(partial(rules.stacked_sigmoid, alpha=1e-3), X), INSIDE, atol=1e-4)


def test_psgd_scales_by_the_distance() -> None:
    expected = 150 * 0.5 * (X - X.round().clamp(-2, 2)).abs()
    assert torch.allclose(slope(rules.psgd, X, scale=0.5), expected, atol=1e-5)


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_the_rules_for_signs_are_their_formulas(progress: float) -> None:
    t = 0.1 * 100**progress
    expected = max(1 / t, 1) * t * (1 - torch.tanh(t * X) ** 2)
    assert torch.allclose(slope(rules.ede, X, progress=progress, levels=SIGNS), expected, atol=1e-6)
    t = 10 ** (-2 + 3 * progress)
    k = max(1 / t, 1)
    inside = X.abs() < math.sqrt(2) / t
    expected = torch.where(inside, k * (math.sqrt(2) * t - t * t * X.abs()), torch.zeros(()))
    assert torch.allclose(slope(rules.rbnn, X, progress=progress, levels=SIGNS), expected, atol=1e-5)
    o = 1 + 2 * progress
    far = torch.where(X.abs() <= 1.5, X.abs().clamp(min=0.1) ** ((1 - o) / o) / o, torch.zeros(()))
    expected = torch.where(X.abs() <= 0.1, torch.tensor(0.1 ** (1 / o) / 0.1), far)
    assert torch.allclose(slope(rules.reste, X, progress=progress, levels=SIGNS), expected, atol=1e-5)
    assert torch.allclose(slope(rules.bireal, X), (2 - 2 * X.abs()).clamp(min=0))


LIMITS = {
    "ewgs": (partial(rules.ewgs, delta=0.0), rules.clipped, UNIFORM),
    "qea": (partial(rules.qea, delta=0.0), rules.ste, UNEVEN),
    "qea-project": (partial(rules.qea_project, beta=0.0), rules.ste, UNEVEN),
    "reste": (partial(rules.reste, o_max=1.0), lambda g, at: g * (at.x.abs() <= 1.5), SIGNS),
}


@pytest.mark.parametrize("name", LIMITS)
def test_the_limit_is_the_straight_through_rule_bit_for_bit(name: str) -> None:
    rule, limit, levels = LIMITS[name]
    g = torch.randn(63, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rule(g, rounding(X, levels)), limit(g, rounding(X, levels)))


def loss_of(scale: Tensor, values: Tensor, levels: Levels, weights: Tensor) -> Tensor:
    """The loss as a function of the scale with the levels held: what the scale's gradient is the derivative of."""
    x = values / scale.detach()
    inside = (x >= levels.low) & (x <= levels.high)
    shift = torch.where(inside, levels.nearest(x) - x, levels.nearest(x))
    return (weights * (torch.where(inside, values, torch.zeros(())) + scale * shift)).sum()


@pytest.mark.parametrize("levels", [UNIFORM, Integers(0, 3), UNEVEN], ids=str)
@pytest.mark.parametrize("fast", [True, False])
def test_the_gradient_of_the_scale_is_the_derivative_with_rounding_held(levels: Levels, fast: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    values, weights = torch.randn(300, 700, generator=generator), torch.randn(300, 700, generator=generator)
    scale = torch.tensor(0.37, requires_grad=True)
    none = torch.zeros(())
    out = project_clipped(values, scale, levels) if fast else project(values, scale, levels, rules.clipped, none, none)
    (weights * out).sum().backward()
    other = torch.tensor(0.37, requires_grad=True)
    loss_of(other, values, levels, weights).backward()
    assert scale.grad is not None and other.grad is not None
    assert float(scale.grad) == pytest.approx(float(other.grad), rel=2e-3, abs=0.5)
    step = 1e-3  # and by finite differences of the same loss
    up, down = (loss_of_fixed(0.37, 0.37 + d, values, levels, weights) for d in (step, -step))
    assert float(other.grad) == pytest.approx((up - down) / (2 * step), rel=1e-3, abs=0.5)


def loss_of_fixed(at: float, scale: float, values: Tensor, levels: Levels, weights: Tensor) -> float:
    x = (values / at).double()
    inside = (x >= levels.low) & (x <= levels.high)
    q = levels.nearest(x.float()).double()
    return float((weights.double() * (values.double() * inside + scale * torch.where(inside, q - x, q))).sum())


@pytest.mark.parametrize("levels", [Integers(-3, 3), Integers(0, 15), Points((0, 1, 2, 4, 8))], ids=str)
def test_the_fast_path_for_inputs_equals_the_general_one(levels: Levels) -> None:
    values = torch.randn(64, 3000, generator=torch.Generator().manual_seed(1)) * 3
    values[0, :4] = torch.tensor([0.0, float(levels.low), float(levels.high), -1e3]) * 0.3
    grads, outs = [], []
    for fast in (True, False):
        given, scale, none = values.clone().requires_grad_(), torch.tensor(0.3, requires_grad=True), torch.zeros(())
        if fast:
            out = project_clipped(given, scale, levels)
        else:
            out = project(given, scale, levels, rules.clipped, none, none)
        out.backward(torch.cos(values))
        grads.append(given.grad), outs.append(out)
    assert torch.equal(outs[0], outs[1]) and torch.equal(grads[0], grads[1])


def test_pact_moves_the_clip_by_what_is_above_it_only() -> None:
    values = torch.tensor([-1.0, 0.2, 5.0, 7.0])
    scale = torch.tensor(0.25, requires_grad=True)
    project_clipped(values, scale, Integers(0, 3), pact=True).backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert float(scale.grad) == 3 * (3 + 4)  # type: ignore[arg-type]


def test_a_stored_scale_is_what_fp16_holds_and_its_gradient_passes() -> None:
    parameter = torch.tensor([0.1, -0.3, 1e-9], requires_grad=True)
    scale = stored_scale(parameter, per=2.0, factor=0.5)
    assert torch.equal(scale, torch.tensor([0.05, 0.15, 2.0**-14]).half().float())
    scale.sum().backward()
    assert torch.allclose(parameter.grad, torch.tensor([0.25, -0.25, 0.25]))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["stochastic", "uniform"])
def test_noise_has_the_expectation_of_the_clipped_value(kind: str) -> None:
    torch.manual_seed(0)
    for value, expected in ((0.3, 0.3), (1.7, 1.7), (9.0, 3.0)):
        drawn = noisy(torch.full((200_000,), value), torch.tensor(1.0), UNEVEN, kind)
        assert float(drawn.mean()) == pytest.approx(expected, abs=0.01)
        if kind == "stochastic":
            assert set(drawn.unique().tolist()) <= {0.0, 1.0, 3.0}


def test_constants_of_a_rule_are_those_that_are_given() -> None:
    at, g = rounding(X), torch.ones_like(X)
    assert torch.equal(rules.rule_of("ewgs:delta=0.7")(g, at), rules.ewgs(g, at, delta=0.7))
    assert torch.equal(rules.rule_of("ewgs:delta=0")(g, at), rules.clipped(g, at))
    for wrong in ("ewgs:delta=-1", "ewgs:gamma=1", "ste:delta=1", "ewgs:delta", "ewgs:delta=nan", "dsq:a=1", "sto"):
        with pytest.raises(UsageError, match=r"estimator=.*expected a text, .*'ewgs' \(delta at least 0\)"):
            methods.get("lsq")(estimator=wrong)


def test_without_a_rate_the_projecting_rule_does_not_pull() -> None:
    x = torch.linspace(-2, 2, 9)
    at = Rounding(x, x.round(), Integers(-2, 2), torch.ones(()), torch.tensor(0.7), torch.zeros(()))
    assert torch.equal(RULES["qea-project"](torch.ones(9), at), torch.ones(9))


def test_ewgs_never_turns_a_gradient_on_any_grid() -> None:
    levels = with_signs(power_magnitudes(3))
    x = torch.linspace(levels.low, levels.high, 1001)
    at = Rounding(x, levels.nearest(x), levels, torch.ones(()), torch.zeros(()), torch.zeros(()))
    for sign in (1.0, -1.0):
        assert (ewgs(torch.full_like(x, sign), at) * sign > 0).all()
