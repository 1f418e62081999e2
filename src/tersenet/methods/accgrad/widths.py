"""Widths of single weights against a ratio: how many non-zeros it allows, and what is pruned until it is met.

The ratio is that of all tensors: fp32 bytes over those of the CSR accounting of `report.size`, with what is kept.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.model import Item, KeptTensor
from ...errors import BudgetError
from ...files.terse import stored_size
from ...report.size import csr_bits, tag_bits
from .signal import Part, give


class Unquantised(NamedTuple):
    """Bytes of the tensors that have no widths to choose: in fp32, and as they are stored."""

    fp32: int = 0
    stored: int = 0

    @classmethod
    def of(cls, pieces: Iterable[Item]) -> "Unquantised":
        """What is kept among `pieces`."""
        kept = [entry for _, entry in pieces if isinstance(entry, KeptTensor)]
        return cls(4 * sum(entry.tensor.numel() for entry in kept), sum(map(stored_size, kept)))

    def ratio(self, tensors: Sequence[tuple[tuple[int, ...], Mapping[int, int]]]) -> float:
        """The ratio with `tensors`: shapes, and non-zeros by width."""
        tags = tag_bits({bits for _, counts in tensors for bits in counts})
        bits = sum(csr_bits(shape, counts, tags) for shape, counts in tensors)
        fp32 = self.fp32 + 4 * sum(math.prod(shape) for shape, _ in tensors)
        return fp32 / max(1, self.stored - (-bits // 8))


def nonzeros(part: Part) -> dict[int, int]:
    """How many weights of each width are not 0."""
    _, quantizer, latent = part
    widths = quantizer.widths[quantizer(latent.detach()) != 0]
    return {int(b): int((widths == b).sum()) for b in widths.unique()}


def ratio(found: Sequence[Part], unquantised: Unquantised) -> float:
    """The ratio as the weights now are."""
    return unquantised.ratio([(tuple(part[2].shape), nonzeros(part)) for part in found])


def affordable(found: Sequence[Part], unquantised: Unquantised, target: float, widths: Sequence[int]) -> int:
    """How many non-zeros of `widths` (in equal parts, spread evenly) a ratio allows.

    **Raises** `BudgetError` if that is less than one for every tensor.
    """
    shapes = [tuple(latent.shape) for _, _, latent in found]
    total = sum(map(math.prod, shapes))

    def reached(count: int) -> float:
        each = [count * math.prod(shape) / total / len(widths) for shape in shapes]
        return unquantised.ratio([(s, dict.fromkeys(widths, round(n))) for s, n in zip(shapes, each, strict=True)])

    found_count = _last(total, lambda count: reached(count) >= target)
    if found_count < len(shapes):
        most = reached(len(shapes) * 8)
        raise BudgetError(f"a ratio of {target:g} leaves no weights; {most:.0f} leaves some: ask for less", most)
    return found_count


def needed(found: Sequence[Part], values: Tensor, wanted: int, width: int) -> int:
    """How many of the highest `values` hold `wanted` weights that do not round to 0 at `width`; at most half of all."""
    alive = torch.cat([(w.detach().abs() >= torch.exp2(q.integer - width - 1)).reshape(-1) for _, q, w in found])
    order = torch.argsort(values, descending=True, stable=True)
    return min((len(values) - 1) // 2, int((alive[order].cumsum(0) <= wanted).sum()))


def prune_to(found: Sequence[Part], unquantised: Unquantised, values: Tensor, target: float) -> None:
    """Give width 0 to the non-zeros of the lowest `values` until `ratio` is at least `target`.

    **Raises** `BudgetError` if it is not even with one weight left.
    """
    widths = torch.cat([quantizer.widths.reshape(-1) for _, quantizer, _ in found])
    zero = torch.cat([(quantizer(latent.detach()) == 0).reshape(-1) for _, quantizer, latent in found])
    order = torch.argsort(values.masked_fill(zero, math.inf), stable=True)

    def short(count: int) -> bool:
        give(found, widths.scatter(0, order[:count], 0))
        return ratio(found, unquantised) < target

    most = int((~zero).sum()) - 1
    if most < 0 or short(most):
        reached = ratio(found, unquantised)
        raise BudgetError(
            f"a ratio of {target:g} cannot be met: with all weights but one pruned it is {reached:.1f}", reached
        )
    if short(0):
        short(_last(most, short) + 1)


def _last(count: int, holds: Callable[[int], bool]) -> int:
    """The largest number up to `count` that `holds`, where 0 does and those that do come first."""
    low, high = 0, count + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
