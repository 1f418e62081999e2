"""What a file scores, decoded from disk, beside the network it came from: measured once and written into it."""

import hashlib
import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.batch import read
from ..core.nested import tensors
from ..core.task import Batches, Task
from ..files.results import OF, Numbers, Results, content_hash
from ..files.terse import load
from ..network.uses import shapes
from .evaluate import Evaluation, evaluate
from .intervals import Estimate

CLOSE = 1e-5  # of numbers that a file keeps with 6 digits
SPLITS = ("test", "validation")  # the first that a task has is measured on


def split_of(task: Task | None) -> str | None:
    """The split that a file is measured on; None if the task has none for that."""
    return None if task is None else next((name for name in SPLITS if getattr(task, name) is not None), None)


def measure(
    path: str | Path, module: nn.Module, task: Task, split: str, reference: nn.Module | None
) -> tuple[Evaluation, Results]:
    """What the file at `path` scores in a network like `module`, and against a `reference`.

    **Raises** as `load` and `evaluate` do.
    """
    hashing = _Hashing(task.split(split), task, split)
    watched: dict[str, Any] = {split: hashing}
    network = load(path).apply_to(deepcopy(module)).eval()
    found = evaluate(network, replace(task, **watched), split, reference)
    name = (
        found.agreement_name if found.metric is None else getattr(task.metric, "__name__", type(task.metric).__name__)
    )
    score = found.metric or found.agreement
    assert score is not None  # else evaluate has raised
    results = Results(
        content_hash(path)[:OF],
        split,
        name,
        score.n,
        _numbers(score),
        None if found.reference is None else found.reference.mean,
        None if found.drop is None else _numbers(found.drop),
        found.worst,
        hashing.digest.hexdigest()[:OF],
    )
    return found, results


def repeated(path: str | Path, module: nn.Module, task: Task, recorded: Results) -> list[str]:
    """How running a file again differs from what was `recorded`, and from the shapes in it, which MACs are made of:
    nothing if it agrees to the digits that are kept.

    **Raises** as `measure` does.
    """
    now = measure(path, module, task, recorded.split, None)[1]
    pairs = {
        "metric": (recorded.metric, now.as_json()[2]),
        "n": (recorded.n, now.n),
        "samples": (recorded.data, now.data),
        "score": (recorded.score[0], now.score[0]),
    }
    model = load(path)
    told, seen = (part.get("shapes") for part in (model.provenance, shapes(module, model.specs, model.aliases, task)))
    again = [] if told is None or told == seen else [f"the shapes that MACs are made of are {told}, run again {seen}"]
    return again + [
        f"result.{name} is {old}, measured again {new}" for name, (old, new) in pairs.items() if not _agree(old, new)
    ]


def _agree(old: Any, new: Any) -> bool:
    if isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=CLOSE, abs_tol=CLOSE)
    return bool(old == new)


def _numbers(estimate: Estimate) -> Numbers:
    return estimate.mean, estimate.low, estimate.high


@dataclass
class _Hashing:
    """Batches, with a SHA-256 over all tensors of those that were read last."""

    batches: Batches
    task: Task
    split: str
    digest: Any = None

    def __iter__(self) -> Iterator[Any]:
        self.digest = hashlib.sha256()
        for batch in self.batches:
            taken = read(batch, self.task, self.split)
            for part in tensors([taken.inputs, taken.targets]):
                flat = part.detach().cpu().contiguous().reshape(-1)
                self.digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
            yield batch
