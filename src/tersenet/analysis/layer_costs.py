"""Layer by layer: what quantising costs, when only this layer is quantised and when only it is kept."""

import random
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.task import Task
from ..errors import InputError
from ..network.calibrate import calibration, mean_loss, with_loss
from ..network.layers import eval_without_grad, find_layers
from ..progress import progress
from ..quantizers.bases import BASES, first_rounding
from .aggregates import mean_of
from .scores import fisher, hessian, imprint, labels_of, loss_increase, replaced

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
    only this weight is as in `rounded`) or "random".

    **Raises** `InputError` for "imprint" without classes, and for "fisher" where there is no loss but the distance to
    the network itself, which has no gradient.
    """
    if kind == "random":
        generator = random.Random(seed)
        return {name: generator.random() for name in names}
    if kind == "imprint":
        found = imprint(module, task.batches("calibration"), task.batches("validation"), seed).scores()
        return {name: found.get(name, float("nan")) for name in names}
    chosen = with_loss(module, list(islice(task.batches("calibration"), BATCHES)))
    if kind == "sensitivity":
        return loss_increase(module, rounded, chosen)
    if kind == "hessian":
        return hessian(module, names, chosen, seed)
    if any(batch.reference is not None for batch in chosen):
        raise InputError(
            "the fisher score needs a loss, but the task has no targets and the network returns no loss: score layers "
            "by hessian, sensitivity or random"
        )
    return fisher(module, names, chosen)


def survey(module: nn.Module, task: Task, bits: int = 4, kind: str = "imprint", seed: int = 0) -> list[LayerCost]:
    """Every layer of `module` in the order they run, rounded to `bits` bits (uniform, one scale, least squares).

    Losses and agreements are on the first 512 calibration samples; without targets the loss is the distance to the
    outputs of `module`. The module is left as it was.

    **Raises** `InputError` if the calibration split is empty, there is no layer, or the score needs what is not there.
    """
    batches = calibration(task, SAMPLES)
    if kind == "imprint":
        labels_of(batches[0])
    widths = {name: part.element_size() for name, part in module.named_parameters(remove_duplicate=False)}
    if any(part.dtype in (torch.float16, torch.bfloat16) for part in module.parameters()):
        module = deepcopy(module).float()
    with eval_without_grad(module):
        names = list(dict.fromkeys(layer.weight for layer in find_layers(module, batches[0].first(2))))
    if not names:
        raise InputError(f"{type(module).__name__} runs no convolution or linear layer: there is nothing to survey")
    rounded = {name: first_rounding(BASES["uniform"], module.get_parameter(name).detach(), bits) for name in names}
    scores = scores_of(kind, module, task, names, seed, rounded)
    batches = with_loss(module, batches)
    with eval_without_grad(module), torch.no_grad():
        reference = [batch.outputs(module) for batch in batches]
        base = _measure(module, batches, reference)
        rows = []
        for done, name in enumerate(names):
            with replaced(module, {name: rounded[name]}):
                alone = _measure(module, batches, reference)
            with replaced(module, {other: value for other, value in rounded.items() if other != name}):
                kept = _measure(module, batches, reference)
            weight = module.get_parameter(name)
            size = weight.numel() * widths[name]
            changes = (alone[0] - base[0], alone[1] - 1, kept[0] - base[0], kept[1] - 1)
            rows.append(LayerCost(name, weight.numel(), size, scores[name], *changes))
            progress("quantising one layer at a time", done + 1, len(names))
    return rows


def _measure(module: nn.Module, batches: Sequence[Batch], reference: Sequence[Tensor]) -> tuple[float, float]:
    """Mean loss, and mean agreement with the reference outputs."""
    expected, agree = iter(reference), []
    loss = mean_loss(module, batches, lambda batch, raw: agree.append(batch.agreement(batch.seen(raw), next(expected))))
    return loss, mean_of(agree)
