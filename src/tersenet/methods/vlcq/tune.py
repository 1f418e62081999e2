"""What is not quantised (batch norm, biases) is tuned to the outputs of the original network."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.model import CompressedModel, KeptTensor
from ...core.task import Task
from ...network.output_gradients import first_tensor
from ...progress import progress
from ...training.loop import classifies, distance

BATCH = 32
RATE = 0.01  # of Adam at the start, relative to the mean magnitude of a parameter; falls to 0 in a line
HELD = 8  # one in so many inputs is held out
LEAST = 1e-3  # magnitude that a parameter is taken to have at least


def tuned(
    module: nn.Module, model: CompressedModel, inputs: Tensor, task: Task, names: list[str], epochs: int, seed: int
) -> dict[str, KeptTensor]:
    """The tensors `names` that `model` keeps, after some epochs on `inputs`, in the precision they were kept in.

    The loss is the Kullback-Leibler divergence from the original outputs (cross-entropy tasks), else the squared error;
    no targets are looked at. Nothing is returned if what would be stored does not help on held-out inputs.
    """
    network = model.apply_to(deepcopy(module)).eval().requires_grad_(False)
    known = dict(network.named_parameters(remove_duplicate=False))
    chosen = {n: known[n].requires_grad_() for n in names if n in known and known[n].is_floating_point()}
    generator = torch.Generator().manual_seed(seed)
    held, seen = torch.randperm(len(inputs), generator=generator).tensor_split([len(inputs) // HELD])
    if not chosen or not len(held):
        return {}
    with torch.no_grad():
        targets = torch.cat([first_tensor(module(batch)).float() for batch in inputs.split(BATCH)])
    loss: Callable[[Tensor, Tensor], Tensor] = distance if classifies(task) else F.mse_loss

    def lost() -> float:
        with torch.no_grad():
            outputs = torch.cat([first_tensor(network(inputs[part])).float() for part in held.split(BATCH)])
            return float(loss(outputs, targets[held]))

    before = lost()

    def error(part: Tensor) -> Tensor:
        return loss(first_tensor(network(inputs[part])).float(), targets[part])

    _descend(error, chosen, seen, epochs, generator)
    found = {}
    for name, parameter in chosen.items():
        entry = model.tensors[name]
        assert isinstance(entry, KeptTensor)
        found[name] = replace(entry, tensor=parameter.detach().to(entry.tensor.dtype))
        with torch.no_grad():
            parameter.copy_(found[name].dequantize())
    return found if lost() < before else {}


def _descend(
    loss: Callable[[Tensor], Tensor], chosen: Mapping[str, Tensor], seen: Tensor, epochs: int,
    generator: torch.Generator,
) -> None:  # fmt: skip
    """Adam on the inputs numbered `seen`, in a new order every epoch."""
    rates = [RATE * max(LEAST, float(p.detach().abs().mean())) for p in chosen.values()]
    optimizer = torch.optim.Adam([{"params": [p], "lr": r} for p, r in zip(chosen.values(), rates, strict=True)])
    steps = [part for _ in range(epochs) for part in seen[torch.randperm(len(seen), generator=generator)].split(BATCH)]
    for done, part in enumerate(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - done / len(steps))
        optimizer.zero_grad()
        with torch.enable_grad():
            found = loss(part)
        if not found.requires_grad:  # no parameter reaches the output
            return
        found.backward()
        optimizer.step()
        progress("tuning batch norm and biases", done + 1, len(steps))
