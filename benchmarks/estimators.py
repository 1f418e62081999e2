"""The straight-through estimator's problem and its remedies: the numbers and pictures of docs/gradient-estimation.md.

    python benchmarks/estimators.py toy [--out OUT.csv]          # seconds: oscillation and bias on one weight
    TERSENET_DATA=FOLDER python benchmarks/estimators.py train lenet5 mnist WEIGHTS.safetensors --out OUT.csv

`train` fine-tunes the network with W = A at 2 and 3 bits for every estimator and remedy over three seeds (LSQ, 100
batches each) and prints the accuracy on the test split, from the frozen model. Minutes on two cores for LeNet-5.
"""

import argparse
import csv
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import torch

import tersenet
from tersenet.analysis.evaluate import evaluate
from tersenet.api import load_into
from tersenet.cli.factory import make_model, make_task
from tersenet.core.levels import Integers
from tersenet.quantizers.estimators import RULES
from tersenet.quantizers.oscillation import Freezer
from tersenet.quantizers.project import Rounding

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
LEVELS, TARGET, RATE = Integers(-8, 8), 0.3, 0.02
ROWS = ["clipped", "ste", "ewgs", "qea", "qea-project", "dsq", "stacked-sigmoid"]
REMEDIES = ["dampen", "freeze", "stochastic", "uniform"]


def one_weight(rule: str, oscillation: str, steps: int = 3000) -> list[float]:
    """The path of one weight under min (q(w) - 0.3)^2 / 2, gradient descent with rate 0.02."""
    w, path = torch.zeros(1), []
    freezer = Freezer(LEVELS.nearest(w))
    for step in range(steps):
        progress = torch.tensor(step / steps)
        if oscillation == "freeze":
            freezer.watch(w, LEVELS, progress)
        q = torch.where(freezer.frozen, freezer.level, LEVELS.nearest(w))
        g = q - TARGET
        g = RULES[rule](g, Rounding(w, q, LEVELS, torch.ones(()), progress, torch.tensor(RATE)))
        if oscillation == "dampen":
            g = g + 2 * (w - LEVELS.nearest(w))  # lambda = 1
        w = w - RATE * g * ~freezer.frozen
        path.append(float(w))
    return path


def toy(out: Path | None) -> None:
    """Level changes per 1000 steps, and the bias of the straight-through gradient."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    rows: list[list[object]] = []
    for rule, oscillation in [(rule, "none") for rule in ROWS] + [("ste", "dampen"), ("ste", "freeze")]:
        path = one_weight(rule, oscillation)
        levels = [round(w) for w in path[-1001:]]
        changes = sum(a != b for a, b in pairwise(levels))
        name = rule if oscillation == "none" else f"{rule} + {oscillation}"
        rows.append([name, changes, round(100 * sum(levels[1:]) / 1000, 1)])
        print(f"{name:20} {changes:5d} level changes per 1000 steps, {rows[-1][-1]:.1f} % of them at 1")
        if name in ("ste", "ewgs", "ste + dampen", "ste + freeze"):
            left.plot(path[-200:], label=name, linewidth=1)
    left.set(xlabel="step", ylabel="weight", title="min (q(w) - 0.3)² / 2: the last 200 steps")
    left.legend(fontsize=8)
    w = torch.linspace(-1.5, 1.5, 601)
    for name, values in bias(w).items():
        right.plot(w, values, label=name, linewidth=1)
        print(f"{name:45} mean absolute bias {float((values - bias(w)['finite differences']).abs().mean()):.3f}")
    right.set(xlabel="weight", ylabel="gradient", title="L(q) = (q - 0.3)² / 2 + q⁴ / 8")
    right.legend(fontsize=8)
    figure.tight_layout()
    PICTURES.mkdir(exist_ok=True)
    figure.savefig(PICTURES / "gradient-estimation.png", dpi=130)
    if out is not None:
        with out.open("w", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows([["rule", "changes", "percent_at_1"], *rows])


def bias(w: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients at w: of the expected loss under stochastic rounding, and what straight-through rules say instead."""

    def loss(q: torch.Tensor) -> torch.Tensor:
        return (q - TARGET) ** 2 / 2 + q**4 / 8

    def slope(q: torch.Tensor) -> torch.Tensor:
        return q - TARGET + q**3 / 2

    def expected(w: torch.Tensor) -> torch.Tensor:
        low = w.floor()
        return (1 - (w - low)) * loss(low) + (w - low) * loss(low + 1)

    step, low = 1e-4, w.floor()
    share = w - low
    return {
        "finite differences": (expected(w + step) - expected(w - step)) / (2 * step),
        "straight-through, rounding to nearest": slope(w.round()),
        "straight-through, stochastic rounding (mean)": (1 - share) * slope(low) + share * slope(low + 1),
    }


class First:
    """The first batches of a split, drawn anew in every round."""

    def __init__(self, batches: Sequence, count: int) -> None:
        self.batches, self.count = batches, min(count, len(batches))

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator:
        return islice(iter(self.batches), self.count)


def train(model: str, task_name: str, weights: str, out: Path, batches: int, seeds: int) -> None:
    """The ablation table."""
    task, rows = make_task(task_name, []), []
    task = replace(task, train=First(task.train, batches))
    settings = [{"estimator": rule} for rule in ROWS] + [{"estimator": "clipped", "oscillation": r} for r in REMEDIES]
    net = load_into(weights, make_model(model, []))
    print("full precision", evaluate(net, task).metric.mean)
    for fields in settings:
        for bits in (3, 2):
            scores = []
            for seed in range(seeds):
                small = tersenet.compress(
                    net, "lsq", task=task, bits=bits, act_bits=bits, epochs=1, lr=0.01, seed=seed, **fields
                )
                back = small.apply_to(make_model(model, []))
                scores.append(evaluate(back.eval(), task).metric.mean)
            name = " + ".join(fields.values())
            spread = statistics.stdev(scores) if seeds > 1 else 0.0
            rows.append([name, bits, round(statistics.mean(scores), 4), round(spread, 4), seeds])
            print(*rows[-1], sep="\t", flush=True)
            with out.open("w", newline="") as stream:
                csv.writer(stream).writerows([["estimator", "bits", "accuracy", "deviation", "seeds"], *rows])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("toy").add_argument("--out", type=Path)
    table = commands.add_parser("train")
    table.add_argument("model")
    table.add_argument("task")
    table.add_argument("weights")
    table.add_argument("--out", type=Path, default=Path("estimators.csv"))
    table.add_argument("--batches", type=int, default=100)
    table.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    if given.command == "toy":
        toy(given.out)
    else:
        train(given.model, given.task, given.weights, given.out, given.batches, given.seeds)
