"""CPQ: the closed form against autograd over the whole table, masks, learned widths, and what a run leaves behind."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tersenet
from tersenet import methods
from tersenet.cli import main
from tersenet.codec import native
from tersenet.core.method import Job, RunFolder
from tersenet.core.task import Task
from tersenet.errors import InputError, UsageError
from tersenet.files.checkpoint import open_module
from tersenet.methods.cpq import Cpq, categorical, weights_of
from tersenet.methods.cpq.categorical import Categorical, round_to_mode
from tersenet.methods.cpq.quantizers import NEVER, CategoricalWeight, first_step, signed_range

F64 = torch.float64


def nested(bits: int) -> tuple[tuple[int, int], ...]:
    return tuple(signed_range(b) for b in range(1, bits + 1))


def by_table(x: Tensor, by: Categorical, full: bool) -> Tensor:
    """The same from the table of all r_k: autograd differentiates what the docstring says, level by level."""
    codes = torch.arange(by.ranges[-1][0], by.ranges[-1][1] + 1, dtype=x.dtype)
    ring = [next(i for i, (low, high) in enumerate(by.ranges) if low <= k <= high) for k in codes.tolist()]
    levels, sigmoid = codes * by.step, torch.sigmoid
    edges = [(levels + sign * by.step / 2 - x[:, None]) / by.sigma for sign in (1, -1)]
    left, right = sigmoid(edges[0]) - sigmoid(edges[1]), sigmoid(-edges[1]) - sigmoid(-edges[0])  # equal; one is exact
    masked = by.masks[ring] * torch.where(edges[0] > 0, right, left)
    r = masked / masked.sum(1, keepdim=True)
    hot = nn.functional.one_hot(r.argmax(1), len(codes)).to(x.dtype)
    return ((hot + (r - r.detach()) * (1 if full else hot)) * levels).sum(1)


def case(masks: list[float], ranges: tuple[tuple[int, int], ...], count: int = 2000) -> tuple[Tensor, Categorical]:
    torch.manual_seed(0)
    x = torch.randn(count, dtype=F64) * 0.4 * (ranges[-1][1] - ranges[-1][0]) * 0.3
    scalars = (torch.tensor(value, dtype=F64, requires_grad=True) for value in (0.3, 0.11))
    return x.requires_grad_(), Categorical(*scalars, torch.tensor(masks, dtype=F64, requires_grad=True), ranges)


@pytest.mark.parametrize("full", [False, True], ids=["winner", "full"])
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
    masks: list[float], ranges: tuple[tuple[int, int], ...], full: bool
) -> None:
    x, by = case(masks, ranges)
    g, wanted = torch.randn_like(x), [x, by.step, by.sigma, by.masks]
    ours, table = round_to_mode(x, by, full), by_table(x, by, full)
    assert torch.allclose(ours, table, rtol=0, atol=1e-12)
    for own, theirs in zip(*(torch.autograd.grad((y * g).sum(), wanted) for y in (ours, table)), strict=True):
        assert torch.allclose(own, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gates_get_the_gradient_of_autograd_over_the_table(bits: int) -> None:
    torch.manual_seed(1)
    weight = torch.randn(50, 40, dtype=F64) * 0.3
    quantizer = CategoricalWeight(weight, bits, full=False, keep=0.9, strength=0.1).double()
    quantizer.anneal(0.0, 0.0)
    quantizer.noise.copy_(torch.linspace(-1.0, 0.2, bits - 1))  # gates between 0 and 1
    by, g = quantizer._distribution(), torch.randn(2000, dtype=F64)
    assert bool(((by.masks[1:] > 0) & (by.masks[1:] < 1)).all())
    grads = [
        torch.autograd.grad((y * g).sum(), quantizer.gates, retain_graph=True)[0]
        for y in (round_to_mode(weight, by).reshape(-1), by_table(weight.reshape(-1), by, False))
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
    round_to_mode(x, Categorical(one, one / 3, one.reshape(1), (signed_range(4),)), full=True).sum().backward()
    assert x.grad is not None and float(x.grad.min()) > 0.96 and float(x.grad.max()) < 1.04


def test_gradients_vanish_far_outside_and_are_never_nan() -> None:
    for full in (False, True):
        _, by = case([1.0, 0.6, 0.0], nested(3))
        far = torch.tensor([-1e6, -40.0, 40.0, 1e6], dtype=F64, requires_grad=True)
        grads = torch.autograd.grad(round_to_mode(far, by, full).sum(), [far, by.step, by.sigma, by.masks])
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
def test_the_native_module_gives_what_the_reference_gives(
    masks: list[float], ranges: tuple[tuple[int, int], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(2)
    x, g = torch.randn(10_003) * 0.2 * (ranges[-1][1] + 1), torch.randn(10_003)

    def results() -> list[Tensor]:
        given = [part.clone().requires_grad_() for part in (x, *map(torch.tensor, (0.3, 0.1, masks)))]
        rounded = round_to_mode(given[0], Categorical(*given[1:], ranges))
        return [rounded.detach(), *torch.autograd.grad((rounded * g).sum(), given)]

    fast = results()
    monkeypatch.setattr(categorical, "native", lambda: None)
    for own, reference in zip(fast, results(), strict=True):
        assert torch.allclose(own, reference, rtol=1e-3, atol=1e-5 + 2e-4 * float(reference.abs().max()))


def test_the_mode_in_training_is_rounding_at_test_time() -> None:
    x, by = case([1.0], ((-4, 3),))
    masked = by._replace(masks=torch.ones(3, dtype=F64), ranges=nested(3))
    rounded = (x / by.step).round().clamp(-4, 3) * by.step
    assert torch.equal(round_to_mode(x, by), rounded) and torch.equal(round_to_mode(x, masked), rounded)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own
def test_compiling_has_no_graph_break_and_the_same_values() -> None:
    quantizer, weight = CategoricalWeight(torch.randn(64, 32), 3, False, 0.9), torch.randn(64, 32)
    quantizer.anneal(0.0, 0.0)
    compiled = torch.compile(quantizer, fullgraph=True, backend="eager")
    assert torch.equal(compiled(weight), quantizer(weight))


def distinct(weight: Tensor) -> int:
    return int(weight.detach().unique().numel())


def test_masks_are_drawn_once_per_tensor_and_minibatch_and_are_one_in_evaluation() -> None:
    torch.manual_seed(3)
    weights = {name: torch.randn(40, 30) for name in "ab"}
    made = {name: CategoricalWeight(weight, 3, False, keep=0.5) for name, weight in weights.items()}
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
    quantizer = CategoricalWeight(weight, 4, False, keep=0.9)
    quantizer.noise.fill_(-50.0)
    assert distinct(quantizer(weight)) == 2
    weight.requires_grad_()
    quantizer(weight).square().sum().backward()
    assert weight.grad is not None and bool(torch.isfinite(weight.grad).all())


def test_a_gate_is_open_as_often_as_keep_says() -> None:
    quantizer = CategoricalWeight(torch.randn(40, 30), 2, False, keep=0.9)
    assert float(torch.sigmoid(quantizer.gates.detach() - NEVER)) == pytest.approx(0.9)


def test_the_first_step_has_the_least_squared_error_of_those_tried() -> None:
    torch.manual_seed(5)
    weight = torch.randn(2000)
    step = first_step(weight, signed_range(3))

    def error(at: Tensor) -> float:
        return float(((weight / at).round().clamp(-4, 3) * at - weight).square().sum())

    assert all(error(step) <= error(step * factor) * 1.02 for factor in (0.6, 0.8, 1.2, 1.5))
    assert first_step(torch.zeros(10), signed_range(1)) > 0


def compress(network: nn.Module, task: Task, **fields: Any) -> Any:
    return tersenet.compress(copy.deepcopy(network), "cpq", task=task, **fields)


def widths(small: Any) -> list[int]:
    return list(small.provenance["cpq"]["bits"].values())


def test_a_large_penalty_leaves_one_bit_and_none_all(network: nn.Module, task: Task) -> None:
    fields: dict[str, Any] = {"bits": 3, "heterogeneous": True, "epochs": 2, "lr": 0.02}
    many = compress(network, task, **fields, penalty=0.0)
    few = compress(network, task, **fields, penalty=1e5, clip_grad=0.0)
    assert widths(many) == [3, 3, 3, 3] and widths(few) == [1, 1, 1, 1]
    assert {distinct(few.tensors[name].dequantize()) for name in few.provenance["cpq"]["bits"]} <= {1, 2}


@pytest.fixture
def learned(network: nn.Module, task: Task, tmp_path: Path) -> tuple[Any, Path]:
    """A run with learned widths that differ, and its folder."""
    method = Cpq(bits=3, heterogeneous=True, penalty=30.0, epochs=3, refine=1, lr=0.02)
    source = open_module(network)
    job = Job(source, network, task.for_method(), RunFolder(tmp_path / "run"))
    return method.model(source, method.compress(job)), tmp_path / "run"


def test_learned_widths_are_in_the_codes_the_provenance_and_a_file_of_bits(
    learned: tuple[Any, Path], checkpoint: Path, tmp_path: Path
) -> None:
    small, run = learned
    bits = json.loads((run / "layer_bits.json").read_text())["layer_bits"]
    assert bits == small.provenance["cpq"]["bits"] and len(set(bits.values())) > 1
    for name, width in bits.items():
        codes = small.tensors[name].codes
        low, high = signed_range(width)
        assert low <= int(codes.min()) and int(codes.max()) <= high
    sizes = {name: small.tensors[name].codes.numel() for name in bits}
    mean = sum(bits[name] * size for name, size in sizes.items()) / sum(sizes.values())
    assert small.provenance["cpq"]["average"] == pytest.approx(mean, abs=1e-4)
    with pytest.raises(SystemExit) as ended:  # the control
        main(["compress", str(checkpoint), "-o", str(tmp_path / "o.terse"), "--model", "digits", "--task", "digits",
              "--method", "cpq", "--epochs", "0", "--layer-bits", str(run / "layer_bits.json")])  # fmt: skip
    assert not ended.value.code
    control = tersenet.load(tmp_path / "o.terse")
    assert control.provenance["fields"]["layer_bits"] == bits and "cpq" not in control.provenance
    assert all(int(control.tensors[name].codes.min()) >= signed_range(width)[0] for name, width in bits.items())  # type: ignore[union-attr]


def test_widths_stay_and_gates_rest_while_it_refines(network: nn.Module, task: Task) -> None:
    seen: list[tuple[list[int], list[bool], list[int]]] = []

    class Watching(Cpq):
        def after_step(self, network: nn.Module) -> None:
            found = weights_of(network).values()
            masks = [each._distribution().masks.numel() for each in found]
            seen.append(([each.bits for each in found], [each.gates.requires_grad for each in found], masks))

    method = Watching(bits=3, heterogeneous=True, penalty=30.0, epochs=2, refine=2, lr=0.02)
    list(method.compress(Job(open_module(network), network, task.for_method())))
    first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert all(all(learns) and set(masks) == {3} for _, learns, masks in first)
    assert all(bits == second[0][0] and not any(learns) and set(masks) == {1} for bits, learns, masks in second)


def test_what_layer_bits_names_keeps_its_width_while_others_learn(network: nn.Module, task: Task) -> None:
    small = compress(network, task, bits=3, heterogeneous=True, penalty=1e5, epochs=2, lr=0.02, clip_grad=0.0,
                     layer_bits={"conv2.weight": 2})  # fmt: skip
    assert small.provenance["cpq"]["bits"]["conv2.weight"] == 2 and sorted(widths(small)) == [1, 1, 1, 2]


def test_inputs_learn_step_and_temperature_and_freeze_to_what_was_trained(network: nn.Module, task: Task) -> None:
    inputs, targets = next(iter(task.split("train")))
    net = tersenet.attach(network, "cpq", [inputs], bits=3, act_bits=3, dropbits=True, heterogeneous=True)
    groups = tersenet.param_groups(net, lr=0.01)
    assert {round(group["lr"], 6) for group in groups} == {0.01, 0.001, 0.1}
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    reached: dict[str, float] = {}
    net.train()
    for step in range(4):
        tersenet.anneal(net, step / 4, 0.1)
        (nn.functional.cross_entropy(net(inputs), targets) + tersenet.penalty(net)).backward()
        for name, value in net.named_parameters():
            assert value.grad is not None, name
            reached[name] = max(reached.get(name, 0.0), float(value.grad.abs().max()))
        optimizer.step()
        optimizer.zero_grad()
        tersenet.after_step(net)
    for kind, count in (("log_step", 8), ("log_sigma", 8), ("gates", 4)):
        grads = [size for name, size in reached.items() if name.endswith(kind)]
        assert len(grads) == count and all(grads), kind
    small = tersenet.freeze(net, [inputs])
    assert len(small.activations) == 4
    with torch.no_grad():
        trained = net(inputs * 1.5)
        assert torch.equal(small.apply_to(tersenet.detach(net)).eval()(inputs * 1.5), trained)


def test_the_temperature_never_falls_below_a_twentieth_of_the_step() -> None:
    quantizer = CategoricalWeight(torch.randn(40, 30), 3, False)
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
        quantizer = CategoricalWeight(weight.detach(), bits, False, keep=0.9)
        quantizer.anneal(0.0, 0.0)
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            quantizer(weight)
        assert sum(tensor.numel() for tensor in saved) < weight.numel() + 200


def bad(fields: dict[str, Any], words: str) -> Any:
    return pytest.param(fields, words, id=words)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        bad({"bits": 9}, "bits=9: expected an integer, 1 to 8 or 32"),
        bad({"act_bits": 1}, "act_bits=1"),
        bad({"layer_bits": {"*": 12}}, "12 bits; expected 1 to 8"),
        bad({"penalty": -0.1}, "penalty=-0.1"),
        bad({"keep": 1.0}, "keep=1.0"),
        bad({"heterogeneous": True, "bits": 32}, "chooses widths up to that; expected 2 to 8"),
        bad({"jacobian": "argmax"}, "'winner' or 'full'"),
        bad({"bn": "fold"}, "cannot be trained"),
    ],
)
def test_fields_that_cannot_be_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        Cpq(**fields)


def test_nan_and_a_missing_task_and_nothing_to_learn_are_said(network: nn.Module, task: Task) -> None:
    with pytest.raises(UsageError, match="cpq trains: give"):
        tersenet.compress(network, "cpq")
    with pytest.raises(UsageError, match="leave out heterogeneous"):
        compress(network, task, heterogeneous=True, layer_bits={"*": 3}, epochs=1)
    with torch.no_grad():
        network.conv2.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises((InputError, UsageError), match=r"conv2\.weight"):
        compress(network, task, epochs=1)


def test_the_knob_is_bits_or_the_penalty_where_bits_are_learned() -> None:
    fixed, learns = Cpq(epochs=3), Cpq(epochs=3, heterogeneous=True)
    assert (fixed.knob.field, fixed.untrained) == ("bits", Cpq(epochs=0))
    assert (learns.knob.field, learns.untrained) == ("penalty", None)
    assert list(learns.knob.values) == sorted(learns.knob.values) and learns.at(0.07).penalty == 0.07  # type: ignore[attr-defined]


class Stopped(Exception):
    """Raised in the middle of a training."""


class Batches:
    """Batches in a new order every round, that fail at number `at`."""

    def __init__(self, batches: list[Any], at: int) -> None:
        self.batches, self.left = batches, at

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for i in torch.randperm(len(self.batches)).tolist():
            self.left -= 1
            if self.left == 0:
                raise Stopped
            yield self.batches[i]


@pytest.mark.parametrize("fields", [{"dropbits": True, "act_bits": 3}, {"heterogeneous": True, "refine": 1}], ids=str)
def test_a_stopped_training_goes_on_to_the_same_bytes(
    fields: dict[str, Any], network: nn.Module, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tersenet.training.run.EVERY", 0.0)
    batches = [(inputs[:32], targets[:32]) for inputs, targets in task.split("train")]
    source, method = open_module(network), methods.get("cpq")(bits=3, epochs=2, **fields)

    def result(folder: str, stop: int, resume: bool) -> bytes:
        given = replace(task.for_method(), train=Batches(batches, stop))
        job = Job(source, network, given, RunFolder(tmp_path / folder, resume))
        tersenet.save(method.model(source, method.compress(job)), tmp_path / f"{folder}.terse", force=True)
        return (tmp_path / f"{folder}.terse").read_bytes()

    whole, steps = result("whole", -1, False), len(batches)
    for at in (steps + 12, 2 * steps + 11 if "refine" in fields else steps + 14):
        with pytest.raises(Stopped):
            result(f"stopped at {at}", at, False)
        assert result(f"stopped at {at}", -1, True) == whole
    assert result("whole", -1, True) == whole
