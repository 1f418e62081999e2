"""`tersenet reproduce`: a paper's table, made again from nothing, or on a network of one's own."""

from pathlib import Path
from typing import Annotated

import typer

from .output import Json, print_json, print_table, progress_bar


def command(
    paper: Annotated[str, typer.Argument(help="Which one; `tersenet reproduce list` shows what there is.")],
    work: Annotated[
        Path | None, typer.Option(help="A folder for weights, trainings and files; the same command goes on there.")
    ] = None,
    net: Annotated[list[str] | None, typer.Option(help="A network of the paper; may be repeated.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Your own trained network, with --model and --task.")] = None,
    model: Annotated[str | None, typer.Option(help="Its code: module:function, FILE.py:function, or a name.")] = None,
    task: Annotated[str | None, typer.Option(help="Its data: module:function, FILE.py:function, or a name.")] = None,
    seed: Annotated[int, typer.Option(help="Of initial weights and trainings.")] = 0,
    as_json: Json = False,
) -> None:
    """Train, compress, judge from the file, and print what was measured beside what was published."""
    from ..errors import UsageError
    from ..lab.reproduce import Own, get, papers
    from .factory import make_model, make_task

    if paper == "list":
        if as_json:
            print_json(papers())
        else:
            print_table("", ("paper", "table"), list(papers().items()))
        return
    table, given = get(paper), (checkpoint, model, task)
    if work is None:
        raise UsageError("--work is missing: a folder for weights, trainings and files")
    if any(given) and not all(given):
        raise UsageError("a network of your own needs --checkpoint, --model and --task")
    own = None
    if checkpoint is not None and model is not None and task is not None:
        own = Own(make_model(model, []), make_task(task, []), checkpoint)
    with progress_bar():
        made = table(work, net or (), seed, own)
    if as_json:
        print_json({"rows": made.rows})
    else:
        print_table(made.title, made.columns, made.cells)
