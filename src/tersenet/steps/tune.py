"""What is not quantised (batch norm, biases) is tuned to the outputs of the original network."""

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.model import CompressedModel
from ..core.task import Task
from ..errors import InputError
from ..progress import progress
from .fit import distance

BATCH = 32
RATE = 0.01  # of Adam at the start, relative to the mean magnitude of a parameter; falls to 0 in a line
HELD = 8  # one in so many inputs is held out
LEAST = 1e-3  # magnitude that a parameter is taken to have at least


def tuned(
    module: nn.Module, model: CompressedModel, names: Sequence[str], inputs: Tensor, task: Task, epochs: int, seed: int
) -> dict[str, Tensor]:
    """The parameters `names` of `model` after some epochs on `inputs`; nothing if that does not help on held-out ones.

    The loss is the Kullback-Leibler divergence from the original outputs (cross-entropy tasks), else the squared error;
    no targets are looked at.

    **Raises** `InputError` if the network does not return one tensor.
    """
    network = model.apply_to(deepcopy(module)).eval().requires_grad_(False)
    known = dict(network.named_parameters(remove_duplicate=False))
    chosen = {name: known[name].requires_grad_() for name in names if name in known}
    count = len(inputs) // HELD
    if not chosen or not count:
        return {}
    batches, wanted = inputs.split(BATCH), []
    with torch.no_grad():
        for batch in batches:
            wanted.append(_outputs(module, batch))
    targets = torch.cat(wanted)
    loss: Callable[[Tensor, Tensor], Tensor] = distance if task.loss is F.cross_entropy else F.mse_loss

    def held() -> float:
        with torch.no_grad():
            outputs = torch.cat([_outputs(network, batch) for batch in inputs[-count:].split(BATCH)])
            return float(loss(outputs, targets[-count:]))

    before = held()
    rates = [RATE * max(LEAST, float(p.detach().abs().mean())) for p in chosen.values()]
    optimizer = torch.optim.Adam([{"params": [p], "lr": r} for p, r in zip(chosen.values(), rates, strict=True)])
    generator, seen = torch.Generator().manual_seed(seed), len(inputs) - count
    steps = [part for _ in range(epochs) for part in torch.randperm(seen, generator=generator).split(BATCH)]
    for done, part in enumerate(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - done / len(steps))
        optimizer.zero_grad()
        loss(_outputs(network, inputs[part]), targets[part]).backward()
        optimizer.step()
        progress("tuning batch norm and biases", done + 1, len(steps))
    return {name: p.detach() for name, p in chosen.items()} if held() < before else {}


def _outputs(network: nn.Module, inputs: Tensor) -> Tensor:
    outputs = network(inputs)
    if not isinstance(outputs, Tensor):
        raise InputError(
            f"the network returned a {type(outputs).__name__}; tuning needs one tensor: wrap it in a module that "
            "returns that, or give --tune 0"
        )
    return outputs.float()
