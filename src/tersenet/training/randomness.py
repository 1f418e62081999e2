"""The global random generators of torch, Python and numpy: seeded while we need them, and then put back."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators of torch, Python and numpy seeded inside, and as they were outside."""
    before = random_state()
    seed_all(seed)
    try:
        yield
    finally:
        restore(before)


def seed_all(seed: int) -> None:
    """Seed the global generators."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def random_state() -> dict[str, Any]:
    """The state of the global generators, as tensors and numbers."""
    kind, numbers, *rest = np.random.get_state()
    numpy = [str(kind), torch.from_numpy(np.asarray(numbers, np.int64)), *rest]
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), "python": random.getstate(), "numpy": numpy, "cuda": cuda}


def restore(state: Mapping[str, Any]) -> None:
    """Put the global generators into a `random_state`."""
    torch.set_rng_state(state["torch"])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, numbers, *rest = state["numpy"]
    np.random.set_state((kind, numbers.numpy().astype(np.uint32), *rest))
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
