"""Batch norm re-estimation: running statistics of the network as it is now."""

from collections.abc import Iterable
from itertools import islice

import torch
from torch import nn

from ..core.batch import run
from .layers import BATCH_NORMS, Given

BATCHES = 50


def reestimate(module: nn.Module, inputs: Iterable[Given]) -> None:
    """Replace the running statistics of every batch norm by their average over the first 50 batches of `inputs`.

    Everything but batch norm is in evaluation mode meanwhile. Layers without running statistics are left alone.
    """
    norms = [part for part in module.modules() if isinstance(part, BATCH_NORMS) and part.track_running_stats]
    if not norms:
        return
    training = {part: part.training for part in module.modules()}
    momentum = {norm: norm.momentum for norm in norms}
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    try:
        with torch.no_grad():
            for batch in islice(inputs, BATCHES):
                run(module, batch)
    finally:
        for norm in norms:
            norm.momentum = momentum[norm]
        for part, was in training.items():
            part.training = was
