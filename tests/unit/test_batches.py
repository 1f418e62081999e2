"""A batch is whatever a loader yields; padding counts nowhere; every consumer goes through one place."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersenet.core.batch import Batch, run
from tersenet.core.likeness import alike, distance, feature_axis
from tersenet.core.nested import hash_of_tensors
from tersenet.core.samples import Samples
from tersenet.core.task import Task, accuracy
from tersenet.errors import InputError, UsageError


def only(task: Task) -> Batch:
    return next(task.batches("test"))


class Add(nn.Module):
    """Two inputs, positional or by name."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.linear(a + b)


A, B = torch.randn(4, 3), torch.randn(4, 3)
LABELS = torch.tensor([0, 1, 1, 0])


@pytest.mark.parametrize("batch", [
    ((A, B), LABELS), ([A, B], LABELS), ({"a": A, "b": B}, LABELS), {"a": A, "b": B, "labels": LABELS},
    OrderedDict(a=A, b=B, labels=LABELS), ((A.numpy(), B.numpy()), LABELS.numpy()), ((A.double(), B), LABELS),
], ids=["tuple", "list", "mapping", "labels inside", "ordered", "numpy", "double"])  # fmt: skip
def test_the_same_samples_are_the_same_in_any_form(batch: Any) -> None:
    net, found = Add(), only(Task(test=[batch]))
    assert len(found) == 4 and torch.equal(found.targets, LABELS)
    assert torch.equal(found.outputs(net), net(A, B))
    assert torch.equal(found.first(2).outputs(net), net(A[:2], B[:2]))
    assert float(found.loss(found.run(net))[0].detach()) == float(F.cross_entropy(net(A, B), LABELS).detach())


@pytest.mark.parametrize(
    "batch", [A, [A], (A,), (A, None), A.numpy()], ids=["tensor", "list", "tuple", "none", "numpy"]
)
def test_inputs_may_come_alone(batch: Any) -> None:
    found = only(Task(test=[batch]))
    assert found.targets is None and torch.equal(found.inputs, A)


def test_what_cannot_be_taken_apart_says_what_may_be_given() -> None:
    with pytest.raises(InputError, match=r"gave 3 parts.*\(\(a, b\), targets\)"):
        only(Task(test=[(A, B, LABELS)]))
    with pytest.raises(InputError, match="without a tensor"):
        only(Task(test=[(["a", "b"], LABELS)]))
    with pytest.raises(InputError, match=r"Add does not take this batch, \(a, c\)"):
        only(Task(test=[{"a": A, "c": B}])).run(Add())
    with pytest.raises(UsageError, match="agreement is 'cosinus'"):
        Task(agreement="cosinus")  # type: ignore[arg-type]


def test_a_task_may_say_how_a_batch_is_run() -> None:
    task = Task(test=[(["aa", "b"], torch.tensor([0, 1]))], forward=lambda net, texts: net(lengths(texts)))
    assert only(task).outputs(nn.Linear(1, 2)).shape == (2, 2)


def lengths(texts: Any) -> Tensor:
    return torch.tensor([[float(len(text))] for text in texts])


@dataclass
class Output:
    """Like a ModelOutput that is a dataclass."""

    loss: Tensor | None
    logits: Tensor
    hidden: Tensor


def test_the_logits_of_a_structured_output_are_seen_else_its_first_tensor_with_samples() -> None:
    class Net(nn.Module):
        def forward(self, kind: str, x: Tensor) -> Any:
            full = Output(x.sum(), x + 1, x)
            return {"data": full, "dict": vars(full), "tuple": (x.sum(), x + 1), "hidden": {"states": [x + 1]}}[kind]

    for kind in ("data", "dict", "tuple", "hidden"):
        assert torch.equal(only(Task(test=[((kind, A), None)])).outputs(Net()), A + 1)
    picked = Task(test=[(("data", A), None)], output=lambda returned: returned.hidden)
    assert torch.equal(only(picked).outputs(Net()), A)


def test_the_networks_own_loss_is_the_loss_where_the_task_names_none() -> None:
    raw = Output(torch.tensor(7.0), torch.eye(4)[:, :2], A)
    for task, expected in ((Task(), 7.0), (Task(loss=lambda out, y: out.sum()), 2.0)):
        assert float(Batch(A, LABELS, task).loss(raw)[0]) == expected
    assert float(Batch(A, None, Task(loss=F.mse_loss)).loss(raw)[0]) == 7.0
    with pytest.raises(InputError, match="no targets and the network returns no loss"):
        Batch(A, None, Task()).loss(A)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_floats_are_given_in_the_networks_precision_and_judged_in_fp32(kind: torch.dtype) -> None:
    net = Add().to(kind)
    found = only(Task(test=[((A, B), LABELS)]))
    assert found.run(net).dtype == kind and found.outputs(net).dtype == torch.float32
    assert run(nn.Embedding(9, 2).to(kind), torch.tensor([[1, 2]])).dtype == kind  # integers stay integers


def padded(extra: int, inside: bool = True, mask: bool = True) -> tuple[Tensor, Batch]:
    """Token outputs of two sequences, 3 and 5 long, with `extra` more padding; what is in the padding is nonsense."""
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(2, 5, 7, generator=generator)
    lengths = torch.tensor([3, 5])
    outputs = torch.cat([outputs, torch.full((2, extra, 7), 1e4)], 1)
    real = torch.arange(5 + extra) < lengths.unsqueeze(1)
    outputs[~real] = 1e4 * torch.randn(int((~real).sum()), 7)
    tokens = torch.ones(2, 5 + extra, dtype=torch.long)
    labels = torch.where(real, torch.arange(5 + extra) % 7, -100)
    inputs = {"input_ids": tokens, **({"attention_mask": real.long()} if mask else {})}
    return outputs, Batch(inputs, labels, Task(metric=accuracy))


@pytest.mark.parametrize("mask", [True, False], ids=["attention mask", "labels alone"])
@pytest.mark.parametrize("first", [False, True], ids=["classes last", "classes first"])
def test_padding_counts_in_no_loss_metric_agreement_or_divergence(mask: bool, first: bool) -> None:
    def numbers(extra: int) -> list[Any]:
        outputs, batch = padded(extra, mask=mask)
        other = outputs + torch.sin(outputs)
        if first:
            outputs, other = outputs.mT, other.mT
        found: list[Any] = [batch.loss(outputs)[0], batch.loss(outputs)[1], batch.scores(outputs)]
        for kind in ("classes", "cosine", "relative"):
            kept = replace(batch, task=Task(agreement=kind))
            found += [kept.agreement(other, outputs), kept.distance(other, outputs)]
        return found

    plain, more = numbers(0), numbers(6)
    assert plain[1] == 8.0 and torch.equal(plain[2][:, 1], torch.tensor([3.0, 5.0], dtype=torch.float64))
    for one, two in zip(plain, more, strict=True):
        assert torch.allclose(torch.as_tensor(one), torch.as_tensor(two), rtol=1e-5, atol=1e-6)


def test_a_label_of_minus_100_leaves_a_sample_out_of_accuracy() -> None:
    rows = accuracy(torch.eye(3), torch.tensor([0, -100, 1]))
    assert rows.tolist() == [[1, 1], [0, 0], [0, 1]]
    assert float(Batch(A, torch.full((4,), -100), Task()).loss(torch.randn(4, 2))[0]) == 0


def test_the_axis_of_features_is_told_by_the_positions() -> None:
    assert feature_axis(torch.zeros(2, 9, 4), torch.Size([2, 4])) == 1
    assert feature_axis(torch.zeros(2, 4, 9), torch.Size([2, 4])) == 2
    assert feature_axis(torch.zeros(2, 4, 4), torch.Size([2, 4])) == 1
    assert feature_axis(torch.zeros(2, 9), torch.Size([2, 4])) is None  # pooled


def test_likenesses_of_equal_outputs_are_1_and_distances_0() -> None:
    for kind in ("classes", "cosine", "relative"):
        rows = alike(A, A, kind)
        assert torch.allclose(rows if rows.dim() == 1 else rows[:, 0] / rows[:, 1], torch.ones(4))
        assert float(distance(A, A, kind)) == pytest.approx(0, abs=1e-6)
    rows = alike(A + 1, A, "relative").sum(0)
    assert float(1 - rows[0] / rows[1]) == pytest.approx(float(12 / A.square().sum()), rel=1e-5)


def test_samples_are_regrouped_as_far_as_shapes_allow() -> None:
    task = Task(test=[{"x": torch.arange(6.0).reshape(3, 2)}, {"x": torch.arange(6.0, 10).reshape(2, 2)},
                      {"x": torch.zeros(3, 4)}])  # fmt: skip
    samples = Samples(task.batches("test"))
    assert [len(block) for block in samples.blocks] == [5, 3] and [len(part) for part in samples.split(4)] == [4, 1, 3]
    assert samples.at(torch.tensor([4, 0])).inputs["x"].tolist() == [[8, 9], [0, 1]]
    assert [part.tolist() for part in samples.grouped(torch.tensor([6, 4, 0, 5]), 2)] == [[4, 0], [6, 5]]
    assert [len(block) for block in samples.first(6).blocks] == [5, 1]


def test_a_split_is_begun_when_its_first_batch_is_asked_for() -> None:
    class Split:
        begun = False

        def __iter__(self) -> Any:
            self.begun = True
            return iter([A])

    split = Split()
    batches = Task(test=split).batches("test")
    assert not split.begun and len(next(batches)) == 4
    with pytest.raises(InputError, match="no split 'train'"):
        Task(test=split).batches("train")


def test_the_hash_of_tensors_looks_into_everything() -> None:
    first = hash_of_tensors(({"a": A}, LABELS))
    assert first == hash_of_tensors([A, LABELS]) != hash_of_tensors([A + 1, LABELS])
    assert isinstance(OrderedDict(), Mapping) and np.shape(A) == (4, 3)
