"""Rewriting a network so that it computes the same with weights that are easier to quantise.

Batch norm is folded into the layer before it: `W' = a W, b' = a (b - mean) + beta, a = gamma / sqrt(var + eps)`. What
remains is an equivalent batch norm of weight 1 that only shifts. Then channels are equalised between layers
that follow each other through nothing but positively homogeneous functions (ReLU, pooling): with r1, r2 the largest
magnitudes of channel i in the rows of the first and the columns of the second, row i is divided and column i
multiplied by `s_i = sqrt(r1 / r2)`, so that both have the range `sqrt(r1 r2)` (Nagel et al. 2019, arXiv 1906.04721).

Whether layers follow each other is tried on inputs, not deduced from the code.
"""

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.method import TensorSource
from ..core.nested import mapped
from ..errors import UsageError
from .kept import BN_PARTS, ChangedSource, scale_and_shift
from .layers import BATCH_NORMS, Given, Layer, eval_without_grad, find_layers, flat, same
from .synthesize import guess_shape

ROUNDS = 50
SETTLED = 1e-3  # of a round's largest change of log s
LIMIT = 2.0**10  # of s
LARGE = 100.0  # times the inputs that are given


def fold(module: nn.Module, inputs: Given) -> list[Layer]:
    """Fold every batch norm that a layer feeds alone into that layer (in place); return those layers.

    Other batch norms become pairs of scale and shift. The output in evaluation mode stays the same to fp32 rounding.

    **Shapes**: `inputs` `[n, ...]`, a few.
    """
    with eval_without_grad(module), torch.no_grad():
        layers = [layer for layer in find_layers(module, inputs) if layer.batch_norm]
        before = {layer.batch_norm: module.get_submodule(layer.path) for layer in layers}
        for path, norm in module.named_modules():
            if not isinstance(norm, BATCH_NORMS) or norm.running_var is None or not norm.affine:
                continue
            new = scale_and_shift({name: getattr(norm, name) for name in BN_PARTS}, norm.eps)
            if path in before:
                for tensor in (before[path].weight, before[path].bias):
                    if isinstance(tensor, Tensor):
                        tensor.mul_(new["weight"].reshape(-1, *[1] * (tensor.dim() - 1)))
                new["weight"] = torch.ones_like(new["weight"])
            for name in BN_PARTS:
                getattr(norm, name).copy_(new[name])
    return layers


@dataclass(frozen=True)
class Link:
    """Two layers that follow each other: the tensors whose channel i is divided by s_i, the weight that is multiplied,
    and how many of its columns belong to a channel (after a flattened map: its positions)."""

    rows: tuple[Tensor, ...]
    columns: Tensor
    each: int

    def scale(self, s: Tensor) -> None:
        """Divide the rows by `s` and multiply the columns. **Shapes**: `[channels]`."""
        for tensor in self.rows:
            tensor.div_(s.reshape(-1, *[1] * (tensor.dim() - 1)))
        depthwise = self.columns.shape[1] == 1 and len(self.columns) == len(s)
        spread = s if depthwise else s.repeat_interleave(self.each)
        shape = (-1, *[1] * (self.columns.dim() - 1)) if depthwise else (1, -1, *[1] * (self.columns.dim() - 2))
        self.columns.mul_(spread.reshape(shape))

    def factors(self) -> Tensor:
        """`sqrt(r1 / r2)`, 1 where either is 0."""
        first = self.rows[0].flatten(1).abs().amax(1)
        if self.columns.shape[1] == 1 and len(self.columns) == len(first):
            second = self.columns.flatten(1).abs().amax(1)
        else:
            second = self.columns.transpose(0, 1).flatten(1).abs().amax(1).unflatten(0, (-1, self.each)).amax(1)
        s = (first / second).sqrt()
        return torch.where((first > 0) & (second > 0), s, torch.ones_like(s)).clamp(1 / LIMIT, LIMIT)


def equalise(module: nn.Module, inputs: Given) -> int:
    """Equalise channels between layers that follow each other (in place, evaluation mode); return how many pairs.

    Batch norm should have been folded: rows in front of one that was not are left alone. The output stays the same to
    fp32 rounding.
    """
    with eval_without_grad(module), torch.no_grad():
        found = _links(module, inputs)
        for _ in range(ROUNDS):
            change = 0.0
            for link in found:
                s = link.factors()
                link.scale(s)
                change = max(change, float(s.log().abs().max()))
            if change < SETTLED:
                break
    return len(found)


def _links(module: nn.Module, inputs: Given) -> list[Link]:
    """Layers that follow each other so that channels can be scaled between them: tried with powers of two, on large
    inputs, too, that reach the ends of a clipped activation."""
    layers = find_layers(module, inputs)
    batch = inputs if isinstance(inputs, Batch) else Batch(inputs)
    tries = [batch, replace(batch, inputs=mapped(_enlarged, batch.inputs))]
    expected = [flat(trial.run(module)) for trial in tries]
    links = []
    for first in layers:
        for second in layers:
            link = None if first is second else _link(module, first, second)
            if link is None:
                continue
            s = 2.0 ** (5 * (torch.arange(len(link.rows[0])) % 3 - 1.0)).to(link.columns)
            link.scale(s)
            unchanged = all(same(module, trial, output) for trial, output in zip(tries, expected, strict=True))
            link.scale(1 / s)
            if unchanged:
                links.append(link)
                break
    return links


def _enlarged(part: Any) -> Any:
    return part * LARGE if isinstance(part, Tensor) and part.is_floating_point() else part


def _link(module: nn.Module, first: Layer, second: Layer) -> Link | None:
    """The tensors of two layers, if their sizes fit and no unfolded batch norm is between them."""
    part, after = module.get_submodule(first.path), module.get_submodule(second.path)
    weight, columns = part.weight, after.weight
    assert isinstance(weight, Tensor) and isinstance(columns, Tensor)
    channels, depthwise = len(weight), columns.shape[1] == 1 and second.groups == len(columns) == len(weight)
    if not depthwise and (second.groups > 1 or columns.shape[1] % channels):
        return None
    rows = [weight, *([part.bias] if isinstance(part.bias, Tensor) else [])]
    if first.batch_norm:
        norm = module.get_submodule(first.batch_norm)
        assert isinstance(norm, BATCH_NORMS) and norm.running_mean is not None
        if bool((norm.weight != 1).any()) or bool(norm.running_mean.any()):
            return None
        rows.append(norm.bias)
    return Link(tuple(rows), columns, 1 if depthwise else columns.shape[1] // channels)


@dataclass(frozen=True)
class Rewritten(ChangedSource):
    """A checkpoint whose tensors are those of `module`, which computes the same."""

    module: nn.Module

    def read(self, name: str) -> Tensor:
        """The tensor of the network, in the dtype of the checkpoint."""
        tensors = self.module.state_dict(keep_vars=True)
        found = tensors[name] if name in tensors else self.source.read(name)
        return found.detach().to(self.specs[name].dtype)


def rewritten(source: TensorSource, module: nn.Module | None, inputs: Given | None, channels: bool) -> Rewritten:
    """`source` with batch norm folded, and with `channels` equalised; `module` is left as it was.

    `inputs` are a few, made up if absent.

    **Raises** `UsageError` without the network's code, or without batch norm or channels to rewrite.
    """
    if module is None:
        raise UsageError("bn='fold' and equalise=True need the network's code (module=), to know which layers follow")
    network = deepcopy(module).float().eval()
    if inputs is None:
        inputs = torch.randn(2, *guess_shape(network), generator=torch.Generator().manual_seed(0))
    if not fold(network, inputs) and not channels:
        raise UsageError("bn='fold': no batch norm that a layer feeds alone; use bn='keep'")
    if channels and not equalise(network, inputs):
        raise UsageError("equalise=True: no two layers follow each other through ReLU or pooling alone; leave it out")
    return Rewritten(source, network)
