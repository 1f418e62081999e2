"""Constants of gradient rules that are measured in a training."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import nn

from ..analysis.scores import gradients, hessian
from ..core.batch import Batch
from ..network.calibrate import with_loss
from ..quantizers import attach
from ..quantizers.weight import LearnedScale


def measure_deltas(network: nn.Module, batches: Sequence[Batch], seed: int) -> None:
    """Set EWGS's delta of every weight that asks for it: from the trace of the Hessian of the loss by the quantised
    weight (Hutchinson) and the deviation of its gradient (Lee et al. 2021, section 3.3).

    The network is taken in evaluation mode, with inputs of layers unrounded.
    """
    asking = {
        each.name: each
        for each in attach.quantizers(network)
        if isinstance(each.quantizer, LearnedScale) and each.quantizer.delta is not None
    }
    if not asking:
        return
    values = {name: each.quantizer(*each.latents).detach() for name, each in asking.items()}
    plain = deepcopy(network).eval()
    attach.detach(plain)
    with torch.no_grad():
        for name, value in values.items():
            plain.get_parameter(name).copy_(value)
    judged, names = with_loss(plain, list(batches)), list(asking)
    curvature = hessian(plain, names, judged, seed)
    spread = dict.fromkeys(names, 0.0)
    for found in gradients(plain, names, judged):
        for name, gradient in zip(names, found, strict=True):
            spread[name] += 0.0 if gradient is None else float(gradient.std()) / len(judged)
    for name, each in asking.items():
        quantizer = each.quantizer
        assert isinstance(quantizer, LearnedScale)
        quantizer.set_delta(curvature[name], spread[name], each.latents[0])
