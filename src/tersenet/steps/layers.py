"""Which layers a network runs, in which order, what goes into them, and which batch norm follows: seen by hooks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


class _Stop(Exception):
    """Raised by a hook when the wanted tensor is there."""


def find_layers(module: nn.Module, inputs: Tensor) -> list[Layer]:
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
    try:
        with torch.no_grad():
            module(inputs)
    finally:
        for handle in handles:
            handle.remove()
    once = {path for path, count in calls.items() if count == 1}
    return [
        Layer(
            path, norm if path in once and (norm := follows.get(path, "")) in once else "", getattr(part, "groups", 1)
        )
        for path, part in order.items()
    ]


def input_of(module: nn.Module, path: str, inputs: Tensor) -> Tensor:
    """What goes into the layer at `path` when `module` runs on `inputs` (the rest of the network does not run)."""
    caught: list[Tensor] = []

    def hook(part: nn.Module, given: Any) -> None:
        caught.append(given[0])
        raise _Stop

    handle = module.get_submodule(path).register_forward_pre_hook(hook)
    try:
        with torch.no_grad():
            module(inputs)
    except _Stop:
        pass
    finally:
        handle.remove()
    return caught[0]


def patches(part: nn.Module, given: Tensor) -> Tensor:
    """The vectors a layer multiplies its weight rows with. **Shapes**: -> `[groups, positions, columns]`."""
    if isinstance(part, nn.Linear):
        return given.reshape(1, -1, given.shape[-1])
    assert isinstance(part, nn.Conv1d | nn.Conv2d)
    if isinstance(part, nn.Conv1d):
        given, size = given.unsqueeze(2), (1, *part.kernel_size)
        padding, stride, dilation = (0, *_pads(part)), (1, *part.stride), (1, *part.dilation)
    else:
        size, stride, dilation, padding = part.kernel_size, part.stride, part.dilation, _pads(part)
    columns = F.unfold(given, size, dilation, padding, stride)
    split: Tensor = columns.unflatten(1, (part.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)
    return split


def _pads(part: nn.Conv1d | nn.Conv2d) -> tuple[int, ...]:
    if isinstance(part.padding, tuple):
        return part.padding
    if part.padding == "valid":
        return (0,) * len(part.kernel_size)
    return tuple(d * (k - 1) // 2 for d, k in zip(part.dilation, part.kernel_size, strict=True))


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
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
