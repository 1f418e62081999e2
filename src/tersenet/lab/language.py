"""Language models on plain text: perplexity, and KL divergence and top token beside the original, by windows."""

import json
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from ..core.batch import IGNORED
from ..core.fields import check_value
from ..core.task import Task
from ..errors import InputError
from .plain_text import parts, tokenizer

EVERY = 7  # tokens, of which one is hidden from a masked model
CHARACTERS = 8  # of text that are tokenized for every token that is needed
Drop = Literal["perplexity", "KL", "top"]
UNITS: dict[str, dict[str, Any]] = {
    "perplexity": {"points": 1.0, "unit": "perplexity"},
    "KL": {"points": 1.0, "unit": "KL", "drop_by": "KL"},
    "top": {"points": 100.0, "unit": "points of top token", "drop_by": "other top token"},
}


def text(
    file: str,
    folder: str,
    test: str | None = None,
    windows: int = 32,
    length: int = 512,
    masked: bool | None = None,
    drop: Drop = "perplexity",
) -> Task:
    """Windows of `length` tokens of a plain text file, at most `windows` in every split, by the tokenizer in `folder`.

    A causal model predicts every token from those before it; a masked one (`masked`, or where config.json names a class
    for it) every seventh, which is hidden. A sample is a window; the score is `exp(sum of losses / tokens)`. Beside the
    original: the KL divergence in nats a token, and how often another token is on top. `drop` says which of the three a
    drop is counted in. Without a file for `test` the splits are quarters of `file`, one after the other.

    **Raises** `InputError` for a text that is too short, or a folder without tokenizer.
    """
    check_value("drop", Drop, drop)
    tokens = tokenizer(folder)
    masked = _is_masked(folder) if masked is None else masked
    if masked and tokens.mask_token_id is None:
        raise InputError(f"the tokenizer in {folder} has no mask token: give masked=False for a causal model")
    splits: dict[str, Any] = {
        split: _windows(tokens, part, split, (windows, length), masked) for split, part in parts(file, test).items()
    }
    shift = 0 if masked else 1
    same = partial(_same_top, shift=shift)
    same.__name__ = "same top token"  # type: ignore[attr-defined]
    return Task(
        **splits,
        metric=partial(_losses, shift=shift),
        aggregate=_perplexity,
        higher_is_better=False,
        agreement="classes" if masked else same,
        comparisons={"KL": partial(_divergence, shift=shift), "other top token": partial(_other_top, shift=shift)},
        **UNITS[drop],
    )


def _is_masked(folder: str) -> bool:
    """Whether config.json names a class that predicts hidden tokens."""
    config = Path(str(folder)) / "config.json"
    try:
        named = json.loads(config.read_text("utf-8")).get("architectures") or []
    except (OSError, ValueError, AttributeError):
        return False
    return any(str(each).endswith(("ForMaskedLM", "ForPreTraining")) for each in named)


def _windows(tokens: Any, part: str, split: str, size: tuple[int, int], masked: bool) -> list[dict[str, Tensor]]:
    most, length = size
    ids = tokens(part[: most * length * CHARACTERS], add_special_tokens=False, verbose=False).input_ids
    count = min(most, len(ids) // length)
    if count < 2:
        raise InputError(
            f"the {split} part of the text has {len(ids):,} tokens, less than two windows of {length}: give a longer "
            "text, or length="
        )
    rows = torch.tensor(ids[: count * length]).reshape(count, length)
    hidden = torch.arange(length) % EVERY == EVERY // 2
    inputs = rows.masked_fill(hidden, tokens.mask_token_id) if masked else rows
    labels = rows.masked_fill(~hidden, IGNORED) if masked else rows
    return [{"input_ids": a[None], "labels": b[None]} for a, b in zip(inputs, labels, strict=True)]


def _losses(logits: Tensor, labels: Tensor, shift: int) -> Tensor:
    """Sum of losses and number of tokens. **Shapes**: `[n, length, tokens]`, `[n, length]` -> `[n, 2]`."""
    logits, labels = logits[:, : logits.shape[1] - shift], labels[:, shift:]
    losses = cross_entropy(logits.mT, labels, reduction="none", ignore_index=IGNORED)
    return torch.stack([losses.sum(1), (labels != IGNORED).sum(1)], 1)


def _perplexity(rows: Tensor) -> Tensor:
    return (rows[:, 0].sum() / rows[:, 1].sum()).exp()


def _rows(values: Tensor, mask: Tensor | None, shift: int) -> Tensor:
    """Sums over positions that count, and their number. **Shapes**: `[n, length]` -> `[n, 2]`."""
    counts = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    stop = values.shape[1] - shift
    values, counts = values[:, :stop], counts[:, :stop]
    return torch.stack([(values * counts).sum(1), counts.sum(1)], 1)


def _divergence(outputs: Tensor, reference: Tensor, mask: Tensor | None, shift: int) -> Tensor:
    """KL(reference, outputs) in nats."""
    ours, theirs = log_softmax(outputs, -1), log_softmax(reference, -1)
    return _rows((theirs.exp() * (theirs - ours)).sum(-1), mask, shift)


def _other_top(outputs: Tensor, reference: Tensor, mask: Tensor | None, shift: int) -> Tensor:
    return _rows((outputs.argmax(-1) != reference.argmax(-1)).float(), mask, shift)


def _same_top(outputs: Tensor, reference: Tensor, shift: int) -> Tensor:
    return _rows((outputs.argmax(-1) == reference.argmax(-1)).float(), None, shift)
