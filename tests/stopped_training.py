"""A training that stops in the middle, for tests of going on."""

from collections.abc import Iterator
from typing import Any

import torch


class Stopped(Exception):
    """Raised in the middle of a training."""


class Batches:
    """A loader that shuffles, and fails at batch number `at`."""

    def __init__(self, batches: list[Any], at: int) -> None:
        self.batches, self.left = batches, at

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for i in torch.randperm(len(self.batches)).tolist():
            self.left -= 1
            if self.left == 0:
                raise Stopped
            yield self.batches[i]
