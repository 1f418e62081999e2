"""Layer by layer: what quantising costs, when only this layer is quantised and when only it is kept."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.task import Task
from ..errors import InputError
from ..network.calibrate import calibration
from ..network.layers import find_layers, frozen
from ..progress import progress
from ..quantizers.bases import BASES, first_rounding
from .scores import Batch, fisher, hessian, imprint, loss_increase, replaced

BATCHES = 4  # that curvature is measured on
SAMPLES = 512


@dataclass(frozen=True)
class LayerCost:
    """One layer: its weights and their bytes, its score, and changes of the mean loss and of the agreement with the
    unquantised network when only it is quantised (`alone`) and when everything else is (`kept`)."""

    name: str
    weights: int
    bytes: int
    score: float
    loss_alone: float
    agreement_alone: float
    loss_kept: float
    agreement_kept: float


def scores_of(
    kind: str, module: nn.Module, task: Task, names: Sequence[str], seed: int, rounded: Mapping[str, Tensor]
) -> dict[str, float]:
    """The score of every weight in `names`: "imprint", "fisher", "hessian", "sensitivity" (what the loss rises by where
    only this weight is as in `rounded`) or "random"."""
    batches = list(task.split("calibration"))
    if kind == "imprint":
        found = imprint(module, batches, task.split("validation"), seed).scores()
        return {name: found.get(name, float("nan")) for name in names}
    if kind == "random":
        generator = random.Random(seed)
        return {name: generator.random() for name in names}
    chosen = batches[:BATCHES]
    if kind == "sensitivity":
        return loss_increase(module, task, rounded, chosen)
    return fisher(module, task, names, chosen) if kind == "fisher" else hessian(module, task, names, chosen, seed)


def survey(module: nn.Module, task: Task, bits: int = 4, kind: str = "imprint", seed: int = 0) -> list[LayerCost]:
    """Every layer of `module` in the order they run, rounded to `bits` bits (uniform, one scale, least squares).

    Losses and agreements are on the first 512 calibration images. The module is left as it was.

    **Raises** `InputError` if the calibration split is empty or there is no layer.
    """
    batches = calibration(task, SAMPLES)
    with frozen(module):
        names = list(dict.fromkeys(layer.weight for layer in find_layers(module, batches[0][0][:2])))
    if not names:
        raise InputError(f"{type(module).__name__} runs no convolution or linear layer: there is nothing to survey")
    rounded = {name: first_rounding(BASES["uniform"], module.get_parameter(name).detach(), bits) for name in names}
    scores = scores_of(kind, module, task, names, seed, rounded)
    with frozen(module):
        reference = [module(inputs) for inputs, _ in batches]
        base = _measure(module, task, batches, reference)
        rows = []
        for done, name in enumerate(names):
            with replaced(module, {name: rounded[name]}):
                alone = _measure(module, task, batches, reference)
            with replaced(module, {other: value for other, value in rounded.items() if other != name}):
                kept = _measure(module, task, batches, reference)
            weight = module.get_parameter(name)
            size = weight.numel() * weight.element_size()
            changes = (alone[0] - base[0], alone[1] - 1, kept[0] - base[0], kept[1] - 1)
            rows.append(LayerCost(name, weight.numel(), size, scores[name], *changes))
            progress("quantising one layer at a time", done + 1, len(names))
    return rows


def _measure(
    module: nn.Module, task: Task, batches: Sequence[Batch], reference: Sequence[Tensor]
) -> tuple[float, float]:
    """Mean loss, and mean agreement with the reference outputs."""
    loss = agree = count = 0.0
    with torch.no_grad():
        for (inputs, targets), expected in zip(batches, reference, strict=True):
            outputs = module(inputs)
            loss += float(task.loss(outputs, targets)) * len(targets)
            agree += float(task.agreement(outputs, expected).sum())
            count += len(targets)
    return loss / count, agree / count
