"""Mixed precision by importance: budgets, orders, records."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import tersenet
from tersenet.analysis.evaluate import evaluate
from tersenet.core.model import CompressedModel, QTensor
from tersenet.core.task import Task
from tersenet.errors import BudgetError, InputError, UsageError

SCORES = ["imprint", "reversed", "fisher", "hessian", "sensitivity", "random"]


class Deep(nn.Module):
    """Six layers on the digits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        widths = [64, 48, 40, 32, 24, 20]
        layers: list[nn.Module] = [nn.Flatten()]
        for i in range(5):
            layers += [nn.Linear(widths[i], widths[i + 1]), nn.BatchNorm1d(widths[i + 1]), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(20, 20))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)[:, :10]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def deep(task: Task) -> nn.Module:
    from tersenet.lab.digits import train

    return train(Deep(), task, epochs=6)


def compressed(deep: nn.Module, task: Task, **fields: Any) -> CompressedModel:
    return tersenet.compress(copy.deepcopy(deep), "imprint", task=task, **{"epochs": 0, **fields})


def found(small: CompressedModel) -> dict[str, Any]:
    return dict(small.provenance["importance"])


@pytest.mark.parametrize("allocation", ["ladder", "optimum"])
@pytest.mark.parametrize("score", SCORES)
def test_every_score_and_allocation_meets_the_average_and_is_recorded(
    score: str, allocation: str, deep: nn.Module, task: Task
) -> None:
    small = compressed(deep, task, score=score, allocation=allocation, average_bits=5.0)
    facts = found(small)
    sizes = {name: small.tensors[name].shape.numel() for name in facts["bits"]}
    mean = sum(sizes[name] * bits for name, bits in facts["bits"].items()) / sum(sizes.values())
    assert mean == facts["average"] <= 5.0
    assert facts["order"] == sorted(facts["scores"], key=facts["scores"].__getitem__)
    ends = [facts["bits"]["layers.1.weight"], facts["bits"]["layers.16.weight"]]
    assert ends == [8, 8] and set(facts["scores"]) == set(facts["bits"]) - {"layers.1.weight", "layers.16.weight"}
    for name, bits in facts["bits"].items():
        entry = small.tensors[name]
        assert isinstance(entry, QTensor) and entry.codes.unique().numel() <= 2**bits


def test_the_reversed_order_is_the_reversed_order(deep: nn.Module, task: Task) -> None:
    facts = [found(compressed(deep, task, score=score, average_bits=5.0)) for score in ("imprint", "reversed")]
    assert facts[0]["order"] == facts[1]["order"][::-1]
    assert len(facts[0]["gains"]) == len(facts[0]["accuracies"]) - 1 == len(facts[0]["intervals"])


@pytest.mark.parametrize("base", ["uniform", "pot", "apot"])
def test_every_base_trains_and_does_its_job(base: str, deep: nn.Module, task: Task) -> None:
    rungs = (5, 4, 3) if base == "pot" else (8, 4, 2)
    small = compressed(deep, task, base=base, rungs=rungs, average_bits=6.5, epochs=3)
    result = evaluate(small.apply_to(copy.deepcopy(deep)), task, reference=deep)
    assert result.agreement is not None and result.agreement.mean > 0.8


def test_given_bits_are_used_as_they_are(deep: nn.Module, task: Task) -> None:
    small = compressed(deep, task, layer_bits={"*": 2})
    assert all(e.codes.unique().numel() <= 4 for e in small.tensors.values() if isinstance(e, QTensor))
    assert "importance" not in small.provenance


def test_what_cannot_be_done_is_a_clear_error(deep: nn.Module, task: Task) -> None:
    cases: list[tuple[type[Exception], str, nn.Module, Task, dict[str, Any]]] = [
        (BudgetError, "all layers at 2 bits", deep, task, {"average_bits": 2.0}),
        (InputError, "no split 'validation'", deep, replace(task, validation=None), {}),
        (InputError, "calibration split of the task is empty", deep, replace(task, calibration=[]), {}),
        (InputError, "choosing needs two", nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), task, {}),
        (UsageError, "rungs", deep, task, {"rungs": (4,)}),
        (UsageError, "pot has 2 to 5", deep, task, {"base": "pot"}),
        (
            UsageError,
            "layer_bits gives layers.4.weight 8 bits; expected 2 to 5",
            deep,
            task,
            {"base": "pot", "rungs": (5, 4), "layer_bits": {"layers.4.weight": 8}},
        ),
        (UsageError, "leave out stages= and bits=", deep, task, {"bits": 3}),
    ]
    for error, words, net, given, fields in cases:
        with pytest.raises(error, match=words):
            compressed(net, given, **fields)
