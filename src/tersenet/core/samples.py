"""Samples of several batches, regrouped: as if the loader had given them in batches of another size."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .batch import Batch
from .nested import mapped, parts, tensors


class Samples:
    """The samples of `batches`, numbered in their order; those of one shape that follow each other are one block.

    >>> samples = Samples([Batch(torch.zeros(3, 2)), Batch(torch.zeros(5, 2)), Batch(torch.zeros(1, 7))])
    >>> len(samples), [len(batch) for batch in samples.split(4)]
    (9, [4, 4, 1])
    """

    def __init__(self, batches: Iterable[Batch]) -> None:
        self.blocks: list[Batch] = []
        waiting: list[Batch] = []
        for batch in batches:
            if waiting and _shape(batch) != _shape(waiting[0]):
                self.blocks.append(_joined(waiting))
                waiting = []
            waiting.append(batch)
        if waiting:
            self.blocks.append(_joined(waiting))

    @classmethod
    def of(cls, given: Any) -> "Samples":
        """Samples as they are, or of one tensor of inputs."""
        return given if isinstance(given, Samples) else cls([given if isinstance(given, Batch) else Batch(given)])

    def __len__(self) -> int:
        return sum(map(len, self.blocks))

    def first(self, count: int) -> "Samples":
        """The first `count` of them."""
        found = []
        for block in self.blocks:
            if count > 0:
                found.append(block.first(count) if count < len(block) else block)
            count -= len(block)
        return Samples(found)

    def at(self, index: Tensor) -> Batch:
        """The samples numbered `index`, all of one block."""
        start = 0
        for block in self.blocks:
            if int(index[0]) < start + len(block):
                return block.at(index - start)
            start += len(block)
        raise IndexError(int(index[0]))

    def grouped(self, index: Tensor, size: int) -> list[Tensor]:
        """The numbers in `index` in their order, at most `size` together, and only those of one block."""
        found: list[Tensor] = []
        start = 0
        for block in self.blocks:
            own = index[(index >= start) & (index < start + len(block))]
            found += own.split(size) if len(own) else ()
            start += len(block)
        return found

    def split(self, size: int) -> list[Batch]:
        """All of them in batches of `size` (the last of a block may be smaller)."""
        return [self.at(part) for part in self.grouped(torch.arange(len(self)), size)]


def _shape(batch: Batch) -> Any:
    """What batches that can be joined have in common."""
    n = len(batch)

    def described(part: Any) -> Any:
        if isinstance(part, Tensor):
            return (part.dtype, part.shape[1:]) if part.dim() and len(part) == n else (part.dtype, part.tolist())
        names = list(part) if isinstance(part, Mapping) else []
        return [type(part).__name__, *names, *map(described, parts(part))]

    return described([batch.inputs, batch.targets, batch.reference])


def _joined(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    columns = zip(*(tensors([b.inputs, b.targets, b.reference]) for b in batches), strict=True)
    sizes = [len(batch) for batch in batches]

    def together(column: tuple[Tensor, ...]) -> Tensor:
        along = all(part.dim() and len(part) == n for part, n in zip(column, sizes, strict=True))
        return torch.cat(column) if along else column[0]

    whole, first = map(together, columns), batches[0]

    def taken(part: Any) -> Any:
        return next(whole) if isinstance(part, Tensor) else part

    inputs, targets = mapped(taken, first.inputs), mapped(taken, first.targets)
    return replace(first, inputs=inputs, targets=targets, reference=taken(first.reference))
