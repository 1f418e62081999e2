"""Qu et al. 2020: LeNet-5 on MNIST as sums of binary bases below one bit, and what pruning by the loss is worth."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...analysis.evaluate import evaluate
from ...api import compress_file, load, load_into
from ...core.method import Method, RunFolder
from ...core.task import Task
from ...errors import UsageError
from ...files.summary import summarize
from ...methods import get
from .. import images
from ..fp32 import train_fp32
from ..models import build
from ..rows import write_rows
from . import Own, Table

FP32_EPOCHS, FP32_LR = 6, 0.05
SHORT = {
    "groups": "kernel",
    "bases": 2,
    "mantissa": 3,
    "rounds": 1,
    "epochs": 0,
    "coordinate_epochs": 0,
    "refine": 4,
    "latent": True,
    "lr": 2e-3,
}
PUBLISHED = {0.4: (99.12, 76.0)}  # the paper's accuracy and ratio at its bits
COLUMNS = (
    "what",
    ">asked bits",
    ">seed",
    ">epochs",
    ">fp32 %",
    ">validation %",
    ">test %",
    ">bits",
    ">with coordinates",
    ">file bytes",
    ">file ratio",
)


@dataclass(frozen=True)
class Point:
    """A row to be: what people call it, bits, seed, and what its method has otherwise than `SHORT`."""

    what: str
    bits: float
    seed: int = 0
    changed: tuple[tuple[str, object], ...] = ()

    def method(self, seed: int) -> Method:
        """The method, seeds counted from `seed`."""
        given: dict[str, Any] = {**SHORT, **dict(self.changed), "bits": self.bits, "seed": seed + self.seed}
        return get("alq")(**given)

    @property
    def file(self) -> str:
        """A name for its file and its run folder."""
        return f"{self.what.replace(', ', '-').replace(' ', '-')}-{self.bits:g}-{self.seed}"


SHORTER = (("refine", 1),)
BY_COORDINATE = (*SHORTER, ("criterion", "coordinate"))
POINTS = (
    Point("loss-aware", 0.34),
    Point("loss-aware", 0.25),
    Point("loss-aware, inputs on 2 bases", 0.34, changed=(("act_bits", 2), ("act_grid", "bases"))),
    Point("untrained", 0.3, changed=(("rounds", 0), ("refine", 0))),
    *(
        point
        for seed in (0, 1, 2)
        for point in (
            Point("loss-aware, shorter", 0.3, seed, SHORTER),
            Point("smallest coordinates, shorter", 0.3, seed, BY_COORDINATE),
        )
    ),
)


@dataclass(frozen=True)
class Row:
    """One compressed network: accuracies decoded from the file, average bits, and bytes."""

    what: str
    asked_bits: float
    seed: int
    epochs: int
    fp32: float
    validation: float
    test: float
    bits: float
    bits_with_coordinates: float
    file_bytes: int
    file_ratio: float

    @property
    def cells(self) -> tuple[object, ...]:
        """As people see it, in the order of `COLUMNS`."""
        shares = (f"{100 * share:.2f}" for share in (self.fp32, self.validation, self.test))
        return (
            self.what,
            self.asked_bits,
            self.seed,
            self.epochs,
            *shares,
            f"{self.bits:.3f}",
            f"{self.bits_with_coordinates:.3f}",
            f"{self.file_bytes:,}",
            f"{self.file_ratio:.1f}",
        )


def table(work: Path, nets: Sequence[str], seed: int, own: Own | None) -> Table:
    """Train LeNet-5 (or take a network of the user's), compress it at every point, judge from the files.

    Every row is appended to `alq.csv` in `work` as it comes.

    **Raises** `UsageError` for another network.
    """
    if set(nets) - {"lenet5"}:
        raise UsageError(
            f"no recipe for {', '.join(sorted(set(nets) - {'lenet5'}))}; there is lenet5, or give a network"
        )
    work.mkdir(parents=True, exist_ok=True)
    if own is None:
        network, task, weights = build("lenet5"), images.mnist(), work / f"fp32-seed{seed}.safetensors"
        if not weights.is_file():
            torch.manual_seed(seed)
            train_fp32(build("lenet5"), task, FP32_EPOCHS, FP32_LR, work / f"fp32-seed{seed}", weights, seed)
    else:
        network, task, weights = own.network, own.task, own.weights
    found: list[Row] = []
    for row in rows(network, task, weights, work, seed):
        found.append(row)
        write_rows(found, work / "alq.csv")
    published = ", ".join(f"{share} % and {ratio:g}x at {bits}" for bits, (share, ratio) in PUBLISHED.items())
    title = f"ALQ, seed {seed}; ratios to fp32, accuracies from the file (the paper's LeNet-5: {published} bits)"
    return Table(title, COLUMNS, [row.cells for row in found], [asdict(row) for row in found])


def rows(network: nn.Module, task: Task, weights: Path, work: Path, seed: int) -> Iterator[Row]:
    """Every point, in the order of `POINTS`; files and trainings that are there already go on."""
    reference = load_into(weights, network)
    for point in POINTS:
        method, place, run = point.method(seed), work / f"{point.file}.terse", work / point.file
        if not place.is_file():
            kept = RunFolder(run, (run / "run.json").is_file())
            compress_file(weights, place, method, module=network, task=task, run=kept, effort="best")
        yield judged(point, method, place, reference, task)


def judged(point: Point, method: Method, place: Path, reference: nn.Module, task: Task) -> Row:
    """A row, from the file."""
    small, size = load(place), summarize(place)
    network = small.apply_to(deepcopy(reference)).eval()
    found = {split: evaluate(network, task, split, reference) for split in ("validation", "test")}
    scores = {split: each.metric.mean for split, each in found.items() if each.metric is not None}
    before, facts, given = found["test"].reference, small.provenance["alq"], asdict(method)
    assert before is not None
    epochs = given["rounds"] * (given["epochs"] + given["coordinate_epochs"] + 1)
    epochs += given["refine"] + given["coordinate_epochs"] if given["refine"] else 0
    return Row(
        point.what,
        point.bits,
        given["seed"],
        epochs,
        before.mean,
        scores["validation"],
        scores["test"],
        facts["bits"],
        facts["bits_with_coordinates"],
        size.size,
        size.original_bytes / size.size,
    )
