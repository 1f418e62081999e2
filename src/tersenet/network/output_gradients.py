"""How much an error at the output of a layer moves the output of the network."""

from typing import Any

import torch
from torch import Tensor, nn

from ..progress import progress
from .layers import Layer, frozen

PROBES = 4


def output_sensitivity(module: nn.Module, layers: list[Layer], inputs: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Mean squared gradient of the network's (centred) output with respect to every channel of every layer's output.

    `g[c] = E |d z / d y_c|^2`, the diagonal of the Gauss-Newton matrix for a squared loss on the logits, by random
    projections of z and averaged over positions and inputs. A thousandth of the mean is added, so none is 0.

    **Shapes**: `inputs` `[n, ...]` -> by path `[channels]`.
    """
    generator = torch.Generator().manual_seed(seed)
    outputs: dict[str, Tensor] = {}
    sums: dict[str, Tensor] = {}

    def keep(path: str) -> Any:
        def hook(part: nn.Module, given: Any, output: Tensor) -> None:
            outputs[path] = output

        return hook

    handles = [module.get_submodule(layer.path).register_forward_hook(keep(layer.path)) for layer in layers]
    try:
        with frozen(module), torch.enable_grad():
            for done, batch in enumerate(inputs.split(32)):
                outputs.clear()
                logits = first_tensor(module(batch.clone().requires_grad_())).flatten(1)
                logits = logits - logits.mean(1, keepdim=True)
                for _ in range(PROBES):
                    probe = (torch.randn(logits.shape, generator=generator) * logits).sum()
                    gradients = torch.autograd.grad(probe, list(outputs.values()), retain_graph=True, allow_unused=True)
                    for path, gradient in zip(list(outputs), gradients, strict=True):
                        if gradient is not None:
                            sums[path] = sums.get(path, torch.zeros(())) + _per_channel(module, path, gradient.square())
                progress("measuring sensitivity", done + 1, -(-len(inputs) // 32))
    finally:
        for handle in handles:
            handle.remove()
    scale = PROBES * len(inputs)
    means = {path: total / scale for path, total in sums.items()}
    return {path: mean + mean.mean() / 1000 for path, mean in means.items() if float(mean.mean()) > 0}


def first_tensor(output: Any) -> Tensor:
    """The output, or the first tensor of a tuple, list or mapping."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values())) if hasattr(output, "values") else output[0]
    return output


def _per_channel(module: nn.Module, path: str, squared: Tensor) -> Tensor:
    """Summed over inputs, averaged over positions. Channels are last for linear layers, else axis 1."""
    if isinstance(module.get_submodule(path), nn.Linear):
        return squared.flatten(1, -2).mean(1).sum(0) if squared.dim() > 2 else squared.sum(0)
    return squared.flatten(2).mean(2).sum(0)
