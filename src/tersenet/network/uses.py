"""How often a network uses each weight for one sample: what MACs are made of, and no file tells by itself.

`MACs of a layer = uses * weights`: a convolution uses its weights once for every position of its output (a transposed
one, of its input), a linear layer once for every vector, a recurrent one once for every step.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.method import Facts, TensorSource
from ..core.model import TensorSpec
from ..core.nested import tensors
from ..core.task import Task
from ..errors import InputError
from .kept import ChangedSource
from .layers import eval_without_grad

LOGGER = logging.getLogger("tersenet")
SAMPLES = 2  # that are run
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
SPLITS = ("validation", "test")  # that inputs are taken from: those of a training keep their order


@dataclass(frozen=True)
class DescribedSource(ChangedSource):
    """A checkpoint with more to say about it in its file."""

    described: Facts

    @property
    def facts(self) -> Facts:
        return self.described

    def read(self, name: str) -> Tensor:
        """The tensor."""
        return self.source.read(name)


def described(
    source: TensorSource,
    module: nn.Module | None,
    task: Task | None,
    *,
    card_fields: Mapping[str, str] | None = None,
    results: bool = False,
) -> DescribedSource:
    """`source` with what its card needs: the `shapes` of a sample of the task and of what layers make of it, where a
    network is at hand, `card_fields` that only the user knows, and whether there is to be room for `results`."""
    found: dict[str, Any] = {"given": dict(card_fields)} if card_fields else {}
    if module is not None and task is not None:
        try:
            found |= shapes(module, source.specs, source.aliases, task)
        except InputError as error:
            LOGGER.info("the card has no MACs, because no sample could be run: %s", error)
    return DescribedSource(source, Facts(found, results))


def shapes(
    module: nn.Module, specs: Mapping[str, TensorSpec], aliases: Mapping[str, str], task: Task
) -> dict[str, dict[str, Any]]:
    """`shapes` of one sample: those of the `input` tensors, and how often each weight of two or more dimensions is used
    (`uses`, in the order of `specs`; None where that is not seen). Nothing if the task has no such sample.

    `outputs`, the elements of every layer's output, are only there if they are other than uses times axis 0.
    """
    split = next((name for name in SPLITS if getattr(task, name) is not None), None)
    given = None if split is None else next(task.batches(split), None)
    if given is None:
        return {}
    batch = given.first(SAMPLES)
    samples = len(batch)
    names = [name for name, spec in specs.items() if len(spec.shape) > 1]
    found = _run(module, batch, samples)
    tied: dict[str, list[str]] = {}
    for alias, name in aliases.items():
        tied.setdefault(name, []).append(alias)
    uses: list[int | None] = []
    outputs: list[int | None] = []
    for name in names:
        seen = [found[each] for each in (name, *tied.get(name, [])) if each in found]
        uses.append(sum(count for count, _ in seen) if seen else None)
        outputs.append(sum(size for _, size in seen) if seen else None)
    rows = [None if count is None else count * specs[name].shape[0] for name, count in zip(names, uses, strict=True)]
    inputs = [list(part.shape[1:]) for part in tensors(batch.inputs) if part.dim() and len(part) == samples]
    return {"shapes": {"input": inputs, "uses": uses, **({"outputs": outputs} if outputs != rows else {})}}


def _run(module: nn.Module, batch: Batch, samples: int) -> dict[str, tuple[int, int]]:
    """Of every weight that a layer uses: how often for a sample, and the elements of the layer's output."""
    found: dict[str, tuple[int, int]] = {}

    def hook(path: str) -> Callable[..., None]:
        def count(part: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            result = next(tensors(output), None)
            if result is None or not given or not isinstance(given[0], Tensor):
                return
            for leaf, uses in _uses(part, given[0], result).items():
                name = f"{path}.{leaf}" if path else leaf
                before, size = found.get(name, (0, 0))
                found[name] = before + uses // samples, size + result.numel() // samples

        return count

    handles = [
        part.register_forward_hook(hook(path))
        for path, part in module.named_modules()
        if isinstance(part, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear, nn.RNNBase, nn.Embedding))
        or type(part).__name__ == "Conv1D"
    ]
    try:
        with eval_without_grad(module), torch.no_grad(), torch.random.fork_rng(devices=[]):
            batch.run(module)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _uses(part: nn.Module, given: Tensor, output: Tensor) -> dict[str, int]:
    """How often a layer used its weights: of an embedding, which only looks up, never."""
    if isinstance(part, nn.Embedding):
        return {"weight": 0}
    if isinstance(part, nn.RNNBase):
        steps = prod(given.shape[:-1])
        return {name: steps for name, weight in part.named_parameters() if weight.dim() > 1}
    if isinstance(part, CONVOLUTIONS):
        return {"weight": output.numel() // part.out_channels}
    channels = part.in_channels if isinstance(part, TRANSPOSED) else given.shape[-1]
    return {"weight": given.numel() // channels}
