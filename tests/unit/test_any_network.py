"""Every consumer of data on networks of other kinds: tokens with masks, float targets, recurrent layers, no targets."""

import copy
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import tersenet
from tersenet.analysis.evaluate import evaluate
from tersenet.analysis.layer_costs import survey
from tersenet.analysis.scores import hessian
from tersenet.core.samples import Samples
from tersenet.core.task import Task
from tersenet.errors import InputError, UsageError
from tersenet.methods.vlcq import parse_shape
from tersenet.methods.vlcq.sequential import SequentialGptq
from tersenet.network.batch_norm import reestimate
from tersenet.network.calibrate import calibration, mean_loss, with_loss
from tersenet.network.layers import eval_without_grad, find_layers
from tersenet.network.output_gradients import output_sensitivity
from tersenet.network.synthesize import not_synthesised, synthesize

Forward = dict[str, Tensor | None]


class Tokens(nn.Module):
    """A small encoder of tokens in the manner of transformers: keywords in, a mapping with hidden states out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(20, 16), nn.LayerNorm(16)
        self.first, self.second, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 20)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Forward:
        mask = attention_mask.unsqueeze(-1)
        x = self.norm(self.embed(input_ids))
        x = x + (x * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        logits = self.head(x + self.second(self.first(x).relu()))
        loss = None if labels is None else F.cross_entropy(logits.mT, labels)
        return {"loss": loss, "logits": logits}


class Voice(nn.Module):
    """A recurrent encoder of frames."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.linear, self.out = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 32), nn.Linear(32, 12)

    def forward(self, frames: Tensor) -> Tensor:
        found: Tensor = self.out(self.linear(self.lstm(frames)[0][:, -1]).relu())
        return found


def sequences(extra: int = 0, labels: bool = True, n: int = 48) -> list[dict[str, Tensor]]:
    """Batches of token sequences of other lengths each, padded by `extra` more than need be."""
    generator, found = torch.Generator().manual_seed(0), []
    for length in (4, 6, 6):
        lengths = torch.randint(2, length + 1, (n // 3,), generator=generator)
        lengths[0] = length
        ids = torch.randint(1, 20, (n // 3, length), generator=generator)
        ids = F.pad(ids, (0, extra))
        mask = torch.arange(length + extra) < lengths.unsqueeze(1)
        batch = {"input_ids": ids * mask, "attention_mask": mask.long()}
        found.append(batch | ({"labels": (ids * 7 % 20).masked_fill(~mask, -100)} if labels else {}))
    return found


def token_task(extra: int = 0, labels: bool = True) -> Task:
    batches = sequences(extra, labels)
    return Task(batches, batches, batches, batches, metric=losses, higher_is_better=False, points=1,
                aggregate=lambda rows: (rows[:, 0].sum() / rows[:, 1].sum()).exp())  # fmt: skip


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([F.cross_entropy(logits.mT, labels, reduction="none").sum(1), (labels != -100).sum(1)], 1)


def pitch_task() -> Task:
    x = torch.randn(64, 24, generator=torch.Generator().manual_seed(1))
    pairs = [(part, part[:, :12].sigmoid()) for part in x.split(16)]
    return Task(pairs, pairs, pairs, pairs, loss=F.mse_loss, metric=lambda out, y: -(out - y).square().mean(1))


def voice_task() -> Task:
    x = torch.randn(48, 5, 8, generator=torch.Generator().manual_seed(2))
    batches = list(x.split(16))
    return Task(batches, batches, batches, batches, agreement="cosine")


def pitch() -> nn.Module:
    net = nn.Sequential(nn.Linear(24, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.Linear(32, 12))
    reestimate(net, pitch_task().batches("train"))
    return net


CASES: dict[str, tuple[Any, Any]] = {
    "tokens": (Tokens, token_task),
    "tokens without labels": (Tokens, lambda: token_task(labels=False)),
    "float targets": (pitch, pitch_task),
    "recurrent": (Voice, voice_task),
}


@pytest.fixture(params=CASES, ids=list(CASES))
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Task]:
    torch.manual_seed(0)
    build, task = CASES[request.param]
    return build().eval(), task()


METHODS: dict[str, dict[str, Any]] = {
    "rtn": {"bits": 8},
    "vlcq": {"calibrate": True, "images": 32, "tune": 2, "target_bits": 6.0},
    "lapq": {"bits": 8, "search": "lp", "samples": 32, "act_bits": 8},
    "lsq": {"bits": 8, "epochs": 1, "lr": 1e-4, "distill": 0.5, "act_bits": 8, "first_last": "same"},
    "accgrad": {"mode": "post", "epochs": 1, "bits": (8, 8), "lr": 1e-4, "distill": 0.5},
}


@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_method_compresses_every_kind_of_network(method: str, case: tuple[nn.Module, Task]) -> None:
    net, task = case
    if method == "accgrad" and task.validation and next(task.batches("train")).targets is None:
        task = Task(**{**vars(task), "train": [({k: v for k, v in b.items() if k != "labels"} if isinstance(b, dict)
                                                 else b, None) for b in task.split("train")]})  # fmt: skip
    small = tersenet.compress(net, method, task=task, **METHODS[method])
    found = evaluate(small.apply_to(copy.deepcopy(net)).eval(), task, reference=net)
    assert found.agreement is not None and found.drop is not None and found.agreement.mean > 0.8
    assert abs(found.drop.mean) < 0.3


@pytest.mark.parametrize("score", ["imprint", "fisher", "hessian", "sensitivity", "random"])
def test_layers_are_scored_or_the_score_says_what_it_needs(score: str, case: tuple[nn.Module, Task]) -> None:
    net, task = case
    unlabelled = next(task.batches("calibration")).targets is None
    if score == "imprint":
        with pytest.raises(InputError, match="imprinting needs the class of every sample"):
            survey(net, task, 4, score)
    elif score == "fisher" and unlabelled:
        with pytest.raises(InputError, match="fisher score needs a loss"):
            survey(net, task, 4, score)
    else:
        rows = survey(net, task, 4, score)
        assert all(math.isfinite(value) for row in rows for value in vars(row).values() if isinstance(value, float))
        assert sum(row.loss_alone for row in rows) > 0


def test_weights_of_recurrent_layers_are_left_alone_by_name(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    net, task = Voice(), voice_task()
    with caplog.at_level(logging.INFO, logger="tersenet"):
        for method in ("lsq", "lapq"):
            small = tersenet.compress(net, method, task=task, **METHODS[method])
            assert isinstance(small.tensors["lstm.weight_ih_l0"], tersenet.KeptTensor)
    assert caplog.text.count("lstm.weight_ih_l0") == 2


@pytest.mark.filterwarnings("ignore:.*so no inputs can be synthesised")
def test_auto_and_budgets_take_any_network(tmp_path: Path, case: tuple[nn.Module, Task]) -> None:
    net, task = case
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    found = tersenet.auto(tmp_path / "net.safetensors", tmp_path / "net.terse", module=net, task=task, max_drop=1e3)
    assert found.holds and found.test is not None and found.best.bytes < 1e5


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_networks_of_16_bits_are_judged_scored_and_compressed(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    net, task = Tokens().to(kind).eval(), token_task()
    for method in ("vlcq", "lapq"):
        small = tersenet.compress(net, method, task=task, **METHODS[method])
        assert small.tensors["first.weight"].dequantize().dtype == kind
        found = evaluate(small.apply_to(copy.deepcopy(net)), task, reference=net)
        assert found.agreement is not None and found.agreement.mean > 0.8
    assert all(math.isfinite(row.score) for row in survey(net, task, 4, "hessian"))


def test_padding_counts_in_no_loss_hessian_sensitivity_or_moment() -> None:
    torch.manual_seed(0)
    net = Tokens().eval()

    def numbers(extra: int) -> list[Tensor]:
        task = token_task(extra)
        batches = calibration(task, 48)
        samples = Samples(batches)
        with eval_without_grad(net):
            layers = find_layers(net, batches[0])
        found = evaluate(net, task, reference=copy.deepcopy(net).requires_grad_(False))
        quantizer = SequentialGptq(net, samples, lambda name: True, lambda norm, s: None, 0)
        own = [torch.tensor(mean_loss(net, batches)), torch.tensor([found.metric.mean, found.metric.low])]  # type: ignore[union-attr]
        own += [torch.tensor(list(hessian(net, ["first.weight", "head.weight"], batches).values()))]
        own += list(output_sensitivity(net, layers, samples).values())
        return [*own, torch.tensor(list(quantizer.units.values()))]

    for one, two in zip(numbers(0), numbers(5), strict=True):
        assert torch.allclose(one.double(), two.double(), rtol=1e-4)


def test_without_targets_the_loss_is_the_distance_to_the_original() -> None:
    torch.manual_seed(0)
    net, task = Voice().eval(), voice_task()
    batches = with_loss(net, calibration(task, 48))
    assert mean_loss(net, batches) == 0
    with torch.no_grad():
        net.out.weight.mul_(1.5)
    assert mean_loss(net, batches) > 0.01
    labelled = calibration(pitch_task(), 8)
    assert with_loss(pitch(), labelled) == labelled


def test_integer_inputs_are_never_synthesised() -> None:
    net = nn.Sequential(nn.Embedding(300, 16), nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32)).eval()
    assert "takes integers" in (not_synthesised(net) or "")
    with pytest.raises(InputError, match="takes integers"):
        synthesize(net, 2, (4,))
    with pytest.warns(UserWarning, match="takes integers"):
        tersenet.compress(net, "vlcq")


@pytest.mark.parametrize(("text", "shape"), [("3x32x32", (3, 32, 32)), ("1024", (1024,)), ("160x40", (160, 40))])
def test_a_shape_is_of_anything(text: str, shape: tuple[int, ...]) -> None:
    assert parse_shape(text) == shape


@pytest.mark.parametrize("text", ["", "3x", "0x3", "-3x4", "axb", "3,4", "1.5"])
def test_a_shape_that_is_none_shows_what_one_looks_like(text: str) -> None:
    with pytest.raises(UsageError, match="160x40"):
        parse_shape(text)


def test_inputs_of_another_shape_are_synthesised() -> None:
    small = tersenet.compress(pitch().eval(), "vlcq", input_shape="24", images=16, synthesis_steps=5)
    assert small.tensors["0.weight"].shape == (32, 24)


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
