"""One training in several processes or machines, with Hugging Face accelerate; alone where nothing launched several."""

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError


def is_main() -> bool:
    """Whether this process writes the results."""
    return int(os.environ.get("RANK", "0")) == 0


class Processes:
    """The processes that train together: `torchrun -m tersenet compress ...` starts them, or `accelerate launch`."""

    def __init__(self) -> None:
        self.count, self.rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        self._accelerator: Any = None
        if self.count > 1:
            try:
                from accelerate import Accelerator
            except ImportError as error:
                raise UsageError("several processes need accelerate: pip install accelerate") from error
            self._accelerator = Accelerator(cpu=not torch.cuda.is_available())
            if self._accelerator.num_processes != self.count:
                raise UsageError(
                    f"{self.count} processes were launched, of which accelerate joins "
                    f"{self._accelerator.num_processes}: each would train alone on a part of the data"
                )
        found = "cuda" if torch.cuda.is_available() else "cpu"
        self.device: torch.device = self._accelerator.device if self._accelerator else torch.device(found)

    def share(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Every `count`-th batch, from the one that is ours."""
        return islice(iter(batches), self.rank, None, self.count)

    def wrap(self, module: nn.Module) -> nn.Module:
        """`module`, averaging its gradients over all processes."""
        wrapped: nn.Module = self._accelerator.prepare(module) if self._accelerator else module
        return wrapped

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a scalar over all processes, so that all take the same decisions."""
        return self._accelerator.reduce(value, "mean") if self._accelerator else value
