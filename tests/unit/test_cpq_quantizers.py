"""CPQ's quantizers: the closed form against autograd over the whole table, the native module, masks, memory."""

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from tersenet.codec import native
from tersenet.methods.cpq import categorical
from tersenet.methods.cpq.categorical import Categorical, Jacobian, round_to_mode
from tersenet.methods.cpq.quantizers import NEVER, CategoricalWeight, first_step, signed_range

F64 = torch.float64


def nested(bits: int) -> tuple[tuple[int, int], ...]:
    return tuple(signed_range(b) for b in range(1, bits + 1))


def by_table(x: Tensor, by: Categorical, jacobian: Any) -> Tensor:
    """The same from the table of all r_k: autograd differentiates what the docstring says, level by level."""
    codes = torch.arange(by.ranges[-1][0], by.ranges[-1][1] + 1, dtype=x.dtype)
    ring = [next(i for i, (low, high) in enumerate(by.ranges) if low <= k <= high) for k in codes.tolist()]
    levels, sigmoid = codes * by.step, torch.sigmoid
    edges = [(levels + sign * by.step / 2 - x[:, None]) / by.sigma for sign in (1, -1)]
    left, right = sigmoid(edges[0]) - sigmoid(edges[1]), sigmoid(-edges[1]) - sigmoid(-edges[0])  # equal; one is exact
    masked = by.masks[ring] * torch.where(edges[0] > 0, right, left)
    r = masked / masked.sum(1, keepdim=True)
    hot = nn.functional.one_hot(r.argmax(1), len(codes)).to(x.dtype)
    return ((hot + (r - r.detach()) * (1 if jacobian == "full" else hot)) * levels).sum(1)


def case(masks: list[float], ranges: tuple[tuple[int, int], ...], count: int = 2000) -> tuple[Tensor, Categorical]:
    torch.manual_seed(0)
    x = torch.randn(count, dtype=F64) * 0.4 * (ranges[-1][1] - ranges[-1][0]) * 0.3
    scalars = (torch.tensor(value, dtype=F64, requires_grad=True) for value in (0.3, 0.11))
    return x.requires_grad_(), Categorical(*scalars, torch.tensor(masks, dtype=F64, requires_grad=True), ranges)


@pytest.mark.parametrize("jacobian", ["winner", "full"])
@pytest.mark.parametrize(
    ("masks", "ranges"),
    [
        ([1.0], ((-1, 0),)), ([1.0], ((-2, 1),)), ([1.0], ((-4, 3),)), ([1.0], ((-8, 7),)), ([1.0], ((0, 15),)),
        ([1.0, 0.8], nested(2)), ([1.0, 0.8, 0.3], nested(3)), ([1.0, 0.8, 0.8, 0.2], nested(4)),
        ([1.0, 1.0, 1.0, 1.0], nested(4)), ([1.0, 0.5, 0.0], nested(3)), ([1.0, 0.0, 0.0], nested(3)),
    ],
    ids=str,
)  # fmt: skip
def test_values_and_gradients_are_those_of_autograd_over_the_table(
    masks: list[float], ranges: tuple[tuple[int, int], ...], jacobian: Any
) -> None:
    x, by = case(masks, ranges)
    g, wanted = torch.randn_like(x), [x, by.step, by.sigma, by.masks]
    ours, table = round_to_mode(x, by, jacobian), by_table(x, by, jacobian)
    assert torch.allclose(ours, table, rtol=0, atol=1e-12)
    for own, theirs in zip(*(torch.autograd.grad((y * g).sum(), wanted) for y in (ours, table)), strict=True):
        assert torch.allclose(own, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gates_get_the_gradient_of_autograd_over_the_table(bits: int) -> None:
    torch.manual_seed(1)
    weight = torch.randn(50, 40, dtype=F64) * 0.3
    quantizer = CategoricalWeight(weight, bits, "winner", keep=0.9, strength=0.1).double()
    quantizer.anneal(0.0, 0.0)
    quantizer.noise.copy_(torch.linspace(-1.0, 0.2, bits - 1))  # gates between 0 and 1
    by, g = quantizer._distribution(), torch.randn(2000, dtype=F64)
    assert bool(((by.masks[1:] > 0) & (by.masks[1:] < 1)).all())
    grads = [
        torch.autograd.grad((y * g).sum(), quantizer.gates, retain_graph=True)[0]
        for y in (round_to_mode(weight, by).reshape(-1), by_table(weight.reshape(-1), by, "winner"))
    ]
    assert torch.allclose(*grads, rtol=1e-6, atol=1e-6) and bool((grads[0] != 0).all())


def test_the_gradient_at_five_offsets_changes_its_sign_in_the_middle_of_a_cell() -> None:
    x = torch.tensor([0.6, 0.8, 1.0, 1.2, 1.4], dtype=F64, requires_grad=True)
    one = torch.ones((), dtype=F64)
    round_to_mode(x, Categorical(one, one / 3, one.reshape(1), ((-128, 127),))).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, torch.tensor([0.556, 0.325, 0.0, -0.325, -0.556], dtype=F64), rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_the_gradient_in_the_zero_cell_is_exactly_zero(dtype: torch.dtype) -> None:
    x = torch.linspace(-0.49, 0.49, 99, dtype=dtype).requires_grad_()
    one = torch.ones((), dtype=dtype)
    round_to_mode(x, Categorical(one, one / 3, one.reshape(1), (signed_range(3),))).sum().backward()
    assert x.grad is not None and bool((x.grad == 0).all())


def test_all_probabilities_together_are_nearly_the_straight_through_estimator() -> None:
    x = torch.linspace(-2, 2, 401, dtype=F64).requires_grad_()
    one = torch.ones((), dtype=F64)
    round_to_mode(x, Categorical(one, one / 3, one.reshape(1), (signed_range(4),)), "full").sum().backward()
    assert x.grad is not None and float(x.grad.min()) > 0.96 and float(x.grad.max()) < 1.04


def test_straight_changes_the_gradient_of_the_values_only() -> None:
    x, by = case([1.0], ((0, 7),))
    wanted, inside = [x, by.step, by.sigma], (x >= 0) & (x <= 7 * by.step)
    straight = torch.autograd.grad(round_to_mode(x, by, "straight").sum(), wanted)
    winner = torch.autograd.grad(round_to_mode(x, by, "winner").sum(), wanted)
    assert torch.equal(straight[0], inside.to(F64)) and straight[1:] == winner[1:]


def test_gradients_vanish_far_outside_and_are_never_nan() -> None:
    for jacobian in get_args(Jacobian):
        _, by = case([1.0, 0.6, 0.0], nested(3))
        far = torch.tensor([-1e6, -40.0, 40.0, 1e6], dtype=F64, requires_grad=True)
        grads = torch.autograd.grad(round_to_mode(far, by, jacobian).sum(), [far, by.step, by.sigma, by.masks])
        assert all(bool(torch.isfinite(grad).all()) for grad in grads) and float(grads[0].abs().max()) < 1e-10


@pytest.mark.skipif(native.native() is None, reason="no native module")
@pytest.mark.parametrize(
    ("masks", "ranges"),
    [
        ([1.0], ((0, 7),)), ([1.0], ((-4, 3),)), ([1.0], ((-128, 127),)), ([1.0], ((-1, 0),)),
        ([1.0, 0.7, 0.7], nested(3)), ([1.0, 1.0, 1.0, 0.1], nested(4)), ([1.0, 0.4, 0.0], nested(3)),
        ([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], nested(8)),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("jacobian", ["winner", "straight"])
def test_the_native_module_gives_what_the_reference_gives(
    jacobian: Any, masks: list[float], ranges: tuple[tuple[int, int], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(2)
    x, g = torch.randn(10_003) * 0.2 * (ranges[-1][1] + 1), torch.randn(10_003)

    def results() -> list[Tensor]:
        given = [part.clone().requires_grad_() for part in (x, *map(torch.tensor, (0.3, 0.1, masks)))]
        rounded = round_to_mode(given[0], Categorical(*given[1:], ranges), jacobian)
        *grads, by_masks = torch.autograd.grad((rounded * g).sum(), given)
        return [rounded.detach(), *grads, by_masks[1:]]  # the first mask is 1 for good

    fast = results()
    monkeypatch.setattr(categorical, "native", lambda: None)
    for own, reference in zip(fast, results(), strict=True):
        assert torch.allclose(own, reference, rtol=1e-3, atol=2e-4 * max([0.0, *reference.abs().reshape(-1).tolist()]))


def test_the_mode_in_training_is_rounding_at_test_time() -> None:
    x, by = case([1.0], ((-4, 3),))
    masked = by._replace(masks=torch.ones(3, dtype=F64), ranges=nested(3))
    rounded = (x / by.step).round().clamp(-4, 3) * by.step
    assert torch.equal(round_to_mode(x, by), rounded) and torch.equal(round_to_mode(x, masked), rounded)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own
def test_compiling_has_no_graph_break_and_the_same_values() -> None:
    quantizer, weight = CategoricalWeight(torch.randn(64, 32), 3, "winner", 0.9), torch.randn(64, 32)
    quantizer.anneal(0.0, 0.0)
    compiled = torch.compile(quantizer, fullgraph=True, backend="eager")
    assert torch.equal(compiled(weight), quantizer(weight))


def distinct(weight: Tensor) -> int:
    return int(weight.detach().unique().numel())


def test_masks_are_drawn_once_per_tensor_and_minibatch_and_are_one_in_evaluation() -> None:
    torch.manual_seed(3)
    weights = {name: torch.randn(40, 30) for name in "ab"}
    made = {name: CategoricalWeight(weight, 3, "winner", keep=0.5) for name, weight in weights.items()}
    drawn: dict[str, list[list[float]]] = {name: [] for name in made}
    for _ in range(100):
        for name, quantizer in made.items():
            quantizer.anneal(0.0, 0.0)
            masks = quantizer._distribution().masks
            assert torch.equal(masks, quantizer._distribution().masks)  # a second use in the same minibatch
            drawn[name].append(masks.tolist())
    assert drawn["a"] != drawn["b"] and len({tuple(masks) for masks in drawn["a"]}) > 50
    closed = sum(masks[1] == 0 for masks in drawn["a"] + drawn["b"]) / 200
    assert 0.38 < closed < 0.62 and all(masks[0] == 1 and masks[2] <= masks[1] for masks in drawn["a"])
    for name, quantizer in made.items():
        quantizer.eval()
        assert quantizer._distribution().masks.tolist() == [1.0] and distinct(quantizer(weights[name])) == 8


def test_a_tensor_whose_masks_are_all_dropped_has_two_values() -> None:
    torch.manual_seed(4)
    weight = torch.randn(40, 30)
    quantizer = CategoricalWeight(weight, 4, "winner", keep=0.9)
    quantizer.noise.fill_(-50.0)
    assert distinct(quantizer(weight)) == 2
    weight.requires_grad_()
    quantizer(weight).square().sum().backward()
    assert weight.grad is not None and bool(torch.isfinite(weight.grad).all())


def test_a_gate_is_open_as_often_as_keep_says() -> None:
    quantizer = CategoricalWeight(torch.randn(40, 30), 2, "winner", keep=0.9)
    assert float(torch.sigmoid(quantizer.gates.detach() - NEVER)) == pytest.approx(0.9)


def test_the_first_step_has_the_least_squared_error_of_those_tried() -> None:
    torch.manual_seed(5)
    weight = torch.randn(2000)
    step = first_step(weight, signed_range(3))

    def error(at: Tensor) -> float:
        return float(((weight / at).round().clamp(-4, 3) * at - weight).square().sum())

    assert all(error(step) <= error(step * factor) * 1.02 for factor in (0.6, 0.8, 1.2, 1.5))
    assert first_step(torch.zeros(10), signed_range(1)) > 0


def test_the_temperature_never_falls_below_a_twentieth_of_the_step() -> None:
    quantizer = CategoricalWeight(torch.randn(40, 30), 3, "winner")
    with torch.no_grad():
        quantizer.scale.log_sigma.fill_(-90.0)
        quantizer.after_step()
        assert float(quantizer.scale.sigma / quantizer.scale.log_step.exp()) == pytest.approx(0.05)


def test_memory_of_a_step_does_not_grow_with_the_levels() -> None:
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    weight = torch.randn(300, 300, requires_grad=True)
    for bits in (2, 8):
        quantizer = CategoricalWeight(weight.detach(), bits, "winner", keep=0.9)
        quantizer.anneal(0.0, 0.0)
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            quantizer(weight)
        assert sum(tensor.numel() for tensor in saved) < weight.numel() + 200
