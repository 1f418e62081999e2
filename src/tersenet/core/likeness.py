"""How alike the outputs of two networks are, sample by sample, and as a loss; padding counts nowhere.

Outputs are `[n, classes or features]`, or have positions: `[n, features, ...]` as torch's losses have them, or `[n,
..., features]` as transformers have them. Which of the two is told by a mask of the positions that count, `[n, ...]`.
A sample with positions has a row of two numbers: the sum over its positions, and how many they are.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Likeness = Literal["classes", "cosine", "relative"]
NAMES: dict[Likeness, str] = {"classes": "same class", "cosine": "cosine", "relative": "1 - relative error"}
TEMPERATURE = 4.0  # of distillation


def feature_axis(outputs: Tensor, positions: torch.Size) -> int | None:
    """The axis of classes or features if the others are `positions`: 1 (where both fit), or the last; else None.

    >>> feature_axis(torch.zeros(2, 7, 100), torch.Size([2, 7]))
    2
    """
    if outputs.dim() != len(positions) + 1:
        return None
    if outputs.shape[:1] + outputs.shape[2:] == positions:
        return 1
    return outputs.dim() - 1 if outputs.shape[:-1] == positions else None


def features_last(outputs: Tensor, mask: Tensor | None) -> Tensor:
    """`outputs` with the axis of features last; without a `mask` that fits, it is axis 1."""
    axis = None if mask is None else feature_axis(outputs, mask.shape)
    return outputs.movedim(1 if axis is None else axis, -1) if outputs.dim() > 1 else outputs.unsqueeze(1)


def rows_of(values: Tensor, mask: Tensor | None) -> Tensor:
    """One row for every sample: the value itself where there is one, else the sum over its positions that count and
    their number.

    **Shapes**: values `[n, ...]`, mask the same -> `[n]` or `[n, 2]`.
    """
    if values.dim() == 1 and (mask is None or bool(mask.all())):
        return values
    counts = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    sums = values.masked_fill(~counts, 0).reshape(len(values), -1).sum(1)
    return torch.stack([sums, counts.reshape(len(values), -1).sum(1).to(sums)], 1)


def alike(outputs: Tensor, reference: Tensor, kind: Likeness, mask: Tensor | None = None) -> Tensor:
    """Rows of how alike two outputs are.

    "classes": whether both choose the same class. "cosine": of the features. "relative": `(sum of squares of the
    reference minus that of the difference, sum of squares of the reference)`, so that sums over samples give 1 minus
    the relative squared error.

    **Shapes**: `[n, ...]` twice, mask `[n, ...]` -> `[n]` or `[n, 2]`.
    """
    if kind == "relative":
        error, size = (_squares(part, mask) for part in (outputs - reference, reference))
        return torch.stack([size - error, size], 1)
    if kind == "cosine" and mask is None:
        return F.cosine_similarity(outputs.flatten(1), reference.flatten(1))
    ours, theirs = features_last(outputs, mask), features_last(reference, mask)
    if kind == "cosine":
        return rows_of(F.cosine_similarity(ours, theirs, dim=-1), mask)
    return rows_of((ours.argmax(-1) == theirs.argmax(-1)).to(torch.float32), mask)


def distance(outputs: Tensor, reference: Tensor, kind: Likeness, mask: Tensor | None = None) -> Tensor:
    """How far `outputs` are from the `reference`, as a loss (a scalar).

    "classes": `T^2 KL(softmax(reference / T), softmax(outputs / T))`, T = 4 (Hinton et al. 2015), on average over
    samples or positions that count; else the relative squared error.
    """
    if kind != "classes":
        squares = _squares(reference, mask).sum()
        return _squares(outputs - reference, mask).sum() / squares.clamp(min=torch.finfo(squares.dtype).tiny)
    ours, theirs = (F.log_softmax(counted(part, mask) / TEMPERATURE, 1) for part in (outputs, reference))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * TEMPERATURE**2


def counted(outputs: Tensor, mask: Tensor | None) -> Tensor:
    """The features of every position that counts. **Shapes**: `[n, ...]` -> `[positions, features]`."""
    if outputs.dim() == 2 and (mask is None or bool(mask.all())):
        return outputs
    rows = features_last(outputs, mask)
    rows = rows.reshape(-1, rows.shape[-1])
    return rows if mask is None else rows[mask.reshape(-1)]


def _squares(values: Tensor, mask: Tensor | None) -> Tensor:
    """The sum of squares of every sample, of positions that count. **Shapes**: `[n, ...]` -> `[n]`."""
    squares = values.square()
    if mask is not None:
        squares = features_last(squares, mask).masked_fill(~mask.unsqueeze(-1), 0)
    return squares.reshape(len(values), -1).sum(1)
