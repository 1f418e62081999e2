"""How much an error at the output of a layer moves the output of the network."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.likeness import counted
from ..core.nested import mapped
from ..core.samples import Samples
from ..progress import progress
from .layers import Layer, differentiable, eval_without_grad

BATCH = 32
PROBES = 4


def output_sensitivity(module: nn.Module, layers: list[Layer], inputs: Any, seed: int = 0) -> dict[str, Tensor]:
    """Mean squared gradient of the network's (centred) output with respect to every channel of every layer's output.

    `g[c] = E |d z / d y_c|^2`, the diagonal of the Gauss-Newton matrix for a squared loss on the logits, by random
    projections of z and averaged over positions and inputs. A thousandth of the mean is added, so none is 0. Padding
    counts in neither.

    **Shapes**: `inputs` are `Samples`, or `[n, ...]` -> by path `[channels]`.
    """
    generator = torch.Generator().manual_seed(seed)
    samples, done = Samples.of(inputs), 0
    outputs: dict[str, Tensor] = {}
    sums: dict[str, Tensor] = {}

    def keep(path: str) -> Any:
        def hook(part: nn.Module, given: Any, output: Tensor) -> Tensor:
            if not output.requires_grad:  # nothing before it does: inputs are integers
                output = output.detach().requires_grad_()
                outputs[path] = output
                return output.clone()  # what follows may work in place
            outputs[path] = output
            return output

        return hook

    handles = [module.get_submodule(layer.path).register_forward_hook(keep(layer.path)) for layer in layers]
    try:
        with eval_without_grad(module), differentiable(module):
            for batch in samples.split(BATCH):
                outputs.clear()
                logits = _centred(batch, _leaf(batch).outputs(module))
                for _ in range(PROBES):
                    probe = (torch.randn(logits.shape, generator=generator).to(logits.device) * logits).sum()
                    gradients = torch.autograd.grad(probe, list(outputs.values()), retain_graph=True, allow_unused=True)
                    for path, gradient in zip(list(outputs), gradients, strict=True):
                        if gradient is not None:
                            found = _per_channel(module, path, gradient.square(), batch.padding)
                            sums[path] = sums.get(path, torch.zeros(())) + found
                done += len(batch)
                progress("measuring sensitivity", done, len(samples))
    finally:
        for handle in handles:
            handle.remove()
    scale = PROBES * len(samples)
    means = {path: total / scale for path, total in sums.items()}
    return {path: mean + mean.mean() / 1000 for path, mean in means.items() if float(mean.mean()) > 0}


def _leaf(batch: Batch) -> Batch:
    """The batch with inputs that gradients reach, where they are floats."""

    def leaf(part: Any) -> Any:
        return part.clone().requires_grad_() if isinstance(part, Tensor) and part.is_floating_point() else part

    return replace(batch, inputs=mapped(leaf, batch.inputs))


def _centred(batch: Batch, outputs: Tensor) -> Tensor:
    """The outputs of every sample (of a sequence, of every position that counts) minus their mean."""
    mask = batch.mask(outputs)
    rows = outputs.flatten(1) if mask is None or outputs.dim() == 2 else counted(outputs, mask)
    return rows - rows.mean(1, keepdim=True)


def _per_channel(module: nn.Module, path: str, squared: Tensor, mask: Tensor | None) -> Tensor:
    """Summed over inputs, averaged over positions. Channels are last for linear layers, else axis 1."""
    if isinstance(module.get_submodule(path), nn.Linear):
        if mask is not None and squared.shape[:-1] == mask.shape:
            mask = mask.to(squared)
            return ((squared * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)).sum(0)
        return squared.flatten(1, -2).mean(1).sum(0) if squared.dim() > 2 else squared.sum(0)
    return squared.flatten(2).mean(2).sum(0)
