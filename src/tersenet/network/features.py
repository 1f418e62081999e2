"""Where a network's features are: after every layer, its batch norm, activation and residual addition, before pooling.

Nothing is traced or compiled: modules tell which layer runs, and a torch function mode sees what happens to its output.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..core.batch import run
from .layers import Given

KEEPS = {
    *("batch_norm", "instance_norm", "layer_norm", "group_norm", "dropout", "dropout2d", "feature_dropout"),
    *("relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "threshold", "clamp", "clamp_min"),
    *("gelu", "silu", "elu", "celu", "selu", "mish", "softplus", "hardswish"),
    *("tanh", "sigmoid", "hardtanh", "hardsigmoid"),
}
ADDS = {"add", "add_", "__add__", "__iadd__", "__radd__"}


@dataclass
class Tap:
    """The features of one layer: `path`, and `members`, the layers whose share in them is one (a residual block)."""

    path: str
    members: list[str]
    features: Tensor = field(default_factory=lambda: torch.zeros(0), repr=False)


class _Watch(TorchFunctionMode):
    """Follows the output of every layer through what keeps its shape, until something else takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[str] = []
        self.tips: dict[str, Tensor] = {}
        self.source: dict[str, int] = {}  # layer -> the layer its input came from (-1: the network's input)
        self.begins: dict[str, int] = {}  # layer with an addition after it -> where the other operand came from
        self._open: dict[int, str] = {}  # tensor -> the layer whose features it is, still growing
        self._origin: dict[int, int] = {}  # tensor -> the last layer it came from
        self._held: list[Tensor] = []  # so that identities stay unique

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [part for part in args if isinstance(part, Tensor)]
        if isinstance(result, Tensor):
            self._see(getattr(func, "__name__", ""), given, result)
        return result

    def _see(self, name: str, operands: list[Tensor], result: Tensor) -> None:
        self._held.append(result)
        owner = next((self._open[id(part)] for part in reversed(operands) if id(part) in self._open), None)
        if name in ADDS and len(operands) == 2:
            owners = {id(part): self._open[id(part)] for part in operands if id(part) in self._open}
            owner = max(owners.values(), key=self.order.index, default=None)
            for part in operands:
                if owner is not None and owners.get(id(part)) != owner:
                    other = owners.get(id(part))
                    start = self._origin.get(id(part), -1)
                    if other:  # a projection: the block begins where the shorter of both ways does
                        start = min(self.source[other], self.source[owner])
                    self.begins[owner] = min(start, self.begins.get(owner, start))
        if owner is not None and (name in KEEPS or name in ADDS) and result.shape == self.tips[owner].shape:
            self.tips[owner] = result
            self._open[id(result)] = owner
        elif name not in ("size", "detach", "clone", "contiguous", "to"):
            for part in operands:
                self._open.pop(id(part), None)
        self._origin[id(result)] = max((self._origin.get(id(part), -1) for part in operands), default=-1)

    def began(self, path: str, given: Tensor) -> None:
        """A layer is about to run."""
        if path not in self.source:
            self.source[path] = self._origin.get(id(given), -1)

    def ran(self, path: str, output: Tensor) -> None:
        """A layer has run (only its first run counts)."""
        if path in self.tips:
            return
        self.order.append(path)
        self.tips[path] = output
        self._open[id(output)] = path
        self._origin[id(output)] = len(self.order) - 1
        self._held.append(output)


def taps(module: nn.Module, inputs: Given) -> list[Tap]:
    """The features of every convolution and linear layer on `inputs`, in the order they run, the last layer left out.

    Layers between the source of a residual connection and its addition share one tap, after the addition.

    **Shapes**: features `[n, ...]` as the network has them.
    """
    watch = _Watch()
    with torch.inference_mode(), _hooked(module, watch), watch:
        run(module, inputs)
    found: list[Tap] = []
    taken: set[str] = set()
    for index, path in reversed(list(enumerate(watch.order))):
        if path in taken:
            continue
        start = watch.begins.get(path, index - 1)
        members = [name for name in watch.order[start + 1 : index + 1] if name not in taken]
        taken.update(members)
        found.append(Tap(path, members, watch.tips[path]))
    return found[::-1][:-1]


@contextmanager
def _hooked(module: nn.Module, watch: _Watch) -> Iterator[None]:
    def before(path: str) -> Any:
        return lambda part, given: watch.began(path, given[0])

    def after(path: str) -> Any:
        return lambda part, given, output: watch.ran(path, output)

    handles = []
    for path, part in module.named_modules():
        if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            handles += [part.register_forward_pre_hook(before(path)), part.register_forward_hook(after(path))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
