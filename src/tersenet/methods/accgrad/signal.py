"""The accumulated gradient: `A = sum over batches of |dL/dw|`, for every weight and bias, and groups by its size."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...errors import InputError
from ...quantizers import attach
from .fixed_point import MixedFixedPoint

ROUNDS = 100  # of the clustering
Part = tuple[str, MixedFixedPoint, Tensor]  # name, quantizer, latent weight


def parts(module: nn.Module) -> list[Part]:
    """Every parameter whose weights get widths by their signal, in the module's order."""
    found = attach.quantizers(module)
    return [(name, q, latents[0]) for name, q, latents in found if isinstance(q, MixedFixedPoint) and not q.pinned]


def record(module: nn.Module) -> None:
    """From now on add |gradient| to the signal of every quantised parameter, once per backward pass."""
    for _, quantizer, latent in parts(module):

        def add(parameter: Tensor, quantizer: MixedFixedPoint = quantizer) -> None:
            assert parameter.grad is not None
            quantizer.signal.add_(parameter.grad.abs())

        latent.register_post_accumulate_grad_hook(add)


def scores(found: Sequence[Part], kind: str) -> Tensor:
    """Importance of all weights in one vector: "grad" A, "magnitude" |w|, "grad-magnitude" A |w|.

    **Raises** `InputError` naming a tensor whose signal is 0 everywhere.
    """
    for name, quantizer, _ in found:
        if not bool(quantizer.signal.any()):
            raise InputError(
                f"the gradient of {name} was 0 in every batch: the loss does not depend on it, so it has no "
                f"importance; repair the network, or leave it out with exclude=({name!r},)"
            )
    return torch.cat([_score(quantizer.signal, latent.detach(), kind).reshape(-1) for _, quantizer, latent in found])


def _score(signal: Tensor, weight: Tensor, kind: str) -> Tensor:
    return {"grad": signal, "magnitude": weight.abs(), "grad-magnitude": signal * weight.abs()}[kind]


def lowest(values: Tensor, count: int) -> Tensor:
    """A mask of the `count` smallest of `values` (ties: the first)."""
    mask = torch.zeros(len(values), dtype=torch.bool)
    mask[torch.argsort(values, stable=True)[:count]] = True
    return mask


def give(found: Sequence[Part], widths: Tensor) -> None:
    """Set the widths of all weights from one vector, in the order of `scores`."""
    sizes = [latent.numel() for _, _, latent in found]
    for (_, quantizer, latent), part in zip(found, widths.split(sizes), strict=True):
        quantizer.give(part.reshape(latent.shape).to(torch.int8), latent)


def clusters(values: Tensor, count: int, how: str) -> Tensor:
    """Which of `count` clusters each of `values` (>= 0) belongs to, 0 the lowest.

    "kmeans" and "log-kmeans" are Lloyd's algorithm in one dimension, begun at quantiles; "quantiles" are of equal size.

    **Raises** `InputError` if there are fewer distinct values than clusters.
    """
    x = values.double().cpu().numpy()
    if how == "log-kmeans":
        positive = x[x > 0]
        x = np.log(np.maximum(x, positive.min() if len(positive) else 1.0))
    distinct = np.unique(x)
    if len(distinct) < count:
        raise InputError(f"{count} clusters, but the signal has only {len(distinct)} distinct values: fewer clusters")
    if how == "quantiles":
        place = np.empty(len(x), np.int64)
        place[np.argsort(x, kind="stable")] = np.arange(len(x)) * count // len(x)
        return torch.from_numpy(place)
    return torch.from_numpy(np.searchsorted(_borders(np.sort(x), count, distinct), x, side="left"))


def _borders(x: npt.NDArray[np.float64], count: int, distinct: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The borders between the clusters of sorted values."""
    sums = np.concatenate([[0.0], np.cumsum(x)])
    centres = distinct[np.linspace(0, len(distinct) - 1, count + 2).astype(int)[1:-1]] if count > 1 else x[:1]
    for _ in range(ROUNDS):
        borders = (centres[1:] + centres[:-1]) / 2
        ends = np.concatenate([[0], np.searchsorted(x, borders, side="right"), [len(x)]])
        sizes = np.diff(ends)
        moved = np.where(sizes > 0, np.diff(sums[ends]) / np.maximum(sizes, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return (centres[1:] + centres[:-1]) / 2
