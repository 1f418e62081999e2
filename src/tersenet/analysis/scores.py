"""How important every layer is: by imprinting, by curvature, by what quantising it alone costs, or at random.

All scores have one shape: name of a weight -> number, and more means: keep more bits.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..core.batch import Batch
from ..core.nested import tensors
from ..errors import InputError
from ..network.calibrate import mean_loss
from ..network.features import Tap, taps
from ..network.layers import differentiable
from ..progress import progress

FEATURES = 512  # numbers that a layer's maps are pooled to
RESAMPLES = 1000


@dataclass(frozen=True)
class Imprint:
    """The imprinting scores of a network.

    `paths[l]` and `members[l]` are the modules in order; `accuracies[0]` is that of the raw input, `accuracies[l + 1]`
    that of module l; `gains[l] = accuracies[l + 1] - accuracies[l]`, with 95 % intervals by bootstrap over held-out
    images.
    """

    paths: list[str]
    members: list[list[str]]
    accuracies: list[float]
    gains: list[float]
    intervals: list[tuple[float, float]]

    def scores(self) -> dict[str, float]:
        """The gain of the module that each weight belongs to."""
        return {
            f"{member}.weight" if member else "weight": gain
            for gain, members in zip(self.gains, self.members, strict=True)
            for member in members
        }


def embedding(features: Tensor) -> Tensor:
    """About 512 numbers an image: maps are average-pooled to d x d, `d = max(1, round(sqrt(512 / channels)))`.

    **Shapes**: `[n, c, h, w]` (or `[n, c, ...]`, `[n, c]`) -> `[n, numbers]`.
    """
    if features.dim() == 4:
        side = max(1, round(math.sqrt(FEATURES / features.shape[1])))
        features = F.adaptive_avg_pool2d(features, side)
    elif features.dim() == 3:
        features = F.adaptive_avg_pool1d(features, max(1, round(FEATURES / features.shape[1])))
    return features.flatten(1).float()


def labels_of(batch: Batch) -> Tensor:
    """The class of every sample. **Raises** `InputError` if targets are something else."""
    labels = batch.targets
    if not isinstance(labels, Tensor) or labels.dim() != 1 or labels.is_floating_point() or int(labels.min()) < 0:
        found = f"{labels.dtype}, {list(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise InputError(
            f"imprinting needs the class of every sample (integers from 0 on, one each), but targets are {found}: "
            "score layers by fisher, hessian, sensitivity or random"
        )
    return labels.cpu()


def first_input(batch: Batch) -> Tensor:
    """The first tensor of the inputs, if it is floats; numbers of tokens say nothing by their size."""
    found = next(tensors(batch.inputs)).cpu()
    return found if found.is_floating_point() else torch.ones(len(found), 1)


def _pooled(module: nn.Module, tap: Tap, batch: Batch) -> Tensor:
    """The features of a layer; of a sequence their mean over what is no padding."""
    features, mask = tap.features.float().cpu(), batch.padding
    if features.dim() < 3 or not isinstance(module.get_submodule(tap.members[-1]), nn.Linear):
        return features
    if mask is not None and mask.shape == features.shape[:-1]:
        counts = mask.cpu().unsqueeze(-1)
        return features.masked_fill(~counts, 0).sum(1) / counts.sum(1)
    return features.flatten(1, -2).mean(1)


def class_means(sums: Tensor, counts: Tensor) -> Tensor:
    """Means by class, each divided by its L2 norm. **Shapes**: `[classes, numbers]`, `[classes]`."""
    return F.normalize(sums / counts.unsqueeze(1), dim=1)


def imprint(module: nn.Module, examples: Iterable[Batch], held_out: Iterable[Batch], seed: int = 0) -> Imprint:
    """Imprint a classifier after every module from the class means of `examples`, and score it on `held_out`.

    Module l's proxy predicts `argmax_c <mean embedding of class c, embedding(x)>`; its importance is what it gains over
    the module before it (Elkerdawy et al. 2020). One forward pass over each, no backward pass.

    **Raises** `InputError` if a class of the held-out images has no example, or there are none.
    """
    training = module.training
    module.eval()
    sums: list[Tensor] = []
    counts = torch.zeros(0)
    paths: list[str] = []
    members: list[list[str]] = []
    for batch in examples:
        targets, tapped = labels_of(batch), taps(module, batch)
        features = [embedding(first_input(batch)), *(embedding(_pooled(module, tap, batch)) for tap in tapped)]
        paths, members = [tap.path for tap in tapped], [tap.members for tap in tapped]
        classes = int(targets.max()) + 1
        if classes > len(counts):
            sums = [_grown(part, classes) for part in sums] or [torch.zeros(classes, f.shape[1]) for f in features]
            counts = _grown(counts, classes)
        marks = F.one_hot(targets, len(counts)).float()
        counts = counts + marks.sum(0)
        sums = [part + marks.T @ feature for part, feature in zip(sums, features, strict=True)]
    if not paths:
        raise InputError("there is nothing to imprint: no examples, or a network of one layer")
    if not (counts > 0).all():
        raise InputError(f"class {int((counts == 0).nonzero()[0])} has no example: imprinting needs all of them")
    proxies = [class_means(part, counts) for part in sums]
    right: list[list[Tensor]] = [[] for _ in proxies]
    for batch in held_out:
        targets = labels_of(batch)
        if int(targets.max()) >= len(counts):
            raise InputError(f"class {int(targets.max())} has no example: imprinting needs all of them")
        tapped = taps(module, batch)
        features = [embedding(first_input(batch)), *(embedding(_pooled(module, tap, batch)) for tap in tapped)]
        for hits, proxy, feature in zip(right, proxies, features, strict=True):
            hits.append(((feature @ proxy.T).argmax(1) == targets).double())
    module.train(training)
    if not right[0]:
        raise InputError("there are no held-out samples to score on: the validation split is empty")
    scores = torch.stack([torch.cat(part) for part in right])  # [modules + 1, images]
    accuracies = scores.mean(1).tolist()
    gains = [after - before for before, after in pairwise(accuracies)]
    return Imprint(paths, members, accuracies, gains, _bootstrap(scores[1:] - scores[:-1], seed))


def _grown(part: Tensor, classes: int) -> Tensor:
    """`part` with rows of zeros appended up to `classes`."""
    return torch.cat([part, torch.zeros(classes - len(part), *part.shape[1:])])


def _bootstrap(differences: Tensor, seed: int) -> list[tuple[float, float]]:
    """95 % intervals of the means of rows. **Shapes**: `[modules, images]`."""
    generator = torch.Generator().manual_seed(seed)
    n = differences.shape[1]
    means = torch.stack([differences[:, torch.randint(n, (n,), generator=generator)].mean(1) for _ in range(RESAMPLES)])
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def fisher(module: nn.Module, names: Sequence[str], batches: Sequence[Batch]) -> dict[str, float]:
    """The mean over batches of the mean squared gradient of each weight: the diagonal Fisher, by batch."""
    sums = dict.fromkeys(names, 0.0)
    for found in gradients(module, names, batches):
        for name, gradient in zip(names, found, strict=True):
            if gradient is not None:
                sums[name] += float(gradient.detach().square().mean()) / len(batches)
    return sums


def hessian(
    module: nn.Module, names: Sequence[str], batches: Sequence[Batch], seed: int = 0, probes: int = 8
) -> dict[str, float]:
    """The trace of the Hessian of the loss by weight, over its number of elements (Hutchinson: mean of v^T H v)."""
    generator = torch.Generator().manual_seed(seed)
    weights = [module.get_parameter(name) for name in names]
    sums = dict.fromkeys(names, 0.0)
    for found in gradients(module, names, batches, create_graph=True):
        for _ in range(probes):
            v = [torch.randint(0, 2, w.shape, generator=generator).to(w) * 2 - 1 for w in weights]
            used = [(g, sign) for g, sign in zip(found, v, strict=True) if g is not None and g.requires_grad]
            if not used:
                break
            outputs, signs = zip(*used, strict=True)
            products = torch.autograd.grad(outputs, weights, signs, retain_graph=True, allow_unused=True)
            for name, sign, product in zip(names, v, products, strict=True):
                if product is not None:
                    sums[name] += float((sign * product).mean()) / (probes * len(batches))
    return sums


def gradients(
    module: nn.Module, names: Sequence[str], batches: Sequence[Batch], create_graph: bool = False
) -> Iterable[tuple[Tensor | None, ...]]:
    """The gradients of the loss by the weights called `names`, batch by batch."""
    weights = [module.get_parameter(name).requires_grad_(True) for name in names]
    for done, batch in enumerate(batches):
        with differentiable(module), sdpa_kernel(SDPBackend.MATH):  # fast attention goes back only once
            loss, _ = batch.loss(batch.run(module))
            yield torch.autograd.grad(loss, weights, create_graph=create_graph, allow_unused=True)
        progress("measuring curvature", done + 1, len(batches))


def loss_increase(module: nn.Module, rounded: Mapping[str, Tensor], batches: list[Batch]) -> dict[str, float]:
    """How much the loss rises when only this weight is replaced by its rounded value."""
    base = mean_loss(module, batches)
    found = {}
    for done, (name, value) in enumerate(rounded.items()):
        with replaced(module, {name: value}):
            found[name] = mean_loss(module, batches) - base
        progress("quantising one layer at a time", done + 1, len(rounded))
    return found


class replaced:
    """A context in which some weights of a module have other values."""

    def __init__(self, module: nn.Module, values: Mapping[str, Tensor]) -> None:
        self.pairs = [(module.get_parameter(name).data, value) for name, value in values.items()]

    def __enter__(self) -> None:
        self.before = [data.clone() for data, _ in self.pairs]
        for data, value in self.pairs:
            data.copy_(value)

    def __exit__(self, *error: Any) -> None:
        for (data, _), before in zip(self.pairs, self.before, strict=True):
            data.copy_(before)


def rank(scores: Mapping[str, float]) -> list[str]:
    """Names from the least important to the most; equal scores in the network's order."""
    return sorted(scores, key=lambda name: scores[name])
