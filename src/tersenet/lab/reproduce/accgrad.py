"""Gaopande 2020: ratios of accumulated-gradient quantization in its three modes, beside the published ones."""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...analysis.evaluate import evaluate
from ...analysis.intervals import Estimate
from ...api import compress_file, load, load_into
from ...core.method import Method, RunFolder
from ...core.task import Task
from ...errors import UsageError
from ...methods import get
from ...report.size import storage
from .. import images
from ..fp32 import train_fp32
from ..models import build
from . import Own, Table


@dataclass(frozen=True)
class Recipe:
    """A network's task, how long it is trained in fp32 and by accgrad, and the thesis's ratios: post, in, combined."""

    task: Callable[[], Task]
    fp32_epochs: int
    epochs: int
    refine: int
    lr: float
    published: tuple[float, float, float]


RECIPES = {
    "lenet300": Recipe(partial(images.mnist, normalise=False), 20, 24, 6, 0.05, (7.62, 22.08, 57.22)),
    "lenet5": Recipe(partial(images.mnist, normalise=False), 8, 10, 3, 0.05, (10.87, 21.05, 50.19)),
    "alexnet": Recipe(images.cifar10, 6, 4, 1, 0.02, (6.39, 7.95, 13.15)),
    "vgg16": Recipe(images.cifar10, 100, 60, 20, 0.02, (12.43, 12.71, 13.53)),
}
ON_A_GPU = ("vgg16",)
OWN = Recipe(Task, 0, 10, 3, 0.02, (7.62, 22.08, 57.22))  # for a network of the user's, which is trained already


COLUMNS = (
    "network", "mode", "signal", ">epochs", ">fp32 %", ">test %", ">drop, points (95 %)", ">non-zeros",
    "bits: non-zeros", ">thesis", ">CSR ratio", ">file ratio", ">file bytes",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One compressed network: accuracies on the test split, decoded from the file, and what it takes."""

    network: str
    mode: str
    signal: str
    seed: int
    epochs: int
    fp32: float
    accuracy: float
    drop: Estimate
    nonzeros: int
    weights: int
    bits: str
    published: float | None
    csr_ratio: float
    csr_bytes: int
    file_ratio: float
    file_bytes: int

    @property
    def cells(self) -> tuple[object, ...]:
        """As people see it, in the order of `COLUMNS`."""
        drop = f"{self.drop.mean:.2f} ({self.drop.low:.2f} to {self.drop.high:.2f})"
        return (
            self.network, self.mode, self.signal, self.epochs, f"{100 * self.fp32:.2f}", f"{100 * self.accuracy:.2f}",
            drop, f"{self.nonzeros:,}", self.bits, "" if self.published is None else self.published,
            f"{self.csr_ratio:.2f}", f"{self.file_ratio:.2f}", f"{self.file_bytes:,}",
        )  # fmt: skip


def table(work: Path, nets: Sequence[str], seed: int, own: Own | None) -> Table:
    """Train, compress in every mode, judge from the file; by default the two LeNets on MNIST."""
    if own is not None:
        work.mkdir(parents=True, exist_ok=True)
        signals = ("grad", "grad-magnitude")
        found = list(rows(own.weights.stem, own.network, own.task, own.weights, work, OWN, seed, signals))
    else:
        found = [row for name in nets or ("lenet300", "lenet5") for row in trained_here(name, work, seed)]
    title = f"accumulated gradients, seed {seed}; ratios to fp32, test accuracy from the file"
    return Table(title, COLUMNS, [row.cells for row in found], [asdict(row) for row in found])


def trained_here(
    name: str, work: Path, seed: int = 0, signals: tuple[str, ...] = ("grad", "grad-magnitude")
) -> Iterator[Row]:
    """The rows of a network of the thesis, trained here. Everything is kept in `work` and goes on there.

    **Raises** `UsageError` for an unknown network, or one that needs a GPU where there is none.
    """
    if name not in RECIPES:
        raise UsageError(f"no recipe for {name!r}; there are {', '.join(RECIPES)}, or give --model and --task")
    if name in ON_A_GPU and not torch.cuda.is_available():
        raise UsageError(f"{name} is trained where there is a GPU; here are {', '.join(set(RECIPES) - set(ON_A_GPU))}")
    recipe = RECIPES[name]
    task, folder = recipe.task(), work / f"{name}-seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "fp32.safetensors"
    if not weights.is_file():
        torch.manual_seed(seed)
        train_fp32(build(name), task, recipe.fp32_epochs, recipe.lr, folder / "fp32", weights, seed)
    yield from rows(name, build(name), task, weights, folder, recipe, seed, signals)


def rows(
    name: str, network: nn.Module, task: Task, weights: Path, folder: Path, recipe: Recipe, seed: int,
    signals: tuple[str, ...],
) -> Iterator[Row]:  # fmt: skip
    """The three modes with the thesis's signal, and `combined` with the others."""
    reference = load_into(weights, network)
    for signal in signals:
        modes = ("post", "in", "combined") if signal == "grad" else ("combined",)
        for mode in modes:
            published = dict(zip(("post", "in", "combined"), recipe.published, strict=True))[mode]
            method = chosen(recipe, mode, signal, published, seed)
            place, run = folder / f"{mode}-{signal}.terse", folder / f"{mode}-{signal}"
            if not place.is_file():
                kept = RunFolder(run, (run / "run.json").is_file())
                compress_file(weights, place, method, module=network, task=task, run=kept)
            yield judged(name, method, place, reference, task, published if signal == "grad" else None)


def chosen(recipe: Recipe, mode: str, signal: str, target: float, seed: int) -> Method:
    """The method of a row."""
    fields: dict[str, Any] = {"mode": mode, "signal": signal, "seed": seed, "target_ratio": target, "lr": recipe.lr}
    if mode == "post":
        return get("accgrad")(**fields | {"epochs": max(1, recipe.epochs // 4), "bits": (4, 4, 4, 4), "tune": True})
    fields |= {"epochs": recipe.epochs, "refine": recipe.refine}
    return get("accgrad")(**fields | ({} if mode == "in" else {"bits": (4,)}))


def judged(name: str, method: Method, place: Path, reference: nn.Module, task: Task, published: float | None) -> Row:
    """A row, from the file."""
    fields, small = asdict(method), load(place)
    network = small.apply_to(deepcopy(reference)).eval()
    evaluation = evaluate(network, task, "test", reference)
    assert evaluation.metric is not None and evaluation.reference is not None and evaluation.drop is not None
    size, facts = storage(place), small.provenance["accgrad"]
    bits = ", ".join(f"{b}: {n}" for b, n in _totals(facts["nonzeros"]).items())
    return Row(
        name, fields["mode"], fields["signal"], fields["seed"], fields["epochs"] + fields["refine"],
        evaluation.reference.mean, evaluation.metric.mean, evaluation.drop.times(task.points), size.nonzeros,
        size.weights, bits, published, size.fp32 / size.csr, size.csr, size.fp32 / size.file, size.file,
    )  # fmt: skip


def _totals(nonzeros: dict[str, dict[str, int]]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for counts in nonzeros.values():
        for bits, count in counts.items():
            totals[bits] = totals.get(bits, 0) + count
    return totals
