"""`tersenet ablate`: a file again with one axis flipped, side by side."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from ..errors import UsageError
from .checkpoints import IgnoreKeys, Key, StripPrefix, checkpoint_of
from .compare import show
from .output import Json, Overwrite, print_json, progress_bar


def command(
    file: Annotated[Path, typer.Argument(help="A .terse file.")],
    checkpoint: Annotated[Path, typer.Option(help="The checkpoint that it was made from.")],
    flip: Annotated[
        str, typer.Option(help="A field of its method (granularity: every other value), or name=value (bits=3).")
    ],
    model: Annotated[
        str | None, typer.Option(help="module:function, FILE.py:function, a name, or auto (a Hugging Face folder).")
    ] = None,
    model_arg: Annotated[list[str] | None, typer.Option(help="name=value for --model; may be repeated.")] = None,
    task: Annotated[
        str | None, typer.Option(help="Data: module:function, FILE.py:function, digits, mnist or cifar10.")
    ] = None,
    task_arg: Annotated[list[str] | None, typer.Option(help="name=value for --task; may be repeated.")] = None,
    method: Annotated[str | None, typer.Option(help="FILE.py:Class, if the method is not one of tersenet's.")] = None,
    key: Key = None,
    strip_prefix: StripPrefix = None,
    ignore_keys: IgnoreKeys = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder that keeps the files; else they are deleted.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a file again with one field of its method flipped, method and seed from its card, and compare both."""
    from dataclasses import replace

    from ..files.atomic import check_output
    from ..report.card.axes import differing
    from ..search.ablate import Ablation, check_axis, flipped, method_of
    from .factory import make_model, make_task
    from .fields import value_of

    if (model is None and model_arg) or (task is None and task_arg):
        raise UsageError("--model-arg needs --model, and --task-arg needs --task")
    made_by = method_of(file, method)
    name, equals, value = flip.partition("=")
    check_axis(made_by, name)
    others = [replace(made_by, **{name: value_of(type(made_by), name, value)})] if equals else flipped(made_by, name)
    if made_by in others:
        raise UsageError(f"{name} is {value} already: give another value")
    module = None if model is None else make_model(model, model_arg or [], checkpoint)
    source = checkpoint_of(checkpoint, key, strip_prefix, ignore_keys)
    ablation = Ablation(file, source, module, None if task is None else make_task(task, task_arg or [], file))
    with TemporaryDirectory(prefix="tersenet") as folder, progress_bar():
        if output is not None:
            output.mkdir(exist_ok=True)
        places = [(output or Path(folder)) / f"{name}-{number}.terse" for number in range(1, len(others) + 1)]
        for place in places:
            check_output(place, file, overwrite=overwrite)
        cards = [ablation.original()]
        cards += [ablation.made(each, place, overwrite) for each, place in zip(others, places, strict=True)]
    labels = [f"{name}={getattr(each, name)}" for each in (made_by, *others)]
    if as_json:
        print_json({"file": str(file), "axis": name, "labels": labels, "cards": cards, "differ": differing(cards)})
    else:
        show(labels, cards, differing(cards))
