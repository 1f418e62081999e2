"""`tersenet reproduce`: a paper's table, made again from nothing, or on a network of one's own."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .output import Json, print_json, print_table, progress_bar


class Paper(StrEnum):
    """What can be made again."""

    accgrad = "accgrad"


def command(
    paper: Annotated[Paper, typer.Argument(help="accgrad: Gaopande 2020, Table of compression ratios.")],
    work: Annotated[
        Path, typer.Option(help="A folder for weights, trainings and files; the same command goes on there.")
    ],
    net: Annotated[list[str] | None, typer.Option(help="lenet300, lenet5, alexnet, vgg16; may be repeated.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Your own trained network, with --model and --task.")] = None,
    model: Annotated[str | None, typer.Option(help="Its code: module:function, FILE.py:function, or a name.")] = None,
    task: Annotated[str | None, typer.Option(help="Its data: module:function, FILE.py:function, or a name.")] = None,
    seed: Annotated[int, typer.Option(help="Of initial weights and trainings.")] = 0,
    as_json: Json = False,
) -> None:
    """Train, compress in every mode, judge from the file, and print ratios beside the published ones."""
    from ..errors import UsageError
    from ..lab import reproduce
    from .factory import make_model, make_task

    given = (checkpoint, model, task)
    if any(given) and not all(given):
        raise UsageError("a network of your own needs --checkpoint, --model and --task")
    found: list[reproduce.Row] = []
    with progress_bar():
        if checkpoint is not None and model is not None and task is not None:
            work.mkdir(parents=True, exist_ok=True)
            recipe, network = reproduce.OWN, make_model(model, [])
            signals = ("grad", "grad-magnitude")
            made = make_task(task, [])
            found += reproduce.rows(checkpoint.stem, network, made, checkpoint, work, recipe, seed, signals)
        for name in [] if checkpoint else net or ["lenet300", "lenet5"]:
            found += reproduce.accgrad(name, work, seed)
    if as_json:
        print_json({"rows": [asdict(row) for row in found]})
        return
    cells = [
        (
            row.network, row.mode, row.signal, row.epochs, f"{100 * row.fp32:.2f}", f"{100 * row.accuracy:.2f}",
            f"{row.drop.mean:.2f} ({row.drop.low:.2f} to {row.drop.high:.2f})", f"{row.nonzeros:,}", row.bits,
            "" if row.published is None else row.published, f"{row.csr_ratio:.2f}", f"{row.file_ratio:.2f}",
            f"{row.file_bytes:,}",
        )
        for row in found
    ]  # fmt: skip
    columns = (
        "network", "mode", "signal", ">epochs", ">fp32 %", ">test %", ">drop, points (95 %)", ">non-zeros",
        "bits: non-zeros", ">thesis", ">CSR ratio", ">file ratio", ">file bytes",
    )  # fmt: skip
    print_table(f"accumulated gradients, seed {seed}; ratios to fp32, test accuracy from the file", columns, cells)
