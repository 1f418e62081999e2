"""Ajanthan et al. 2021: mirror descent beside BinaryConnect, ProxQuant, GD-tanh and PMF, binary and ternary."""

import json
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...analysis.evaluate import evaluate
from ...api import compress_file, load, load_into, open_inputs
from ...core.grid import Codebook
from ...core.method import Job, RunFolder
from ...core.model import QTensor
from ...core.task import Batches, Task
from ...errors import UsageError
from ...files.atomic import replacing_file
from ...files.summary import summarize
from ...methods.mirror import Mirror
from ...methods.mirror.projected import Projected
from ...quantizers import attach
from ...training.phases import Training
from ...training.processes import Processes
from ...training.run import run_of
from .. import images
from ..fp32 import train_fp32
from ..models import build
from ..rows import write_rows
from . import Own, Table

MAIN = ("md-tanh", "md-softmax", "binaryconnect")
OTHERS = ("proxquant", "gd-tanh", "pmf")
STATES = (2, 3)
CLOSE = 0.01  # how near a soft weight is to a level, in units of the scale, not to count as between two


class NormedLeNet5(nn.Module):
    """LeNet-5 with a batch norm without scale and shift after every layer, the last one too.

    **Shapes**: `[n, 1, 28, 28]` -> `[n, 10]`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 20, 5), nn.BatchNorm2d(20, affine=False)
        self.conv2, self.bn2 = nn.Conv2d(20, 50, 5), nn.BatchNorm2d(50, affine=False)
        self.fc1, self.bn3 = nn.Linear(800, 500), nn.BatchNorm1d(500, affine=False)
        self.fc2, self.bn4 = nn.Linear(500, 10), nn.BatchNorm1d(10, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.bn1(self.conv1(x)), 2))
        x = F.relu(F.max_pool2d(self.bn2(self.conv2(x)), 2))
        logits: Tensor = self.bn4(self.fc2(F.relu(self.bn3(self.fc1(x.flatten(1))))))
        return logits


class Some:
    """The first `count` batches of a split that is drawn anew in every round."""

    def __init__(self, batches: Batches, count: int) -> None:
        self.batches, self.count = batches, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.batches), self.count)


@dataclass(frozen=True)
class Recipe:
    """A network, its task, and how long it is trained: in fp32, and on levels, with `batches` an epoch (or all).

    With `paper` that is from a random start. The rules of `MAIN` run with `seeds` seeds, those in `others` with one;
    `betas` are further final betas of the first rule.
    """

    network: Callable[[], nn.Module]
    task: Callable[[], Task]
    fp32_epochs: int
    fp32_lr: float
    epochs: int
    lr: float
    batches: int | None = None
    paper: bool = False
    seeds: int = 1
    others: tuple[str, ...] = ()
    betas: tuple[float, ...] = ()


MNIST = partial(images.mnist, normalise=False)
RECIPES = {
    "lenet5": Recipe(
        partial(build, "lenet5"), MNIST, 3, 0.05, 1, 0.001, batches=200, seeds=3, others=OTHERS, betas=(1e3, 1e6)
    ),
    "lenet5-paper": Recipe(NormedLeNet5, MNIST, 1, 0.05, 1, 0.03, paper=True),
}
OWN = Recipe(nn.Module, Task, 4, 0.02, 12, 0.001)  # for a network of the user's, which is fine-tuned in fp32 first

COLUMNS = (
    "network",
    "rule",
    ">levels",
    ">final beta",
    ">seed",
    ">epochs",
    ">fp32 %",
    ">test %",
    ">drop, points (95 %)",
    ">soft %",
    ">between, %",
    ">bits a weight",
    ">file bytes",
)


@dataclass(frozen=True)
class Row:
    """One network on levels: accuracies on the test split, rounded (from its file) and as the projection is at the end.

    `between` is the share of the weights that are farther than 0.01 from a level then (where levels are -1 and 1: |w| <
    0.99), `bits` the bits a weight takes in the file with all that belongs to it.
    """

    network: str
    rule: str
    states: int
    final_beta: float
    seed: int
    epochs: int
    fp32: float
    accuracy: float
    drop: float
    low: float
    high: float
    soft: float
    between: float
    bits: float
    file_bytes: int

    @property
    def cells(self) -> tuple[object, ...]:
        """As people see it, in the order of `COLUMNS`."""
        drop = f"{self.drop:.2f} ({self.low:.2f} to {self.high:.2f})"
        return (
            self.network,
            self.rule,
            self.states,
            f"{self.final_beta:g}",
            self.seed,
            self.epochs,
            f"{100 * self.fp32:.2f}",
            f"{100 * self.accuracy:.2f}",
            drop,
            f"{100 * self.soft:.2f}",
            f"{100 * self.between:.3f}",
            f"{self.bits:.4f}",
            f"{self.file_bytes:,}",
        )


def table(work: Path, nets: Sequence[str], seed: int, own: Own | None) -> Table:
    """Train in fp32 and by every rule, judge from the file; LeNet-5 on MNIST, from a checkpoint and as in the paper.

    Rows go to `mirror.csv` in `work` as they come. **Raises** `UsageError` for an unknown network.
    """
    for name in nets:
        if name not in RECIPES:
            raise UsageError(f"no recipe for {name!r}; there are {', '.join(RECIPES)}, or give --model and --task")
    found: list[Row] = []
    for row in _all_rows(work, nets or tuple(RECIPES), seed, own):
        found.append(row)
        write_rows(found, work / "mirror.csv")
    title = f"mirror descent, from seed {seed}; test accuracy from the file, drops against fp32"
    return Table(title, COLUMNS, [row.cells for row in found], [asdict(row) for row in found])


def _all_rows(work: Path, nets: Sequence[str], seed: int, own: Own | None) -> Iterator[Row]:
    if own is not None:
        start = load_into(own.weights, deepcopy(own.network))
        yield from rows(own.weights.stem, OWN, start, own.task, work, seed)
        return
    for name in nets:
        torch.manual_seed(seed)
        yield from rows(name, RECIPES[name], RECIPES[name].network(), RECIPES[name].task(), work, seed)


def rows(name: str, recipe: Recipe, network: nn.Module, task: Task, work: Path, seed: int) -> Iterator[Row]:
    """All rows of a network, which is trained in fp32 first. What is kept in `work` is not done again."""
    folder = work / f"{name}-seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "fp32.safetensors"
    if not weights.is_file():
        train_fp32(network, task, recipe.fp32_epochs, recipe.fp32_lr, folder / "fp32", weights, seed)
    reference = load_into(weights, network)
    if recipe.batches is not None:
        task = replace(task, train=Some(task.split("train"), recipe.batches))
    for method in plan(recipe, seed):
        named = f"{method.rule}-{method.states}-beta{method.final_beta:g}-seed{method.seed}"
        place, kept = folder / f"{named}.terse", folder / f"{named}.json"
        if not kept.is_file():
            row = made(name, method, weights, place, reference, task)
            with replacing_file(kept, overwrite=True) as stream:
                stream.write(json.dumps(asdict(row)).encode())
        yield Row(**json.loads(kept.read_text("utf-8")))


def plan(recipe: Recipe, seed: int) -> Iterator[Mirror]:
    """The methods of a recipe, those that are compared first."""
    first, default = range(seed, seed + 1), Mirror.final_beta
    parts: list[tuple[tuple[str, ...], range, float]] = [(MAIN, range(seed, seed + recipe.seeds), default)]
    parts += [(recipe.others, first, default), *((MAIN[:1], first, beta) for beta in recipe.betas)]
    for rules, seeds, beta in parts:
        for each, states, rule in product(seeds, STATES, rules):
            if recipe.paper and rule == "binaryconnect" and states == 3:
                continue  # every weight would begin at 0
            given: dict[str, Any] = {"rule": rule, "states": states, "seed": each, "final_beta": beta}
            yield Mirror(**given, epochs=recipe.epochs, lr=recipe.lr, paper=recipe.paper)


def made(name: str, method: Mirror, weights: Path, place: Path, reference: nn.Module, task: Task) -> Row:
    """A row: trained, unless the file is there, and judged."""
    run = place.with_suffix("")
    if not place.is_file():
        kept = RunFolder(run, (run / "run.json").is_file())
        compress_file(weights, place, method, module=deepcopy(reference), task=task, run=kept)
    small = load(place)
    found = evaluate(small.apply_to(deepcopy(reference)).eval(), task, "test", reference)
    assert found.metric is not None and found.reference is not None and found.drop is not None
    soft, between = softened(method, weights, deepcopy(reference), task, run)
    judged = evaluate(soft, task).metric
    assert judged is not None
    drop = found.drop.times(task.points)
    return Row(
        name,
        method.rule,
        method.states,
        method.final_beta,
        method.seed,
        method.epochs,
        found.reference.mean,
        found.metric.mean,
        drop.mean,
        drop.low,
        drop.high,
        judged.mean,
        between,
        bits_per_weight(place),
        place.stat().st_size,
    )


def softened(method: Mirror, weights: Path, network: nn.Module, task: Task, run: Path) -> tuple[nn.Module, float]:
    """The network of a finished training with its weights as the projection is at the end, and the share of the weights
    that is between levels."""
    source, filled = open_inputs(weights, network)
    assert filled is not None
    job = Job(source, filled, task.for_method(), RunFolder(run, resume=True))
    with run_of(method, job) as folder, torch.no_grad():
        trained = deepcopy(filled)
        training = Training(method, job, trained, Processes(), folder)
        method.on_start(trained)
        trained = training.trained()
        attach.anneal(trained, 1.0, 0.0)
        state, between, count = attach.latent_state(trained), 0, 0
        for tensor, quantizer, latents in attach.quantizers(trained):
            state[tensor] = quantizer(*latents)
            if isinstance(quantizer, Projected):
                soft, level = quantizer.soft(*latents), quantizer.rounded(*latents)
                state[tensor] = soft * quantizer.scale
                between += int(((soft - level).abs() > CLOSE).sum())
                count += soft.numel()
    if not count:
        raise UsageError(f"{weights} has no layer between the first and the last, so nothing of it is on levels")
    plain = deepcopy(filled)
    plain.load_state_dict(state)
    return plain.eval(), between / count


def bits_per_weight(place: Path) -> float:
    """8 x bytes of what belongs to the tensors on levels / their weights."""
    small = load(place)
    on_levels = {n for n, e in small.tensors.items() if isinstance(e, QTensor) and isinstance(e.grid, Codebook)}
    parts = [row for row in summarize(place).rows if row.name in on_levels]
    return 8 * sum(row.bytes + row.index_bytes for row in parts) / sum(row.weights for row in parts)
