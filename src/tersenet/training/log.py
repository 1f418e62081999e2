"""Reading what a training has logged, also while it goes on."""

import json
from pathlib import Path
from typing import Any

from ..errors import InputError
from .run import DESCRIPTION, LOG


def read_log(folder: Path) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Which training a folder holds, and the scalars of every line of its log, with their `step`.

    A line that is not whole (yet) is left out. **Raises** `InputError` if the folder holds no training.
    """
    try:
        described = json.loads((folder / DESCRIPTION).read_text("utf-8"))
        if not isinstance(described, dict):
            raise ValueError("it describes no training")
        text = (folder / LOG).read_text("utf-8", "replace") if (folder / LOG).is_file() else ""
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder} holds no training that can be read ({str(error)[:200]})") from error
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append({key: float(value) for key, value in row.items() if type(value) in (int, float)})
    return described, rows
