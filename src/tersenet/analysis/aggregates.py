"""Rows of samples made one score: by their mean, by sums over counts, or by what a task makes of the whole set."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError

RESAMPLES = 1000
Aggregate = Callable[[Tensor], Any]


def together(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all batches. Numbers count as rows (number, 1) where other batches have rows of two.

    **Shapes**: `[n]` and `[n, k]` -> `[n]` or `[n, k]`.
    """
    if len({part.dim() for part in parts}) > 1:
        parts = [part if part.dim() == 2 else torch.stack([part, torch.ones_like(part)], 1) for part in parts]
    return torch.cat(list(parts))


def mean_of(parts: Sequence[Tensor]) -> float:
    """The mean of numbers, or the sum of sums over the sum of counts of rows."""
    return ratio(together(parts))


def ratio(rows: Tensor) -> float:
    """The mean of `[n]`; of `[n, 2]` the sum of the first column over that of the second.

    >>> ratio(torch.tensor([[1.0, 2.0], [2.0, 2.0]]))
    0.75
    """
    if rows.dim() == 1:
        return float(rows.mean())
    if rows.shape[1] != 2:
        raise InputError(
            f"the task's metric returned rows of {rows.shape[1]} numbers: say with Task(aggregate=...) what they make"
        )
    return float(rows[:, 0].sum() / rows[:, 1].sum())


def plain(rows: Tensor) -> Tensor | None:
    """Rows that are one number per sample after all: `[n]`, and (number, 0 or 1) with the uncounted left out; else
    None."""
    if rows.dim() == 1:
        return rows
    if rows.shape[1] == 2 and bool(((rows[:, 1] == 0) | (rows[:, 1] == 1)).all()):
        return rows[rows[:, 1] == 1, 0]
    return None


def resampled(scored: Aggregate, rows: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Scores of 1000 samples as large, drawn with replacement, the same ones from each of `rows`.

    **Shapes**: each `[n, ...]` -> each `[1000]`.
    """
    generator = torch.Generator().manual_seed(seed)
    n, found = len(rows[0]), []
    for _ in range(RESAMPLES):
        index = torch.randint(n, (n,), generator=generator)
        found.append([float(scored(part[index])) for part in rows])
    return list(torch.tensor(found, dtype=torch.float64).T)


def bounds(values: Tensor) -> tuple[float, float, float, float]:
    """The 2.5 %, 5 %, 95 % and 97.5 % quantiles of resampled values; what is not finite (a sample without a count) is
    left out."""
    values = values[values.isfinite()]
    if not len(values):
        return -torch.inf, -torch.inf, torch.inf, torch.inf
    low, least, most, high = torch.quantile(
        values, torch.tensor([0.025, 0.05, 0.95, 0.975], dtype=torch.float64)
    ).tolist()
    return low, least, most, high
