"""Which step every weight gets: what its rule makes of the magnitudes of rows and columns.

The best step of a weight is inversely proportional to the root of what an error there costs: how much its row matters,
times the mean square of its input. Neither is known without data, but training leaves traces of both: inputs that are
large meet columns of small weights, and rows that matter less are larger. So steps are proportional to a power of the
spread of the row, times one of the column. Where a batch norm undoes the scale of rows, there are no such traces, and
one step for all is better. The exponents and factors are measured: docs/design/0018 has the tables.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...core.grid import factors
from .rules import Rule

MANTISSA = 2  # of the factors of rows and columns: four steps an octave
LEAST = 16  # weights that a row or a column needs for a factor of its own
MOST = 8.0  # octaves between a factor and 1
BLOCK = 1 << 20  # weights that are in fp32 at a time
SAMPLE, LARGE_SAMPLE = 1 << 14, 1 << 16  # weights per tensor that entropies are estimated on, and the spread
FREQUENT = 500  # rows at the beginning that are used about as often as each other


@dataclass(frozen=True)
class Weight:
    """A weight to be quantised: its rule, the numbers of the factors of its rows and columns (None: all are 1), and of
    what is left once it is divided by them a `sample`, the `spread` and the largest magnitude (`extreme`).

    Rows are the channels: they lie on `axis`.
    """

    rule: Rule
    axis: int
    rows: Tensor | None
    columns: Tensor | None
    sample: Tensor
    spread: float
    extreme: float

    @property
    def by_dimension(self) -> tuple[Tensor | None, Tensor | None]:
        """The numbers along dimensions 0 and 1."""
        return (self.rows, self.columns) if self.axis == 0 else (self.columns, self.rows)


def measured(weight: Tensor, axis: int, rule: Rule) -> Weight:
    """What `rule` makes of a weight."""
    rows = columns = None
    if rule.rows or rule.columns:
        by_row, by_column = _magnitudes(weight.transpose(0, axis))
        if rule.rows and weight.numel() >= LEAST * len(by_row):
            rows = _numbers(by_row**rule.rows * (torch.arange(len(by_row)) + FREQUENT) ** rule.frequency)
        if rule.columns and weight.numel() >= LEAST * len(by_column):
            columns = _numbers(by_column**rule.columns)
    found = Weight(rule, axis, rows, columns, torch.empty(0), 0.0, 0.0)
    if rows is None and columns is None:
        extreme = max(-float(weight.amin()), float(weight.amax()))
    else:
        extreme = max(float(block.abs().max()) for _, block in divided(weight, found))
    large = _sampled(weight, found, LARGE_SAMPLE)
    spread = float(large.double().std()) if large.numel() > 1 else 0.0
    return replace(found, sample=_sampled(weight, found, SAMPLE), spread=spread, extreme=extreme)


def divided(weight: Tensor, by: Weight) -> Iterator[tuple[slice, Tensor]]:
    """Channels of `weight`, divided by the factors, some at a time: which they are, and fp32 `[rows, columns]`."""
    turned = weight.transpose(0, by.axis)
    columns = None
    if by.columns is not None:
        columns = factors(by.columns, MANTISSA).repeat_interleave(turned.shape[2:].numel())
    for where, block in _blocks(turned):
        if by.rows is not None:
            block = block / factors(by.rows[where], MANTISSA).unsqueeze(1)
        yield where, block if columns is None else block / columns


def _blocks(turned: Tensor) -> Iterator[tuple[slice, Tensor]]:
    step = max(1, BLOCK // max(1, turned[:1].numel()))
    for start in range(0, len(turned), step):
        where = slice(start, min(start + step, len(turned)))
        yield where, turned[where].flatten(1).to(torch.float32)


def _sampled(weight: Tensor, by: Weight, most: int) -> Tensor:
    """At most `most` evenly spaced weights, divided by their factors, fp32."""
    every = -(-weight.numel() // most)
    sample = weight.reshape(-1)[::every].to(torch.float32)
    place, size = torch.arange(len(sample)) * every, weight.numel()
    for numbers, length in zip(by.by_dimension, weight.shape, strict=False):
        size //= length
        if numbers is not None:
            sample = sample / factors(numbers[place // size % length], MANTISSA)
    return sample


def _magnitudes(turned: Tensor) -> tuple[Tensor, Tensor]:
    """Mean magnitudes of rows and of columns, in fp64."""
    kernel = turned.shape[2:].numel()
    by_row, by_column = torch.empty(len(turned), dtype=torch.float64), torch.zeros(turned.shape[1], dtype=torch.float64)
    for where, block in _blocks(turned):
        magnitude = block.abs()
        by_row[where] = magnitude.mean(1, dtype=torch.float64)
        by_column += magnitude.sum(0, dtype=torch.float64).unflatten(0, (-1, kernel)).sum(1)
    return by_row, by_column / max(1, len(turned) * kernel)


def _numbers(scales: Tensor) -> Tensor | None:
    """The integers that stand for positive `scales` over their geometric mean; None if all factors are 1.

    A scale of 0 gets the factor 1, one that is very far from the others 2^8 or 2^-8.
    """
    logs = scales.log2()
    known = torch.isfinite(logs)
    logs = torch.where(known, logs - logs[known].mean(), 0.0).clamp(-MOST, MOST)
    shift = 23 - MANTISSA
    bits = torch.exp2(logs).to(torch.float32).view(torch.int32) - (127 << 23)
    numbers = (bits + (1 << shift - 1)) >> shift
    return numbers.to(torch.int8) if bool(numbers.any()) else None
