"""Rows of a table that are made one after the other: the files they are measured from, and the CSV they are kept in."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..api import compress_file
from ..core.method import Method, RunFolder
from ..core.task import Task
from ..files.atomic import replacing_file

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def write_rows(rows: "Sequence[DataclassInstance]", path: Path) -> None:
    """Write dataclasses of one kind as CSV, floats with at most four decimals, in the place of what is there."""
    kept: list[dict[str, Any]] = [
        {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(row).items()}
        for row in rows
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(kept[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(kept)
    with replacing_file(path, overwrite=True) as stream:
        stream.write(text.getvalue().encode())


def trained_file(run: Path, weights: Path, method: Method, network: nn.Module, task: Task) -> Path:
    """The file of a training in the folder `run`, made or finished if it is not there."""
    place = run.with_name(f"{run.name}.terse")
    if not place.is_file():
        kept = RunFolder(run, (run / "run.json").is_file())
        compress_file(weights, place, method, module=network, task=task, run=kept)
    return place
