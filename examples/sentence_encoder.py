"""A sentence encoder: batches as mappings, mean-pooled embeddings, agreement by cosine, no labels.

    tersenet compress FOLDER -o small.terse --model auto --calibrate --task examples/sentence_encoder.py:task \\
        --task-arg folder=FOLDER

FOLDER has the tokenizer, too; text is wikitext-2 in $TERSENET_DATA. Needs transformers.
"""

import os
from pathlib import Path

from transformers import AutoTokenizer

from tersenet import Task

TEXT = os.environ.get("TERSENET_DATA", ".") + "/wikitext2"


def embedding(network, inputs):
    """The mean of the last hidden states over real tokens. **Shapes**: -> `[n, features]`."""
    hidden, mask = network(**inputs).last_hidden_state, inputs["attention_mask"].unsqueeze(-1)
    return (hidden * mask).sum(1) / mask.sum(1)


def task(folder, text=TEXT, n=192, batch=32):
    """`n` sentences of 60 to 300 characters to judge on, as many to choose by, to calibrate on and to train on."""
    tokens = AutoTokenizer.from_pretrained(folder)
    size = {"padding": True, "truncation": True, "max_length": 64, "return_tensors": "pt"}

    def batches(split, first=0):
        lines = Path(f"{text}_{split}.txt").read_text("utf-8").splitlines()
        parts = (part.strip() for line in lines if not line.strip().startswith("=") for part in line.split(" . "))
        found = [part for part in parts if 60 < len(part) < 300][first * n : (first + 1) * n]
        return [tokens(found[i : i + batch], **size) for i in range(0, len(found), batch)]

    splits = [batches("test"), batches("valid"), batches("valid", 1), batches("valid", 2)]
    return Task(*splits, forward=embedding, agreement="cosine")
