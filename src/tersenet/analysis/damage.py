"""What compression did to a network, told from the weights alone: the relative error of every layer's outputs, expected
for inputs that nobody has seen.

Of inputs only what most networks have in common is assumed (docs/design/0006): they are uncorrelated but for a mean, so
the expected squared output of a row of weights w is `w C w`, with `C = I + 0.3 * 1 1^T`. A layer's error is `sum over
rows of (w - q) C (w - q)`, over `sum of w C w`. What it means for the whole network is measured in docs/design/0019.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..core.method import TensorSource
from ..core.model import CompressedModel, QTensor

MEAN_INPUT = 0.3  # the square of an input's mean, over its variance
BLOCKS, BLOCK = 64, 1 << 14  # rows are looked at in so many places of a tensor, and so many weights together
LIKELY_BAD = 0.01  # of the mean error of layers, see docs/design/0019
LIKELY_BAD_AGAIN = 0.0005  # where there are recurrent layers, whose errors come back at every step
RECURRENT = "weight_hh"  # in the names of their weights


@dataclass(frozen=True)
class Damage:
    """The expected relative error of every layer's outputs, by the name of its weight."""

    errors: Mapping[str, float]

    @property
    def mean(self) -> float:
        """The mean over layers, 0 if nothing is quantised."""
        return sum(self.errors.values()) / max(1, len(self.errors))

    @property
    def worst(self) -> str:
        """The layer with the largest error."""
        return max(self.errors, key=self.errors.__getitem__)

    @property
    def likely_bad(self) -> bool:
        """Whether networks with such errors were much worse than the original, where that was measured."""
        again = any(RECURRENT in name for name in self.errors)
        return self.mean > (LIKELY_BAD_AGAIN if again else LIKELY_BAD)

    def __str__(self) -> str:
        return (
            f"expected from the weights alone: {self.mean:.1%} error of a layer's outputs on average, "
            f"{self.errors[self.worst]:.1%} at most ({self.worst})"
        )


def damage(source: TensorSource, model: CompressedModel) -> Damage:
    """Of a compressed model beside the checkpoint it was made from; rows from all over a large tensor are looked at.

    Where batch norm is not kept, the scale of a row is no error, because what follows has the inverse.
    """
    errors = {}
    free = model.batch_norm != "keep"
    for name, entry in model.tensors.items():
        if isinstance(entry, QTensor) and name in source.specs and entry.codes.numel():
            errors[name] = _error(source.read(name), entry, free)
    return Damage(errors)


def _error(weight: Tensor, entry: QTensor, free: bool) -> float:
    """The relative error of one layer."""
    rows = len(weight)
    size = max(1, BLOCK // max(1, weight[0].numel()))
    error = total = 0.0
    for start in range(0, rows, max(size, rows // BLOCKS)):
        length = min(size, rows - start)
        values = entry.grid.part(0, start, length).decode(entry.codes[start : start + length])
        w, q = (part.reshape(length, -1).double() for part in (weight[start : start + length], values))
        if free:
            q = q * (_product(w, q) / _product(q, q).clamp(min=1e-30)).unsqueeze(1)
        error += float(_product(w - q, w - q).sum())
        total += float(_product(w, w).sum())
    return error / total if total else 0.0


def _product(a: Tensor, b: Tensor) -> Tensor:
    """`a C b` of every row. **Shapes**: `[rows, columns]` twice -> `[rows]`."""
    return (a * b).sum(1) + MEAN_INPUT * a.sum(1) * b.sum(1)
