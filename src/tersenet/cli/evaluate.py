"""`tersenet eval`: what a compressed file scores, and how far it is from the network it came from."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .checkpoints import IgnoreKeys, Key, StripPrefix, checkpoint_of
from .output import Json, MaxOutput, print_json, print_table

if TYPE_CHECKING:
    from torch import nn


def command(
    file: Annotated[Path, typer.Argument(help="A .terse file (or a checkpoint).")],
    model: Annotated[
        str,
        typer.Option(help="module:function, FILE.py:function, a name, or auto (a Hugging Face folder)."),
    ],
    task: Annotated[
        str, typer.Option(help="Data and metric: module:function, FILE.py:function, digits, text, images, ...")
    ],
    model_arg: Annotated[list[str] | None, typer.Option(help="name=value for --model; may be repeated.")] = None,
    task_arg: Annotated[list[str] | None, typer.Option(help="name=value for --task; may be repeated.")] = None,
    against: Annotated[Path | None, typer.Option(help="The original checkpoint, for drop and agreement.")] = None,
    key: Key = None,
    strip_prefix: StripPrefix = None,
    ignore_keys: IgnoreKeys = None,
    split: Annotated[str, typer.Option(help="Which split of the task.")] = "test",
    max_output: MaxOutput = None,
    as_json: Json = False,
) -> None:
    """Decode a file, run it on a task, and print metric, drop and agreement with n and a 95 % interval."""
    from ..analysis.evaluate import evaluate
    from ..analysis.intervals import Estimate
    from ..api import load_into
    from .factory import make_model, make_task

    def opened(path: Path, *others: Path) -> "nn.Module":
        source = checkpoint_of(path, key, strip_prefix, ignore_keys)
        return load_into(source, make_model(model, model_arg or [], path, *others), max_output=max_output)

    files = [file] if against is None else [file, against]
    network = opened(*files)
    reference = None if against is None else opened(*files[::-1])
    judge = make_task(task, task_arg or [], *files)
    result = evaluate(network, judge, split, reference)
    if as_json:
        print_json({"bytes": file.stat().st_size if file.is_file() else None, "split": split, **asdict(result)})
        return
    agreement = f"agreement ({result.agreement_name})"
    dropped = f"drop in {judge.drop_by}" if judge.drop_by else "drop" if result.metric else f"drop of {agreement}"
    called = {"drop": dropped, "agreement": agreement}
    rows = [
        (called.get(name, name), f"{value.mean:.4f}", f"{value.low:.4f} to {value.high:.4f}", value.n)
        for name, value in {**vars(result), **result.comparisons}.items()
        if isinstance(value, Estimate)
    ]
    print_table(f"{file} on the {split} split", ("", ">mean", ">95 % interval", ">n"), rows)
