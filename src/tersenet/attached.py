"""Quantizers in a network that is trained in a loop of the user's own: attach, train, freeze."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .api import chosen_method
from .core.method import Facts, Job, Method
from .core.model import CompressedModel, Module, TensorSpec
from .errors import UsageError
from .files.checkpoint import open_module
from .network.batch_norm import reestimate
from .network.tables import marked
from .quantizers import attach as quantizers
from .quantizers.quantizer import ParamGroup
from .training.method import TrainedMethod, settled

_ATTACHED = "_tersenet_attached"


@dataclass(frozen=True)
class _Described:
    """What a network was when quantizers were attached to it, without its tensors."""

    specs: Mapping[str, TensorSpec]
    aliases: Mapping[str, str]
    layout: Mapping[str, Any]
    attachments: Mapping[str, bytes]
    hashed: str
    facts: Facts = field(default_factory=Facts)

    def digest(self) -> str:
        """The hash of its content."""
        return self.hashed

    def read(self, name: str) -> Tensor:
        """Nothing: the tensors are those of the network now."""
        raise KeyError(name)


def attach(module: Module, method: str | Method, inputs: Iterable[Any], **fields: Any) -> Module:
    """Put the quantizers of a training method into `module` (in place), for a training loop of your own.

    `inputs` are a few batches of inputs (tensors, tuples of positional or mappings of keyword arguments) that ranges of
    activations start from. Minimise your loss plus `penalty(module)` with an
    optimizer over `param_groups(module, lr)`, call `on_epoch` where an epoch begins, `anneal` before and `after_step`
    after every step, and take the result with `freeze(module, inputs)`: that is what `compress` trains.

    **Raises** `UsageError` for a method that does not train, and what the method raises.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(64, 64))
    >>> net = attach(net, "lsq", [torch.randn(8, 64)], bits=3, first_last="same")
    >>> sorted(freeze(net).tensors)
    ['0.bias', '0.weight']
    """
    chosen = chosen_method(method, fields)
    if not isinstance(chosen, TrainedMethod):
        raise UsageError(f"{chosen.name} does not train: use compress")
    if type(chosen).plan is not TrainedMethod.plan and not chosen.layer_bits:
        raise UsageError(f"{chosen.name} chooses bits from a task: use compress, or give layer_bits")
    if _ATTACHED in module.__dict__:
        raise UsageError("quantizers are attached to this module already: call tersenet.detach(module) first")
    if any(part.is_floating_point() and part.dtype != torch.float32 for part in module.parameters()):
        raise UsageError("training needs fp32 weights: call module.float() first")
    now = marked(open_module(module), module)
    source = _Described(now.specs, now.aliases, now.layout, now.attachments, now.digest())
    chosen.on_start(module)
    chosen.attach(module, source.specs, inputs, source.aliases)
    module.__dict__[_ATTACHED] = (chosen, source)
    return module


def param_groups(module: nn.Module, lr: float, weight_decay: float = 1e-4) -> list[ParamGroup]:
    """Groups for a `torch.optim.Optimizer`: everything in `module` that is trained, quantizers with rates of their own.

    A clip of APoT learns at half of `lr`, a step does not decay. Where you change the rate, change that of every group
    in proportion.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(64, 64))
    >>> net = attach(net, "lsq", [torch.randn(8, 64)], bits=3, first_last="same")
    >>> optimizer = torch.optim.SGD(param_groups(net, lr=0.01), momentum=0.9)
    """
    return quantizers.param_groups(module, lr, weight_decay)


def anneal(module: nn.Module, progress: float, lr: float = 0.0) -> None:
    """Tell the quantizers in `module` how much of the training is done (0 to 1), and what a lasting gradient moves a
    weight per step (`lr`: the learning rate, over 1 - momentum), which annealed estimators and penalties follow.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(64, 64))
    >>> net = attach(net, "lsq", [torch.randn(8, 64)], bits=3, first_last="same")
    >>> for step in range(10):
    ...     anneal(net, step / 10, lr=0.01 / (1 - 0.9))
    """
    quantizers.anneal(module, progress, lr)


def penalty(module: nn.Module) -> Tensor:
    """What the quantizers in `module` add to the loss (a scalar, often 0).

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(64, 64))
    >>> net = attach(net, "lsq", [torch.randn(8, 64)], bits=3, first_last="same")
    >>> loss = net(torch.randn(8, 64)).square().mean() + penalty(net)
    """
    return quantizers.penalty(module)


def after_step(module: nn.Module) -> None:
    """Let the quantizers in `module` project what the optimizer has just changed; most have nothing to do.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(64, 64))
    >>> net = attach(net, "lsq", [torch.randn(8, 64)], bits=3, first_last="same")
    >>> optimizer = torch.optim.SGD(param_groups(net, lr=0.01))
    >>> net(torch.randn(8, 64)).square().mean().backward()
    >>> optimizer.step()
    >>> after_step(net)
    """
    quantizers.after_step(module)


def on_epoch(module: nn.Module, epoch: int, optimizer: torch.optim.Optimizer) -> None:
    """Let the method of the quantizers in `module` do what it does where an epoch begins (`epoch` counts from 0), and
    once more after the last: regroup, prune, lower precisions; most have nothing to do. No shape changes, but the
    `optimizer` may forget its state of what was changed.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(64, 64))
    >>> net = attach(net, "lsq", [torch.randn(8, 64)], bits=3, first_last="same")
    >>> optimizer = torch.optim.SGD(param_groups(net, lr=0.01))
    >>> for epoch in range(2):
    ...     on_epoch(net, epoch, optimizer)
    """
    chosen, source = _attached(module)
    chosen.on_epoch(module, epoch, optimizer, Job(source, module))


def freeze(module: nn.Module, inputs: Iterable[Any] | None = None) -> CompressedModel:
    """The network as trained, with its quantised weights and inputs: what `module.eval()` computes from now on.

    With `inputs` (batches of the training data; the first 50 are used) batch norm is re-estimated before, as `compress`
    does. What is kept in fewer bits (biases, batch norm) is rounded in `module`, too; with `bn="scale-shift"` its batch
    norms only scale and shift from now on, so it cannot be trained further.

    **Raises** `UsageError` if nothing was attached to it.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(64, 64))
    >>> net = attach(net, "lsq", [torch.randn(8, 64)], bits=3, first_last="same")
    >>> x, small = torch.randn(8, 64), freeze(net)
    >>> torch.equal(net.eval()(x), small.apply_to(torch.nn.Sequential(torch.nn.Linear(64, 64)))(x))
    True
    """
    chosen, source = _attached(module)
    if inputs is not None:
        module.eval()
        reestimate(module, inputs)
    return chosen.model(source, settled(module, chosen.pieces(module, source)))


def detach(module: Module) -> Module:
    """Take the quantizers out of `module` again: an ordinary network with its full-precision weights as trained so far.

    **Raises** `UsageError` if nothing was attached to it.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(64, 64))
    >>> net = attach(net, "lsq", [torch.randn(8, 64)], bits=3, first_last="same")
    >>> detach(net)
    Sequential(
      (0): Linear(in_features=64, out_features=64, bias=True)
    )
    """
    _attached(module)
    quantizers.detach(module)
    del module.__dict__[_ATTACHED]
    return module


def _attached(module: nn.Module) -> tuple[TrainedMethod, _Described]:
    if _ATTACHED not in module.__dict__:
        raise UsageError("nothing is attached to this module: call tersenet.attach(module, ...) first")
    found: tuple[TrainedMethod, _Described] = module.__dict__[_ATTACHED]
    return found
