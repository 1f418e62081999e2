"""Scores are paired, intervals have the right width, and the test split stays away from methods."""

import pytest
import torch
from torch import nn

from tersenet.analysis.evaluate import evaluate
from tersenet.analysis.intervals import estimate
from tersenet.core.task import Task
from tersenet.errors import InputError


class Constant(nn.Module):
    """Always answers one class."""

    def __init__(self, answer: int) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(torch.full((len(x),), self.answer), 3).float()


BATCHES = [(torch.zeros(4, 2), torch.tensor([0, 0, 1, 0])), (torch.zeros(2, 2), torch.tensor([1, 2]))]


def test_accuracy_drop_and_agreement_are_counted_over_all_samples() -> None:
    result = evaluate(Constant(1), Task(test=BATCHES), reference=Constant(0))
    assert (result.metric.mean, result.reference.mean, result.metric.n) == (
        pytest.approx(2 / 6),
        pytest.approx(3 / 6),
        6,
    )
    assert result.drop.mean == pytest.approx(1 / 6)
    assert result.agreement.mean == 0


def test_an_interval_covers_the_truth_about_95_times_in_100() -> None:
    generator = torch.Generator().manual_seed(0)
    hits = sum(
        e.low <= 0.9 <= e.high
        for e in (estimate((torch.rand(200, generator=generator) < 0.9).float()) for _ in range(1000))
    )
    assert 920 <= hits <= 980


def test_a_metric_where_lower_is_better_turns_the_sign_of_the_drop() -> None:
    task = Task(test=BATCHES, metric=lambda out, y: (out.argmax(1) != y).float(), higher_is_better=False)
    assert evaluate(Constant(1), task, reference=Constant(0)).drop.mean == pytest.approx(1 / 6)


def test_a_missing_split_an_empty_one_and_a_mean_metric_are_explained() -> None:
    with pytest.raises(InputError, match="no split 'test', only validation"):
        evaluate(Constant(0), Task(validation=BATCHES))
    with pytest.raises(InputError, match="test split of the task is empty"):
        evaluate(Constant(0), Task(test=[]))
    with pytest.raises(InputError, match="one score per sample"):
        evaluate(Constant(0), Task(test=BATCHES, metric=lambda out, y: (out.argmax(1) == y).float().mean()))


def test_a_method_never_receives_the_test_split() -> None:
    assert Task(test=BATCHES, train=BATCHES).for_method() == Task(train=BATCHES)
