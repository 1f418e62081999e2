"""Yang et al. 2021: bits, bytes and accuracy of BSQ over its penalty alpha, beside fp32 fine-tuned for as many epochs.

Bits are given as the paper counts them, without the sign, and with it; the ratio is that of the file. The control and
every row start from the same weights, with the same rate, distillation and sum of epochs. Rows that are finished are
in `rows.csv` in the work folder.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ...analysis.evaluate import evaluate
from ...api import load, load_into
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
    """A network's task, how long it is trained in fp32 (0: not here) and how fast, epochs of BSQ's two phases, and the
    penalties."""

    task: Callable[[], Task]
    fp32_epochs: int
    fp32_lr: float
    epochs: int
    refine: int
    lr: float = 0.02
    distill: float = 0.5
    alphas: tuple[float, ...] = (3e-3, 5e-3, 7e-3, 1e-2, 2e-2)  # the paper's


RECIPES = {
    "lenet5": Recipe(images.mnist, 4, 0.05, 3, 2),
    "resnet20": Recipe(images.cifar10, 100, 0.1, 2, 2, alphas=(3e-3, 2.5e-3, 2e-3)),
}
OWN = Recipe(Task, 0, 0.0, 2, 2, alphas=(3e-3, 2.5e-3, 2e-3))
PUBLISHED = {("resnet20", 5e-3): 14.24}  # the paper's ratio, without the sign, with 4-bit activations

COLUMNS = (
    "network",
    ">alpha",
    ">epochs",
    ">test %",
    ">drop, points (95 %)",
    ">bits",
    ">with sign",
    ">32 / bits",
    ">paper",
    ">file ratio",
    ">file bytes",
)


@dataclass(frozen=True)
class Row:
    """One network on the test split, decoded from its file: `alpha` is None for the control, to which drops are."""

    network: str
    alpha: float | None
    seed: int
    epochs: int
    accuracy: float
    drop: float
    low: float
    high: float
    images: int
    bits: float
    bits_with_sign: float
    published: float | None
    file_ratio: float
    file_bytes: int

    @property
    def cells(self) -> tuple[object, ...]:
        """As people see it, in the order of `COLUMNS`."""
        control = self.alpha is None
        return (
            self.network,
            "fp32" if control else f"{self.alpha:g}",
            self.epochs,
            f"{100 * self.accuracy:.2f}",
            "" if control else f"{self.drop:.2f} ({self.low:.2f} to {self.high:.2f})",
            f"{self.bits:.2f}",
            f"{self.bits_with_sign:.2f}",
            f"{32 / self.bits:.2f}",
            self.published or "",
            f"{self.file_ratio:.2f}",
            f"{self.file_bytes:,}",
        )


def table(work: Path, nets: Sequence[str], seed: int, own: Own | None) -> Table:
    """Fine-tune the control, compress with every alpha, judge from the files; by default LeNet-5 on MNIST."""
    work.mkdir(parents=True, exist_ok=True)
    found: list[Row] = []
    for row in _all(work, nets or ("lenet5",), seed, own):
        found.append(row)
        write_rows(found, work / "rows.csv")
    title = f"BSQ, seed {seed}; drops against fp32 fine-tuned for as many epochs, test accuracy from the file"
    return Table(title, COLUMNS, [row.cells for row in found], [asdict(row) for row in found])


def _all(work: Path, nets: Sequence[str], seed: int, own: Own | None) -> Iterator[Row]:
    """The rows of the user's network, or of those of the paper and LeNet-5, trained here."""
    if own is not None:
        yield from rows(own.weights.stem, own.network, own.task, own.weights, work, OWN, seed)
        return
    for name in nets:
        if name not in RECIPES:
            raise UsageError(f"no recipe for {name!r}; there are {', '.join(RECIPES)}, or give --model and --task")
        recipe, folder = RECIPES[name], work / f"{name}-seed{seed}"
        task = recipe.task()
        weights = fp32_start(name, task, recipe.fp32_epochs, recipe.fp32_lr, folder, seed)
        yield from rows(name, build(name), task, weights, folder, recipe, seed)


def rows(
    name: str, network: nn.Module, task: Task, weights: Path, folder: Path, recipe: Recipe, seed: int
) -> Iterator[Row]:
    """The control, then every alpha; each is trained once, in a folder of its own, and goes on there."""
    shared: dict[str, Any] = {"lr": recipe.lr, "distill": recipe.distill, "seed": seed}
    control: dict[str, Any] = {"bits": 32, "kept_dtype": "exact", "epochs": recipe.epochs + recipe.refine}
    place = trained_file(folder / "control", weights, get("lsq")(**shared, **control), network, task)
    reference = load_into(place, deepcopy(network))
    yield judged(name, None, place, reference, task, recipe, seed)
    for alpha in recipe.alphas:
        own: dict[str, Any] = {"alpha": alpha, "epochs": recipe.epochs, "refine": recipe.refine}
        place = trained_file(folder / f"alpha-{alpha:g}", weights, get("bsq")(**shared, **own), network, task)
        yield judged(name, alpha, place, reference, task, recipe, seed)


def judged(
    name: str, alpha: float | None, place: Path, reference: nn.Module, task: Task, recipe: Recipe, seed: int
) -> Row:
    """A row, from the file."""
    small = load(place)
    found = evaluate(small.apply_to(deepcopy(reference)).eval(), task, "test", reference)
    assert found.metric is not None and found.drop is not None
    drop, size = found.drop.times(task.points), storage(place)
    bits = small.provenance["bsq"]["bits"] if alpha is not None else {"without_sign": 32.0, "with_sign": 32.0}
    return Row(
        name,
        alpha,
        seed,
        recipe.epochs + recipe.refine,
        found.metric.mean,
        drop.mean,
        drop.low,
        drop.high,
        drop.n,
        bits["without_sign"],
        bits["with_sign"],
        PUBLISHED.get((name, alpha or 0.0)),
        size.fp32 / size.file,
        size.file,
    )
