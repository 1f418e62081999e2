"""What is not quantised (batch norm, biases) is tuned to the outputs of the original network."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from ...core.model import CompressedModel, KeptTensor
from ...core.samples import Samples
from ...network.layers import differentiable
from ...progress import progress

BATCH = 32
RATE = 0.01  # of Adam at the start, relative to the mean magnitude of a parameter; falls to 0 in a line
HELD = 8  # one in so many inputs is held out
LEAST = 1e-3  # magnitude that a parameter is taken to have at least


def tuned(
    module: nn.Module, model: CompressedModel, samples: Samples, names: list[str], epochs: int, seed: int
) -> dict[str, KeptTensor]:
    """The tensors `names` that `model` keeps, after some epochs on `samples`, in the precision they were kept in.

    The loss is the distance to the original outputs (Kullback-Leibler divergence where they are classes, else the
    relative error); no targets are looked at. Nothing is returned if what would be stored does not help on held-out
    samples.
    """
    network = model.apply_to(deepcopy(module)).eval().requires_grad_(False)
    known = dict(network.named_parameters(remove_duplicate=False))
    chosen = {n: known[n].requires_grad_() for n in names if n in known and known[n].is_floating_point()}
    generator = torch.Generator().manual_seed(seed)
    held, seen = torch.randperm(len(samples), generator=generator).tensor_split([len(samples) // HELD])
    if not chosen or not len(held):
        return {}
    with torch.no_grad():
        referred = Samples(replace(batch, reference=batch.outputs(module)) for batch in samples.split(BATCH))

    def error(index: Tensor) -> Tensor:
        batch = referred.at(index)
        assert batch.reference is not None
        return batch.distance(batch.outputs(network), batch.reference)

    def lost() -> float:
        with torch.no_grad():
            return sum(float(error(part)) * len(part) for part in referred.grouped(held, BATCH)) / len(held)

    before = lost()
    steps: list[Tensor] = []
    for _ in range(epochs):
        groups = referred.grouped(seen[torch.randperm(len(seen), generator=generator)], BATCH)
        if len(referred.blocks) > 1:
            groups = [groups[place] for place in torch.randperm(len(groups), generator=generator).tolist()]
        steps += groups
    with differentiable(network):
        _descend(error, chosen, steps)
    found = {}
    for name, parameter in chosen.items():
        entry = model.tensors[name]
        assert isinstance(entry, KeptTensor)
        found[name] = replace(entry, tensor=parameter.detach().to(entry.tensor))
        with torch.no_grad():
            parameter.copy_(found[name].dequantize())
    return found if lost() < before else {}


def _descend(loss: Callable[[Tensor], Tensor], chosen: Mapping[str, Tensor], steps: list[Tensor]) -> None:
    """Adam, a step for every group of samples."""
    rates = [RATE * max(LEAST, float(p.detach().abs().mean())) for p in chosen.values()]
    optimizer = torch.optim.Adam([{"params": [p], "lr": r} for p, r in zip(chosen.values(), rates, strict=True)])
    for done, part in enumerate(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - done / len(steps))
        optimizer.zero_grad()
        found = loss(part)
        if not found.requires_grad:  # no parameter reaches the output
            return
        found.backward()
        optimizer.step()
        progress("tuning batch norm and biases", done + 1, len(steps))
