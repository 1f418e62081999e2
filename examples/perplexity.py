"""A language model judged by perplexity: a sample is a window of tokens with a row (sum of losses, tokens).

    tersenet eval small.terse --against FOLDER --model auto --task examples/perplexity.py:task --task-arg folder=FOLDER

Causal models predict the next token; masked ones (`--task-arg masked=true`) every seventh. The network returns the loss
that methods use. Text is wikitext-2 in $TERSENET_DATA. Needs transformers.
"""

import os
from functools import partial
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

from tersenet import Task

TEXT = os.environ.get("TERSENET_DATA", ".") + "/wikitext2"


def losses(logits, labels, masked):
    """Sum of losses and number of labels. **Shapes**: `[n, length, tokens]`, `[n, length]` -> `[n, 2]`."""
    logits, labels = (logits, labels) if masked else (logits[:, :-1], labels[:, 1:])
    return torch.stack([cross_entropy(logits.mT, labels, reduction="none").sum(1), (labels != -100).sum(1)], 1)


def task(folder, text=TEXT, masked=False, n=32, length=64, batch=8):
    """`n` windows of `length` tokens to judge on, and to choose by, to calibrate on and to train on."""
    tokens, hidden = AutoTokenizer.from_pretrained(folder), torch.arange(length) % 7 == 3

    def windows(split, first=0):
        read = Path(f"{text}_{split}.txt").read_text("utf-8")[: 32 * n * length]
        ids = tokens(read, return_tensors="pt", verbose=False).input_ids[0].split(n * length)[first].reshape(n, length)
        pair = (ids.masked_fill(hidden, tokens.mask_token_id), ids.masked_fill(~hidden, -100)) if masked else (ids, ids)
        return [{"input_ids": a, "labels": b} for a, b in zip(*(part.split(batch) for part in pair), strict=True)]

    splits = [windows("test"), windows("valid"), windows("valid", 1), windows("valid", 2)]
    score = {"aggregate": lambda rows: (rows[:, 0].sum() / rows[:, 1].sum()).exp(), "higher_is_better": False}
    return Task(*splits, metric=partial(losses, masked=masked), points=1, **score)
