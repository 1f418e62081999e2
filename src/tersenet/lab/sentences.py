"""Encoders of sentences on plain text: the cosine of embeddings with those of the original, and nearest neighbours."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..core.fields import check_value
from ..core.task import Task
from ..errors import InputError
from .plain_text import parts, sentences, tokenizer

Drop = Literal["cosine", "nearest"]
UNITS: dict[str, dict[str, Any]] = {
    "cosine": {"unit": "points of cosine"},
    "nearest": {"unit": "points of nearest neighbour", "drop_by": "other nearest neighbour"},
}


@dataclass(frozen=True)
class Pooled:
    """The unit vector of the mean of the last hidden states over real tokens, `piece` sentences at a time."""

    piece: int

    def __call__(self, network: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """**Shapes**: -> `[n, features]`."""
        found = []
        for start in range(0, len(inputs["attention_mask"]), self.piece):
            part = {name: value[start : start + self.piece] for name, value in inputs.items()}
            returned = network(**part)
            hidden = returned.last_hidden_state if hasattr(returned, "last_hidden_state") else returned[0]
            mask = part["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            found.append(normalize((hidden * mask).sum(1) / mask.sum(1), dim=1))
        return torch.cat(found)


def embeddings(
    file: str, folder: str, test: str | None = None, n: int = 500, longest: int = 64, drop: Drop = "cosine"
) -> Task:
    """At most `n` sentences of a plain text file in every split, cut after `longest` tokens, by the tokenizer in
    `folder`; without labels.

    Agreement is the cosine with the original's embedding. Beside it: how often another sentence of the split is the
    nearest (by cosine). `drop` says which of the two a drop is counted in. Without a file for `test` the splits are
    quarters of `file`, one after the other.

    **Raises** `InputError` for a text with too few sentences, or a folder without tokenizer.
    """
    check_value("drop", Drop, drop)
    tokens = tokenizer(folder)
    splits: dict[str, Any] = {}
    for split, part in parts(file, test).items():
        found = sentences(part, n)
        if len(found) < 4:
            raise InputError(
                f"the {split} part of the text has {len(found)} sentences of 40 to 300 characters: give more"
            )
        size = 32 if split in ("calibration", "train") else len(found)  # neighbours are among the whole of a split
        given = {"padding": True, "truncation": True, "max_length": longest, "return_tensors": "pt"}
        splits[split] = [dict(tokens(found[i : i + size], **given)) for i in range(0, len(found), size)]
    comparisons = {"other nearest neighbour": _other_nearest}
    return Task(**splits, forward=Pooled(50), agreement="cosine", comparisons=comparisons, **UNITS[drop])


def _other_nearest(outputs: Tensor, reference: Tensor, mask: Tensor | None) -> Tensor:
    """1 where the nearest other sentence is not that of the original. **Shapes**: `[n, features]` twice -> `[n]`."""
    ours, theirs = ((each @ each.T).fill_diagonal_(-torch.inf).argmax(1) for each in (outputs, reference))
    return (ours != theirs).float()
