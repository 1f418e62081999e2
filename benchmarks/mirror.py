"""Mirror descent and the straight-through estimator: the picture and numbers of docs/gradient-estimation.md.

python benchmarks/mirror.py [--out OUT.csv]                  # seconds
"""

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from tersenet.methods.mirror.projected import Projected, Rule, tanh_projection

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
BINARY, TERNARY = (-1.0, 1.0), (-1.0, 0.0, 1.0)
STEPS, RATE = 400, 0.02


def quantizer(rule: Rule, betas: tuple[float, float], size: int = 1) -> Projected:
    """Binary weights without a scale."""
    return Projected(torch.zeros(size), BINARY, rule, betas, scaled=False).train()


def descended(rule: Rule, betas: tuple[float, float], inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and duals in all steps of gradient descent on `mean((inputs w - targets)^2) / 2`, beta as in `betas`."""
    part = quantizer(rule, betas, inputs.shape[1])
    dual = torch.linspace(-0.5, 0.6, inputs.shape[1]) if inputs.shape[1] > 1 else torch.tensor([-0.2])
    weights, duals = [], []
    for step in range(STEPS):
        part.anneal(step / STEPS, RATE)
        dual.requires_grad_()
        value = part(dual)
        (grad,) = torch.autograd.grad((inputs @ value - targets).square().mean() / 2, dual)
        dual = dual.detach() - RATE * grad
        part.after_step(dual)
        weights.append(value.detach())
        duals.append(dual.clone())
    return torch.stack(weights), torch.stack(duals)


def against_binaryconnect(out: Path | None) -> None:
    """How far duals and signs are from BinaryConnect's when beta is fixed."""
    generator = torch.Generator().manual_seed(0)
    inputs, hidden = (torch.randn(*shape, generator=generator) for shape in ((64, 24), (24,)))
    targets = inputs @ hidden.sign()
    limit = descended("binaryconnect", (1.0, 1.0), inputs, targets)[1]
    rows: list[list[object]] = []
    print("beta       largest difference of duals   signs that differ at the end")
    for beta in (1.0, 10.0, 1e2, 1e3, 1e4, 1e30):
        duals = descended("md-tanh", (beta, beta), inputs, targets)[1].clamp(-1, 1)
        away, signs = float((duals - limit).abs().max()), int((duals[-1].sign() != limit[-1].sign()).sum())
        rows.append([f"{beta:g}", f"{away:.2g}"])
        print(f"{beta:<10g} {away:<29.4g} {signs}")
    if out is not None:
        with out.open("w", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows([["beta", "difference"], *rows])


def picture() -> None:
    """Projections, what reaches the dual of a gradient, and one weight whose best value lies between the levels."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.6))
    dual = torch.linspace(-1.5, 1.5, 601)
    for number, beta in enumerate((1.0, 4.0, 16.0, 1e4)):
        color, binary = f"C{number}", tanh_projection(dual, beta, BINARY)
        left.plot(dual, binary, linewidth=1, label=f"beta = {beta:g}", color=color)
        left.plot(dual, tanh_projection(dual, beta, TERNARY), "--", linewidth=1, color=color)
        middle.plot(dual, beta * (1 - binary**2), linewidth=1, label=f"gd-tanh, beta = {beta:g}", color=color)
    middle.plot(dual, torch.ones_like(dual), "k", label="md-tanh and binaryconnect")
    left.set(xlabel="dual", ylabel="weight", title="projections: binary, ternary (dashed)")
    middle.set(xlabel="dual", ylabel="factor", title="what reaches the dual of a gradient", ylim=(0, 8))
    one, best = torch.ones(1, 1), torch.tensor([0.3])
    for rule in ("md-tanh", "gd-tanh", "proxquant", "binaryconnect"):
        weights = descended(rule, (1.0, 1e4), one, best)[0]
        shown = weights if rule != "binaryconnect" else weights[:, 0].unfold(0, 25, 1).mean(1)
        right.plot(shown, label=rule if shown is weights else f"{rule}, mean of 25 steps", linewidth=1)
        mean, last = float(weights[-100:].mean()), float(weights[-1])
        print(f"{rule:15} mean weight of the last 100 steps {mean:6.3f}, last one {last:6.3f}")
    right.set(xlabel="step", ylabel="weight", title="min (w - 0.3)² / 2, beta from 1 to 10,000")
    for part, place in ((left, "upper left"), (middle, "upper left"), (right, "lower left")):
        part.legend(fontsize=7, loc=place)
    figure.tight_layout()
    PICTURES.mkdir(exist_ok=True)
    figure.savefig(PICTURES / "mirror.png", dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="A CSV file for the largest differences of duals.")
    against_binaryconnect(parser.parse_args().out)
    picture()
