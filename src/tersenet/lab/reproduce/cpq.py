"""Lee et al. 2021: CPQ at 3 bits, with DropBits, and learned levels against the same levels from scratch.

All rows start from the same weights and are trained as long as the control, fp32 fine-tuned, with the same rate and
distillation; drops are to it. "same levels" takes the widths that "learned levels" found, from the same start with the
same seed, for as many epochs. Rows that are finished are in `rows.csv` in the work folder.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...analysis.evaluate import evaluate
from ...api import load, load_into
from ...core.method import Method
from ...core.model import QTensor
from ...core.task import Task
from ...errors import UsageError
from ...methods import get
from ...report.size import storage
from .. import images
from ..fp32 import fp32_start
from ..models import build
from ..rows import trained_file, write_rows
from . import Own, Table


@dataclass(frozen=True)
class Recipe:
    """A network's task, how long and how fast it is trained in fp32; then the epochs of all rows, those of them without
    masks, the fields of all quantised rows, methods to compare with, and the penalty and seeds of learned levels."""

    task: Callable[[], Task]
    fp32_epochs: int
    fp32_lr: float
    epochs: int
    refine: int
    lr: float
    distill: float
    levels: dict[str, Any]
    beside: tuple[str, ...] = ()
    penalty: float = 0.5
    seeds: int = 0


THREE = {"bits": 3, "act_bits": 3}
RECIPES = {
    "lenet5": Recipe(
        partial(images.mnist, shift=2), 8, 0.05, 8, 2, 0.01, 0.5, {**THREE, "first_last": "same"}, ("lsq",), seeds=3
    ),
    "resnet20": Recipe(images.cifar10, 100, 0.1, 8, 1, 0.02, 0.5, {**THREE, "first_last": "8"}, ("lsq", "apot")),
}
OWN = Recipe(Task, 0, 0.0, 4, 1, 0.01, 0.5, {**THREE, "first_last": "8"}, ("lsq",), seeds=1)
PUBLISHED = {("lenet5", "cpq"): 0.67, ("lenet5", "cpq + DropBits"): 0.63}  # errors in percent, as others report them

COLUMNS = (
    "network",
    "method",
    ">seed",
    ">epochs",
    ">bits",
    ">test error %",
    ">published",
    ">drop, points (95 %)",
    ">file ratio",
    ">file bytes",
)


@dataclass(frozen=True)
class Row:
    """One network on the test split, decoded from its file; `bits` are what its codes need, per weight."""

    network: str
    method: str
    seed: int
    epochs: int
    bits: float
    accuracy: float
    published_error: float | None
    drop: float
    low: float
    high: float
    images: int
    file_ratio: float
    file_bytes: int

    @property
    def cells(self) -> tuple[object, ...]:
        """As people see it, in the order of `COLUMNS`."""
        drop = "" if self.method == "fp32" else f"{self.drop:.2f} ({self.low:.2f} to {self.high:.2f})"
        return (
            self.network,
            self.method,
            self.seed,
            self.epochs,
            f"{self.bits:.2f}",
            f"{100 * (1 - self.accuracy):.2f}",
            self.published_error or "",
            drop,
            f"{self.file_ratio:.2f}",
            f"{self.file_bytes:,}",
        )


def table(work: Path, nets: Sequence[str], seed: int, own: Own | None) -> Table:
    """Fine-tune the control, train every row, judge from the files; by default LeNet-5 on MNIST.

    A network of the user's is trained by the recipe that `nets` names, if any.
    """
    work.mkdir(parents=True, exist_ok=True)
    found: list[Row] = []
    for row in _all(work, nets, seed, own):
        found.append(row)
        write_rows(found, work / "rows.csv")
    title = f"CPQ, seed {seed}; drops against fp32 fine-tuned for as many epochs, test split, from the file"
    return Table(title, COLUMNS, [row.cells for row in found], [asdict(row) for row in found])


def _all(work: Path, nets: Sequence[str], seed: int, own: Own | None) -> Iterator[Row]:
    """The rows of the user's network, or of those that are trained here."""
    for name in nets:
        if name not in RECIPES:
            raise UsageError(f"no recipe for {name!r}; there are {', '.join(RECIPES)}, or give --model and --task")
    if own is not None:
        recipe = RECIPES[nets[0]] if nets else OWN
        name = nets[0] if nets else own.weights.stem
        yield from rows(name, own.network, own.task, own.weights, work, recipe, seed)
        return
    for name in nets or ("lenet5",):
        recipe, folder = RECIPES[name], work / f"{name}-seed{seed}"
        task = recipe.task()
        weights = fp32_start(name, task, recipe.fp32_epochs, recipe.fp32_lr, folder, seed)
        yield from rows(name, build(name), task, weights, folder, recipe, seed)


def rows(
    name: str, network: nn.Module, task: Task, weights: Path, folder: Path, recipe: Recipe, seed: int
) -> Iterator[Row]:
    """The control, CPQ without and with DropBits, other methods, learned levels and the same levels of every seed; each
    is trained once, in a folder of its own, and goes on there."""
    control = chosen(recipe, "lsq", seed, bits=32, act_bits=32, kept_dtype="exact")
    place = trained_file(folder / "control", weights, control, network, task)
    reference = load_into(place, deepcopy(network))

    def row(label: str, run: str, method: Method, seed: int = seed) -> Row:
        place = trained_file(folder / run, weights, method, network, task)
        return judged(name, label, place, reference, task, recipe, seed)

    yield judged(name, "fp32", place, reference, task, recipe, seed)
    yield row("cpq", "cpq", chosen(recipe, "cpq", seed))
    yield row("cpq + DropBits", "dropbits", chosen(recipe, "cpq", seed, dropbits=True))
    for other in recipe.beside:
        yield row(other, other, chosen(recipe, other, seed))
    for each in range(seed, seed + recipe.seeds):
        learned: dict[str, Any] = {"dropbits": True, "heterogeneous": True, "penalty": recipe.penalty}
        yield row("learned levels", f"learned-{each}", chosen(recipe, "cpq", each, **learned), each)
        bits = json.loads((folder / f"learned-{each}" / "layer_bits.json").read_text())["layer_bits"]
        same = chosen(recipe, "cpq", each, dropbits=True, layer_bits=bits)
        yield row("same levels", f"same-{each}", same, each)


def chosen(recipe: Recipe, name: str, seed: int, **more: Any) -> Method:
    """The method of a row; all are trained for as many epochs."""
    epochs = {"epochs": recipe.epochs + recipe.refine}
    if name == "cpq":
        epochs = {"epochs": recipe.epochs, "refine": recipe.refine}
    shared = {"lr": recipe.lr, "distill": recipe.distill, "seed": seed}
    return get(name)(**{**shared, **epochs, **recipe.levels, **more})


def judged(name: str, label: str, place: Path, reference: nn.Module, task: Task, recipe: Recipe, seed: int) -> Row:
    """A row, from the file."""
    small = load(place)
    found = evaluate(small.apply_to(deepcopy(reference)).eval(), task, "test", reference)
    assert found.metric is not None and found.drop is not None
    drop, size = found.drop.times(task.points), storage(place)
    codes = [entry.codes for entry in small.tensors.values() if isinstance(entry, QTensor)]
    bits = sum(_width(each) * each.numel() for each in codes) / max(1, sum(each.numel() for each in codes)) or 32.0
    return Row(
        name,
        label,
        seed,
        recipe.epochs + recipe.refine,
        bits,
        found.metric.mean,
        PUBLISHED.get((name, label)),
        drop.mean,
        drop.low,
        drop.high,
        drop.n,
        size.fp32 / size.file,
        size.file,
    )


def _width(codes: Tensor) -> int:
    """The bits of two's complement that hold all codes, or of an index where none is negative."""
    low, high = int(codes.min()), int(codes.max())
    return max(1, high.bit_length()) if low >= 0 else max((-low - 1).bit_length(), high.bit_length()) + 1
