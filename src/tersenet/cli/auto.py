"""`tersenet auto`: the smallest file within a drop (or the best within a number of bytes), by whatever method."""

import time
from pathlib import Path
from typing import Annotated

import typer

from .card import CardField, card_fields, write_beside
from .checkpoints import Attach, IgnoreKeys, Key, StripPrefix, checkpoint_of
from .methods import complete
from .output import Json, Overwrite, progress_bar
from .targets import MaxBytes, MaxDrop, points, print_message, report


def command(
    checkpoint: Annotated[Path, typer.Argument(help=".safetensors, .pt, .ckpt, ... or a Hugging Face folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write; trials go to OUTPUT.search.")],
    model: Annotated[
        str,
        typer.Option(help="module:function, FILE.py:function, a name, or auto (a Hugging Face folder)."),
    ],
    task: Annotated[str, typer.Option(help="Data: module:function, FILE.py:function, digits, text, images, ...")],
    model_arg: Annotated[list[str] | None, typer.Option(help="name=value for --model; may be repeated.")] = None,
    task_arg: Annotated[list[str] | None, typer.Option(help="name=value for --task; may be repeated.")] = None,
    key: Key = None,
    strip_prefix: StripPrefix = None,
    ignore_keys: IgnoreKeys = None,
    attach: Attach = None,
    max_drop: MaxDrop = None,
    max_bytes: MaxBytes = None,
    train: Annotated[bool, typer.Option("--train", help="Allow methods that train.")] = False,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Only this one (a name or FILE.py:Class); may be repeated.", autocompletion=complete),
    ] = None,
    time_limit: Annotated[float, typer.Option(help="Minutes.")] = 30.0,
    card_field: CardField = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Try methods, the fastest first: data-free, calibrated, and with --train trained. The best file is always there.

    The same command goes on where it was stopped (by Ctrl-C, the time limit, a kill).
    """
    from ..search.within import auto
    from .factory import make_model, make_task

    began = time.perf_counter()
    with progress_bar():
        outcome = auto(
            checkpoint_of(checkpoint, key, strip_prefix, ignore_keys, attach),
            output,
            module=make_model(model, model_arg or [], checkpoint),
            task=make_task(task, task_arg or [], checkpoint),
            max_bytes=max_bytes,
            max_drop=points(max_drop),
            train=train,
            methods=method,
            time_limit=time_limit * 60,
            overwrite=overwrite,
            task_name=" ".join([task, *(task_arg or [])]),
            card_fields=card_fields(card_field),
            on_message=print_message,
        )
    write_beside(output, checkpoint, time.perf_counter() - began)
    report(outcome, output, as_json, time.perf_counter() - began)
