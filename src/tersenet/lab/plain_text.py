"""A plain text file as the data of a task: its parts for every split, and a tokenizer from a Hugging Face folder."""

import re
from pathlib import Path
from typing import Any

from ..errors import InputError, UsageError

PARTS = {"calibration": (0.0, 0.25), "train": (0.25, 0.5), "validation": (0.5, 0.75), "test": (0.75, 1.0)}
WITH_TEST = {"calibration": (0.0, 1 / 3), "train": (1 / 3, 2 / 3), "validation": (2 / 3, 1.0)}


def read(file: str | Path) -> str:
    """The text in a file. **Raises** `InputError`."""
    try:
        return Path(file).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as text ({error}): give a plain text file in UTF-8") from error


def parts(file: str | Path, test: str | Path | None) -> dict[str, str]:
    """The text of every split: quarters of `file` one after the other; with a file for `test`, thirds of `file`."""
    whole = read(file)
    cuts = PARTS if test is None else WITH_TEST
    found = {split: whole[int(len(whole) * a) : int(len(whole) * b)] for split, (a, b) in cuts.items()}
    return found if test is None else {**found, "test": read(test)}


def sentences(text: str, most: int) -> list[str]:
    """At most `most` sentences of 40 to 300 characters, from all over the text."""
    found = [part.strip() for line in text.splitlines() for part in re.split(r"(?<=[.!?])\s+|\s+[.;]\s+", line)]
    found = [part for part in found if 40 <= len(part) <= 300 and not part.startswith("=")]
    return found[:: max(1, len(found) // most)][:most]


def tokenizer(folder: str | Path) -> Any:
    """The tokenizer in a folder. **Raises** `UsageError` without transformers, `InputError` if there is none."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise UsageError(
            "a task of text needs transformers, which is not installed: pip install transformers"
        ) from error
    try:
        return AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{folder} has no tokenizer that transformers can load ({reason}): give folder=FOLDER"
        ) from error
