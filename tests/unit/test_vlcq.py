"""vlcq: the closed form is GPTQ's feedback, budgets hold on disk, the network's code helps, and odd networks work."""

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tersenet
from tersenet.analysis.evaluate import evaluate
from tersenet.api import open_inputs
from tersenet.core.method import Job
from tersenet.core.model import Entry
from tersenet.core.task import Task
from tersenet.errors import BudgetError, UsageError, WeightError
from tersenet.files.summary import summarize
from tersenet.methods import get
from tersenet.methods.vlcq.data_free_feedback import Prior, _reference, feedback, round_with_feedback
from tersenet.methods.vlcq.entropy import entropy, rounded_entropy, solve_step
from tersenet.network.gptq import inverse_factor, match_outputs, round_compensated
from tersenet.network.layers import patches


def gauss(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


PRIORS = {"plain": Prior(), "filter": Prior(4.0, 0.9, 0.0), "both": Prior(3.0, 0.7, 0.2), "none": Prior(0.0, 1.0, 0.0)}


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize(("columns", "kernel"), [(36, 9), (40, 1), (12, 4)])
def test_the_coefficients_are_the_feedback_of_the_dense_hessian(columns: int, kernel: int, prior: str) -> None:
    given = PRIORS[prior]
    a = given.kernel if kernel > 1 else 0.0
    place = torch.arange(kernel, dtype=torch.float64)
    alike = given.decay ** (place - place.unsqueeze(1)).abs()
    blocks = torch.kron(torch.eye(columns // kernel, dtype=torch.float64), alike)
    dense = torch.eye(columns) + a * blocks + given.mean * torch.ones(columns, columns)
    weight = gauss(30, columns) * 0.1
    expected = round_compensated(weight, inverse_factor(dense, 1e-13), 0.05)
    assert (round_with_feedback(weight, 0.05, kernel, given) != expected).float().mean() < 0.002  # ties in fp32


@pytest.mark.parametrize("prior", PRIORS)
def test_native_and_reference_feedback_round_alike(prior: str) -> None:
    weight, given = gauss(37, 63).numpy(), PRIORS[prior]
    ours = round_with_feedback(torch.from_numpy(weight), 0.1, 9, given).numpy()
    assert (ours == _reference(weight, 0.1, 9, given.decay, *feedback(63, 9, given))).all()


def test_feedback_keeps_the_sums_of_kernels_and_rows_small() -> None:
    weight = gauss(50, 90)
    error = weight - round_with_feedback(weight, 0.5, 9) * 0.5
    plain = weight - torch.round(weight / 0.5) * 0.5
    assert error.sum(1).abs().mean() < 0.4 * plain.sum(1).abs().mean()
    assert error.unflatten(1, (10, 9)).sum(2).abs().mean() < 0.6 * plain.unflatten(1, (10, 9)).sum(2).abs().mean()


def test_compensation_lowers_the_output_error_and_retargeting_recovers_a_drift() -> None:
    inputs = gauss(500, 24) @ gauss(24, 24, seed=1) * 0.3
    weight = gauss(10, 24, seed=2)
    factor = inverse_factor(inputs.T @ inputs / 500)
    errors = [
        ((codes * 0.4 - weight) @ inputs.T).square().mean()
        for codes in (round_compensated(weight, factor, 0.4), torch.round(weight / 0.4))
    ]
    assert errors[0] < 0.6 * errors[1]
    drifted = inputs * 1.3
    new = match_outputs(weight, drifted.T @ drifted, (inputs - drifted).T @ drifted, 1e-9)
    assert torch.allclose(new, weight / 1.3, atol=1e-3)


def test_rates_are_entropies_and_the_step_for_a_rate_is_found() -> None:
    assert entropy(torch.tensor([0, 1, 2, 3] * 5)) == 2
    assert entropy(torch.zeros(9)) == 0
    sample = gauss(20_000)
    step = solve_step(lambda c: rounded_entropy(sample, c), 3.0)
    assert step == pytest.approx(0.5176, rel=0.02)  # h(N) - log2(step) = 2.047 - log2(step) = 3
    assert rounded_entropy(sample, step) <= 3


@pytest.mark.parametrize("groups", [1, 4, 8], ids=["dense", "grouped", "depthwise"])
def test_patches_times_rows_is_the_convolution(groups: int) -> None:
    part = nn.Conv2d(8, 16, 3, stride=2, padding=1, dilation=1, groups=groups, bias=False)
    x = gauss(2, 8, 9, 9)
    columns = patches(part, x)
    rows = part.weight.flatten(1).reshape(groups, 16 // groups, -1)
    y = (columns @ rows.mT).reshape(groups, 2, 25, -1).permute(1, 0, 3, 2).reshape(2, 16, 5, 5)
    assert torch.allclose(y, part(x), atol=1e-5)


@pytest.mark.parametrize("limit", [9_000, 15_000, 30_000])
def test_the_file_is_never_larger_than_max_bytes_and_uses_them(checkpoint: Path, limit: int, tmp_path: Path) -> None:
    size = tersenet.save(tersenet.compress(checkpoint, "vlcq", max_bytes=limit), tmp_path / "x.terse")
    assert 0.97 * limit <= size <= limit == limit and (tmp_path / "x.terse").stat().st_size == size


@pytest.mark.parametrize("rate", [0.8, 2.0, 5.0])
def test_the_rate_on_disk_is_at_most_target_bits_and_close(checkpoint: Path, rate: float, tmp_path: Path) -> None:
    tersenet.save(tersenet.compress(checkpoint, "vlcq", target_bits=rate), tmp_path / "x.terse")
    assert 0.95 * rate <= summarize(tmp_path / "x.terse").bits_per_weight <= rate + 0.02


def test_a_budget_that_cannot_be_met_says_how_near_it_came(checkpoint: Path) -> None:
    with pytest.raises(BudgetError, match=r"500 bytes cannot be met") as caught:
        tersenet.compress(checkpoint, "vlcq", max_bytes=500)
    assert caught.value.nearest is not None and caught.value.nearest > 500


@pytest.mark.filterwarnings("ignore:bn='scale-shift' takes eps")
@pytest.mark.parametrize("bn", ["keep", "scale-shift", "fold"])
def test_the_networks_code_helps_at_equal_bytes(checkpoint: Path, network: nn.Module, task: Task, bn: str) -> None:
    reference, errors = copy.deepcopy(network), []
    inputs = torch.cat([x for x, _ in task.split("test")])
    for module in (None, network):
        if module is None and bn == "fold":
            continue
        small = tersenet.compress(
            checkpoint, "vlcq", module=module, target_bits=1.5, bn=bn, images=16, synthesis_steps=20
        )
        decoded = small.apply_to(copy.deepcopy(reference))
        with torch.no_grad():
            errors.append(float((decoded(inputs) - reference(inputs)).square().mean()))
        assert evaluate(decoded, task, reference=reference).agreement.mean > 0.9
    assert errors[-1] < errors[0] or bn == "fold"


def test_folding_leaves_batch_norm_only_a_shift(checkpoint: Path, network: nn.Module) -> None:
    small = tersenet.compress(
        checkpoint, "vlcq", module=network, bn="fold", images=16, synthesis_steps=5, target_bits=6
    )
    state = small.state_dict()
    assert torch.allclose(state["bn1.weight"], torch.ones(32), atol=1e-3)
    assert torch.equal(state["bn1.running_mean"], torch.zeros(32))


def test_calibration_images_replace_synthesis_only_when_asked(checkpoint: Path, network: nn.Module, task: Task) -> None:
    small = tersenet.compress(checkpoint, "vlcq", module=network, task=task, calibrate=True, target_bits=2, images=32)
    assert evaluate(small.apply_to(copy.deepcopy(network)), task, reference=network).agreement.mean > 0.95
    with pytest.raises(UsageError, match="task="):
        tersenet.compress(checkpoint, "vlcq", module=network, calibrate=True)


def test_compressing_does_not_change_the_users_network(network: nn.Module) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    tersenet.compress(network, "vlcq", target_bits=2, images=16, synthesis_steps=5)
    assert network.training and all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_embeddings_transposed_convolutions_and_tied_weights_survive() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(50, 16)
            self.up = nn.ConvTranspose1d(16, 8, 4)
            self.head = nn.Linear(16, 50, bias=False)
            self.head.weight = self.embed.weight

    net = Odd()
    warnings.simplefilter("ignore", UserWarning)
    for method, fields in (("vlcq", {"target_bits": 6}), ("rtn", {"bits": 8})):
        small = tersenet.compress(net, method, **fields)
        assert small.aliases == {"head.weight": "embed.weight"}
        back = small.apply_to(Odd())
        assert back.head.weight is back.embed.weight
        assert torch.allclose(back.up.weight, net.up.weight, atol=0.05)


def test_bad_weights_and_contradicting_options_are_refused(network: nn.Module) -> None:
    with pytest.raises(UsageError, match="give one of"):
        tersenet.compress(network, "vlcq", target_bits=2, max_bytes=1000)
    with torch.no_grad():
        network.conv2.weight[1, 2, 0, 1] = float("nan")
    with pytest.raises(WeightError, match=r"conv2\.weight has nan at \[1, 2, 0, 1\]"):
        tersenet.compress(network, "vlcq", exclude=("conv1*",))


def test_a_nominal_rate_is_that_of_plain_rounding_and_the_same_file_whatever_was_made_before(
    network: nn.Module, task: Task, tmp_path: Path
) -> None:
    source, module = open_inputs(network, network)
    method = get("vlcq")(calibrate=True, images=64)
    pieces = method.prepare(Job(source, module, task))
    sizes: list[int] = []
    first: dict[str, Entry] = {}
    for bits in (4.0, 0.5, 4.0):
        wanted = method.at(bits)
        model = wanted.model(source, pieces(wanted))
        first = first or dict(model.tensors)
        sizes.append(tersenet.save(model, tmp_path / "x.terse", overwrite=True))
    assert all(torch.equal(entry.dequantize(), model.tensors[name].dequantize()) for name, entry in first.items())
    weights = sum(p.numel() for p in network.parameters() if p.dim() > 1)
    assert 0.95 * 4 < 8 * (sizes[0] - 1_500) / weights < 1.05 * 4 and sizes[1] < sizes[0] / 3


def test_a_larger_budget_is_never_a_worse_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 256) / 16
    save_file({"w": weight}, tmp_path / "w.safetensors")
    errors = []
    for size in (6_000, 20_000, 60_000, 200_000, 2_000_000):
        small = tersenet.compress(tmp_path / "w.safetensors", "vlcq", max_bytes=size)
        assert tersenet.save(small, tmp_path / "w.terse", overwrite=True) <= size
        errors.append(float((tersenet.load(tmp_path / "w.terse").state_dict()["w"] - weight).norm()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-4


def test_a_budget_holds_where_nothing_can_be_quantised() -> None:
    with pytest.raises(BudgetError, match="nothing to quantise"):
        tersenet.compress(nn.Linear(3, 3), "vlcq", max_bytes=100)


def test_compress_works_inside_no_grad(network: nn.Module) -> None:
    fields: dict[str, Any] = {"images": 4, "synthesis_steps": 2}
    with torch.no_grad():
        inside = tersenet.compress(network, "vlcq", **fields).state_dict()
    outside = tersenet.compress(network, "vlcq", **fields).state_dict()
    assert all(torch.equal(inside[name], value) for name, value in outside.items())
