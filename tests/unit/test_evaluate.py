"""Scores are paired, intervals have the right width, and the test split stays away from methods."""

from dataclasses import replace

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


def rows_of(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Two numbers per sample: the output and the target."""
    return torch.stack([outputs[:, 0], targets], 1)


def spearman(rows: torch.Tensor) -> torch.Tensor:
    return torch.corrcoef(rows.argsort(0).argsort(0).double().T)[0, 1]


def scaled(factor: float, noise: float) -> nn.Module:
    """The first input times a factor, and some of the second."""
    net = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[factor, noise]]))
    return net


X = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
WHOLE = Task(test=[(X[:80], X[:80, 0]), (X[80:], X[80:, 0])], loss=nn.functional.mse_loss, metric=rows_of,
             aggregate=spearman)  # fmt: skip


def test_a_metric_of_the_whole_set_is_what_aggregate_makes_of_all_rows() -> None:
    found = evaluate(scaled(1, 1), WHOLE, reference=scaled(1, 0.2))
    assert found.reference.mean == pytest.approx(float(spearman(rows_of(scaled(1, 0.2)(X), X[:, 0]))))
    assert found.reference.mean > 0.9 > found.metric.mean > 0.5
    assert found.metric.low < found.metric.mean < found.metric.high and found.metric.n == 200
    assert found.drop.mean == pytest.approx(found.reference.mean - found.metric.mean)


def test_intervals_by_resampling_are_paired_and_the_same_for_the_same_seed() -> None:
    first, again = (evaluate(scaled(1, 1), WHOLE, reference=scaled(1, 0.9)) for _ in range(2))
    assert first == again != evaluate(scaled(1, 1), replace(WHOLE, seed=1), reference=scaled(1, 0.9))
    own = first.metric.high - first.metric.low
    assert first.drop.high - first.drop.low < own / 2  # two unpaired ones would be wider than one
    same = evaluate(scaled(1, 1), WHOLE, reference=scaled(1, 1)).drop
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_sums_over_counts_are_the_score_of_rows_of_two_and_cover_the_truth() -> None:
    generator, hits = torch.Generator().manual_seed(0), 0
    for seed in range(60):
        counts = torch.randint(1, 9, (60,), generator=generator).double()
        rows = torch.stack([counts * 0.5 + torch.randn(60, generator=generator).double(), counts], 1)
        task = Task(test=[(rows, rows)], metric=lambda out, y: y, seed=seed)
        found = evaluate(nn.Identity(), task).metric
        assert found.mean == pytest.approx(float(rows[:, 0].sum() / counts.sum()))
        hits += found.low <= 0.5 <= found.high
    assert hits >= 52


def test_rows_that_no_aggregate_takes_are_refused() -> None:
    with pytest.raises(InputError, match="rows of 3 numbers"):
        evaluate(nn.Identity(), Task(test=[(torch.zeros(4, 3), torch.zeros(4))], metric=lambda out, y: out))


def test_agreement_is_named_and_chosen_by_the_task() -> None:
    bare = Task(test=list(X.split(50)))
    for task, name in (
        (bare, "same class"), (replace(bare, loss=nn.functional.mse_loss), "1 - relative error"),
        (replace(bare, agreement="cosine"), "cosine"), (replace(bare, agreement=spearman), "spearman"),
    ):  # fmt: skip
        assert task.agreement_name == name
    net = nn.Linear(2, 3)
    for kind in ("classes", "cosine", "relative"):
        found = evaluate(net, replace(bare, agreement=kind), reference=nn.Linear(2, 3))
        assert found.agreement_name and found.metric is None
        assert found.drop.mean == pytest.approx(1 - found.agreement.mean)


def test_float_targets_have_no_accuracy() -> None:
    task = Task(test=[(X, X[:, 0])], loss=nn.functional.mse_loss)
    with pytest.raises(InputError, match="the default is for integer labels"):
        evaluate(nn.Identity(), task)
    assert evaluate(nn.Identity(), task, reference=nn.Identity()).agreement.mean == 1
