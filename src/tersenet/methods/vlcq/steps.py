"""Which step every weight gets: a rule by names and shapes, and what it makes of the spread of rows and columns.

The best step of a weight is inversely proportional to the root of what an error there costs: how much its row matters,
times the mean square of its input. Neither is known without data, but training leaves traces of both: inputs that are
large meet columns of small weights, and rows that matter less are larger. So steps are proportional to a power of the
spread of the row, times one of the column. Where a batch norm undoes the scale of rows, there are no such traces, and
one step for all is better. The exponents and factors are measured: docs/design/0018 has the tables.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...core.grid import factors
from ...core.model import TensorSpec
from .data_free_feedback import POSITIVE, Prior

MANTISSA = 2  # of the factors of rows and columns: four steps an octave
LEAST = 16  # weights that a row or a column needs for a factor of its own
MOST = 8.0  # octaves between a factor and 1
BLOCK = 1 << 20  # weights that are in fp32 at a time
SAMPLE, LARGE_SAMPLE = 1 << 14, 1 << 16  # weights per tensor that entropies are estimated on, and the spread
LONG_KERNEL = 8  # from how many weights on a kernel along one axis is a filter
VOCABULARY = 4096  # from how many rows on an embedding is sorted by how often its rows are used
FREQUENT = 500  # rows at the beginning that are used about as often as each other

NORMED = re.compile(r"(^|\.)running_(mean|var)$")
RECURRENT = re.compile(r"(^|[._])(weight_[ih]h|recurrent_kernel|recurrent_weights?)(_l\d+)?(_reverse)?(\.weight)?$")
EMBEDDING = re.compile(r"(^|[._])(\w*embed\w*|emb|wte|wpe|shared)(\.weight)?$")
SCORES = re.compile(r"(^|[._])(q|k|query|key|w[qk]|to_[qk]|[qk]_(proj|lin|proj_weight))(\.weight)?$")
VALUES = re.compile(
    r"((^|[._])(v|o|value|w[vo]|to_v|to_out(\.0)?|v_(proj|lin|proj_weight)|o_proj|out_(proj|lin))"
    r"|attention\.output\.dense|attn\.(c_)?proj)(\.weight)?$"
)
ENCODER = re.compile(r"(^|[._])(encoder|token_type_embeddings)[._]")


@dataclass(frozen=True)
class Rule:
    """A step is `common step * unit * spread^tensor * row^rows * column^columns`.

    `row` and `column` are mean magnitudes of weights, `spread` is the deviation of what is left of the tensor once they
    are divided by these powers. Rows of an embedding count `rank^frequency` less towards its end.
    """

    rows: float = 0.0
    columns: float = 0.0
    tensor: float = 0.25
    unit: float = 1.0
    frequency: float = 0.0
    prior: Prior = POSITIVE


BEFORE_NORM = Rule()  # and for all weights of a network with batch norm, but the recurrent ones
FILTER = Prior(kernel=4.0, decay=0.9, mean=0.0)  # signals have no mean, and neighbours that look alike
PLAIN = Rule(rows=0.5, columns=0.5, tensor=1.0)
OF_SCORES = replace(PLAIN, unit=1.25)
OF_VALUES = replace(PLAIN, unit=0.75)
EMBEDDED = replace(PLAIN, prior=Prior(0.0, 1.0, 0.0))
WORDS = replace(EMBEDDED, frequency=0.2)
FREE_WORDS = replace(WORDS, unit=2.2)
RECURRING = Rule(rows=1.0, columns=0.5, tensor=1.0)
FIRST_RECURRING = Rule(rows=1.0, columns=1.0, tensor=1.0, unit=0.5)


def rules(specs: Mapping[str, TensorSpec], aliases: Mapping[str, str], wanted: Collection[str]) -> dict[str, Rule]:
    """The rule of every tensor in `wanted`, of a checkpoint that has `specs` and `aliases`."""
    normed = any(NORMED.search(name) for name in specs)
    recurrent = any(RECURRENT.search(name) for name in wanted)
    return {name: _rule(name, specs, aliases, normed, recurrent) for name in wanted}


def _rule(
    name: str, specs: Mapping[str, TensorSpec], aliases: Mapping[str, str], normed: bool, recurrent: bool
) -> Rule:
    shape = specs[name].shape
    if RECURRENT.search(name):
        return FIRST_RECURRING if re.search(r"weight_ih(_l0)?(_reverse)?$", name) else RECURRING
    kernel = shape[2:].numel()
    prior = FILTER if kernel >= LONG_KERNEL and max(shape[2:]) == kernel else POSITIVE
    if normed:
        return replace(BEFORE_NORM, prior=prior)
    if len(shape) == 2 and EMBEDDING.search(name):
        if shape[0] < VOCABULARY:
            return EMBEDDED
        return FREE_WORDS if _is_free(name, specs, aliases) else WORDS
    if recurrent:
        return RECURRING
    plain = OF_SCORES if SCORES.search(name) else OF_VALUES if VALUES.search(name) else PLAIN
    return replace(plain, prior=prior)


def _is_free(name: str, specs: Mapping[str, TensorSpec], aliases: Mapping[str, str]) -> bool:
    """Whether an embedding of words is no head as well: it has no tied name, and either there is a head of its own or
    the network is an encoder."""
    shape = specs[name].shape
    if name in aliases.values():
        return False
    own = any(spec.shape[:1] == shape[:1] and len(spec.shape) == 2 for other, spec in specs.items() if other != name)
    return own or any(ENCODER.search(other) for other in specs)


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
