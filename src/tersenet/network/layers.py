"""Which layers a network runs, in which order, what goes into them, and which batch norm follows: seen by hooks."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from ..core.batch import Batch, run
from ..core.nested import tensors

Given = Batch | Tensor  # what a network can be run on: a batch, or inputs alone
NO_LAYER = "in no convolution or linear layer"
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer: its path, the path of the batch norm fed by it alone (or ""), and its groups."""

    path: str
    batch_norm: str
    groups: int

    @property
    def weight(self) -> str:
        """The name of its weight in the state dict."""
        return f"{self.path}.weight" if self.path else "weight"


def is_layer(module: nn.Module, name: str) -> bool:
    """Whether the tensor called `name` belongs to a convolution or linear layer."""
    return isinstance(module.get_submodule(name.rpartition(".")[0]), nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)


def recurrent_weights(module: nn.Module) -> set[str]:
    """The names of the weights of recurrent layers (LSTM, GRU, RNN): nothing can be put in front of them, because these
    layers hold their weights in a list of their own."""
    layers = [(path, part) for path, part in module.named_modules() if isinstance(part, nn.RNNBase)]
    return {f"{path}.{leaf}" if path else leaf for path, part in layers for leaf, _ in part.named_parameters()}


def without_recurrent(module: nn.Module, names: Sequence[str], method: str) -> list[str]:
    """`names` without the weights of recurrent layers, which are said to be left as they are."""
    recurrent = recurrent_weights(module)
    tell_kept([name for name in names if name in recurrent], method)
    return [name for name in names if name not in recurrent]


def tell_kept(names: Sequence[str], method: str) -> None:
    """Say which weights a method leaves as they are."""
    if names:
        logging.getLogger("tersenet").info("%s leaves these as they are, %s: %s", method, NO_LAYER, ", ".join(names))


class _Stop(Exception):
    """Raised by a hook when the wanted tensor is there."""


def _run(module: nn.Module, inputs: Given, handles: Sequence[RemovableHandle]) -> None:
    """Run the network, and take its hooks away."""
    try:
        with torch.no_grad(), suppress(_Stop):
            run(module, inputs)
    finally:
        for handle in handles:
            handle.remove()


def find_layers(module: nn.Module, inputs: Given) -> list[Layer]:
    """The layers with weights that `module` runs on `inputs`, in order of their first call (each once)."""
    producers: dict[int, str] = {}
    order: dict[str, nn.Module] = {}
    follows: dict[str, str] = {}
    calls: dict[str, int] = {}
    held: list[Any] = []  # keeps every output alive, so that identities stay unique

    def ran(path: str) -> Callable[..., None]:
        def hook(part: nn.Module, given: Any, output: Any) -> None:
            held.append(output)
            order.setdefault(path, part)
            calls[path] = calls.get(path, 0) + 1
            producers[id(output)] = path

        return hook

    def normed(path: str) -> Callable[..., None]:
        def hook(part: nn.Module, given: Any) -> None:
            producer = producers.get(id(given[0]))
            if producer is not None:
                follows[producer] = path
                calls[path] = calls.get(path, 0) + 1

        return hook

    handles = []
    for path, part in module.named_modules():
        if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Linear):
            handles.append(part.register_forward_hook(ran(path)))
        elif isinstance(part, BATCH_NORMS):
            handles.append(part.register_forward_pre_hook(normed(path)))
    _run(module, inputs, handles)
    once = {path for path, count in calls.items() if count == 1}
    pairs = {path: norm for path, norm in follows.items() if path in once and norm in once}
    pairs = undoable(module, inputs, pairs)
    return [Layer(path, pairs.get(path, ""), getattr(part, "groups", 1)) for path, part in order.items()]


def undoable(module: nn.Module, inputs: Given, pairs: Mapping[str, str]) -> dict[str, str]:
    """Those of `pairs` (layer -> batch norm) where the batch norm alone can undo a scaling of the layer's rows.

    Tried, not deduced: rows are multiplied by +- powers of two and the batch norm is told; if the output of the network
    differs, something else sees the layer or its tensors (a skip connection, a tied weight, another axis).
    """
    if not pairs:
        return {}
    network = deepcopy(module).eval()
    with torch.no_grad():
        expected = flat(run(network, inputs))
        if not torch.isfinite(expected).all():
            return {}
        if all(_rescale(network, *pair) for pair in pairs.items()) and same(network, inputs, expected):
            return dict(pairs)
        found = {}
        for path, norm in pairs.items():
            network = deepcopy(module).eval()
            if _rescale(network, path, norm) and same(network, inputs, expected):
                found[path] = norm
    return found


def _rescale(network: nn.Module, path: str, norm: str) -> bool:
    """Scale the rows of a layer by +- powers of two and undo it in its batch norm; False where sizes do not fit."""
    layer, after = network.get_submodule(path), network.get_submodule(norm)
    tensors = (layer.weight, after.weight, after.running_mean)
    if any(part is None or len(part) != len(tensors[0]) for part in tensors):  # type: ignore[arg-type]
        return False
    index = torch.arange(len(tensors[0]))  # type: ignore[arg-type]
    scale = 2.0 ** (index % 3 + 1) * (1 - index % 2 * 2)
    for tensor in (layer.weight, layer.bias, after.running_mean):
        if isinstance(tensor, Tensor):
            tensor.mul_(scale.to(tensor).reshape(-1, *[1] * (tensor.dim() - 1)))
    assert isinstance(after.weight, Tensor)
    after.weight.div_(scale.to(after.weight))
    return True


def same(network: nn.Module, inputs: Given, expected: Tensor) -> bool:
    """Whether the output of `network` on `inputs` is `expected`, as `flat` gives it, but for rounding."""
    return torch.allclose(flat(run(network, inputs)), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def flat(output: Any) -> Tensor:
    """All floating tensors of an output (nested as it may be) in one vector."""
    found = [part.float().reshape(-1) for part in tensors(output) if part.is_floating_point()]
    return torch.cat(found) if found else torch.zeros(0)


def inputs_of_layers(module: nn.Module, paths: Collection[str], inputs: Given) -> dict[str, Tensor]:
    """What goes into the layers at `paths` (in their first call) when `module` runs on `inputs`, copied."""
    caught: dict[str, Tensor] = {}

    def hook(path: str) -> Callable[..., None]:
        def keep(part: nn.Module, given: Any) -> None:
            if path not in caught:
                caught[path] = given[0].detach().clone()

        return keep

    handles = [module.get_submodule(path).register_forward_pre_hook(hook(path)) for path in paths]
    _run(module, inputs, handles)
    return caught


def input_of(module: nn.Module, path: str, inputs: Given) -> Tensor:
    """What goes into the layer at `path` when `module` runs on `inputs` (the rest of the network does not run)."""
    caught: list[Tensor] = []

    def hook(part: nn.Module, given: Any) -> None:
        caught.append(given[0])
        raise _Stop

    _run(module, inputs, [module.get_submodule(path).register_forward_pre_hook(hook)])
    return caught[0]


def patches(part: nn.Module, inputs: Tensor, every: int = 1, phase: int = 0, mask: Tensor | None = None) -> Tensor:
    """The vectors a layer multiplies its weight rows with. **Shapes**: -> `[groups, positions, columns]`.

    Only positions in every `every`-th row and column of the output, beginning at one that `phase` (0 to every^2 - 1)
    chooses; of a sequence only what `mask` (`[n, length]`) does not call padding.
    """
    if isinstance(part, nn.Linear):
        if mask is not None and inputs.shape[:-1] == mask.shape:
            inputs = inputs[mask.to(inputs.device)]
        return inputs.reshape(1, -1, inputs.shape[-1])
    assert isinstance(part, nn.Conv1d | nn.Conv2d)
    if isinstance(part, nn.Conv1d):
        inputs, size = inputs.unsqueeze(2), (1, *part.kernel_size)
        padding, stride, dilation = (0, *_pads(part)), (1, *part.stride), (1, *part.dilation)
    else:
        size, stride, dilation, padding = part.kernel_size, part.stride, part.dilation, _pads(part)
    if every > 1:
        inputs = F.pad(inputs, [side for width in padding[::-1] for side in (width, width)])
        sizes = zip(inputs.shape[2:], size, dilation, stride, strict=True)
        steps = [min(every, (n - d * (k - 1) - 1) // s + 1) for n, k, d, s in sizes]
        starts = [s * (place % step) for s, place, step in zip(stride, divmod(phase, every), steps, strict=True)]
        inputs, padding = inputs[..., starts[0] :, starts[1] :], (0, 0)
        stride = tuple(step * s for step, s in zip(steps, stride, strict=True))
    unfolded = F.unfold(inputs, size, dilation, padding, stride)
    split: Tensor = unfolded.unflatten(1, (part.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)
    return split


def _pads(part: nn.Conv1d | nn.Conv2d) -> tuple[int, ...]:
    if isinstance(part.padding, tuple):
        return part.padding
    if part.padding == "valid":
        return (0,) * len(part.kernel_size)
    return tuple(d * (k - 1) // 2 for d, k in zip(part.dilation, part.kernel_size, strict=True))


@contextmanager
def differentiable(module: nn.Module) -> Iterator[None]:
    """Gradients inside; on a GPU recurrent layers in evaluation mode have them without cuDNN only."""
    recurrent = torch.cuda.is_available() and any(isinstance(part, nn.RNNBase) for part in module.modules())
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext():
        yield


@contextmanager
def eval_without_grad(module: nn.Module) -> Iterator[None]:
    """Evaluation mode and no parameter gradients inside, everything as before outside."""
    training = {part: part.training for part in module.modules()}
    wanted = {parameter: parameter.requires_grad for parameter in module.parameters()}
    module.eval().requires_grad_(False)
    try:
        yield
    finally:
        for part, was in training.items():
            part.training = was
        for parameter, was in wanted.items():
            parameter.requires_grad_(was)
