"""`tersenet report`: one HTML page about a file, a search or a training, with a table below every chart."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .checkpoints import IgnoreKeys, Key, StripPrefix, checkpoint_of
from .contents import Judge, page_of, sources_of
from .output import MaxOutput, Overwrite, print_line, progress_bar
from .targets import print_message

if TYPE_CHECKING:
    from torch import nn

    from ..analysis.classes import ClassScore
    from ..analysis.evaluate import Evaluation
    from ..report.page import Page


def command(
    what: Annotated[
        Path, typer.Argument(metavar="RUN_OR_FILE", help="A .terse file, the folder of a training, or of a search.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page; if not given, RUN_OR_FILE.html.")
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="A tensor whose levels are drawn; may be repeated. Else the 12 largest.")
    ] = None,
    peers: Annotated[
        list[Path] | None,
        typer.Option(help="CSV with columns tool, bytes, and drop (points), accuracy or agreement; may be repeated."),
    ] = None,
    sensitivity: Annotated[
        Path | None, typer.Option(help="What `tersenet sensitivity --json` printed, to draw beside the bits of layers.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The network's code, to judge the file by class.")] = None,
    task: Annotated[str | None, typer.Option(help="Its data and metric.")] = None,
    model_arg: Annotated[list[str] | None, typer.Option(help="name=value for --model; may be repeated.")] = None,
    task_arg: Annotated[list[str] | None, typer.Option(help="name=value for --task; may be repeated.")] = None,
    against: Annotated[Path | None, typer.Option(help="The original checkpoint, to judge beside the file.")] = None,
    key: Key = None,
    strip_prefix: StripPrefix = None,
    ignore_keys: IgnoreKeys = None,
    split: Annotated[str, typer.Option(help="Which split the file is judged on.")] = "validation",
    watch: Annotated[
        bool, typer.Option("--watch", help="Write the page again whenever something changes, until interrupted.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks with --watch.")] = 5.0,
    max_output: MaxOutput = None,
    overwrite: Overwrite = False,
) -> None:
    """Write one HTML page: bytes against accuracy, where the bytes are, bits and levels of layers, training curves,
    worst classes (with --model and --task). The page needs no network, and no other file."""
    from ..errors import UsageError
    from ..files.atomic import check_output
    from ..report.peers import read_peers

    if (model is None) != (task is None) or (against is not None and model is None):
        raise UsageError("judging needs --model and --task; --against the original as well")
    place = output or what.with_name(what.name + ".html")
    check_output(place, what, overwrite=overwrite)
    rows = [peer for path in peers or () for peer in read_peers(path, model)]
    costs = None if sensitivity is None else _costs(sensitivity)

    def judged(file: Path) -> "tuple[Evaluation, list[ClassScore]]":
        from ..analysis.classes import by_class
        from ..analysis.evaluate import evaluate
        from ..api import load_into
        from .factory import make_model, make_task

        def network(path: Path, *others: Path) -> "nn.Module":
            source = checkpoint_of(path, key, strip_prefix, ignore_keys)
            return load_into(source, make_model(model or "", model_arg or [], path, *others), max_output=max_output)

        files = [file] if against is None else [file, against]
        small, original = network(*files), None if against is None else network(*files[::-1])
        data = make_task(task or "", task_arg or [], *files)
        return evaluate(small, data, split, original), by_class(small, data, split, original)

    judge = Judge(None if model is None else judged, split)

    def write(overwrite: bool) -> int:
        with progress_bar():
            page = page_of(
                what, sources_of(what), judge, rows, costs, layer or [], every if watch else None, max_output
            )
        return _write(page, place, overwrite)

    print_line(f"{place}: {write(overwrite):,} bytes")
    if watch:
        _watch(what, lambda: write(True), every)


def _watch(what: Path, write: Callable[[], int], every: float) -> None:
    """Write again whenever something has changed; what cannot be read now (it is being replaced) is tried again."""
    from ..errors import TersenetError

    print_line("watching: Ctrl-C ends it")
    seen = None
    try:
        while True:
            state = sources_of(what).state
            if state != seen:
                try:
                    write()
                    seen = state
                except TersenetError as error:
                    print_message(f"tersenet: the page stays as it is: {error}")
            time.sleep(every)
    except KeyboardInterrupt:
        return


def _write(page: "Page", place: Path, overwrite: bool) -> int:
    from ..files.atomic import replacing_file
    from ..report.page import html

    text = html(page).encode("utf-8", "replace")
    with replacing_file(place, overwrite=overwrite) as stream:
        stream.write(text)
    return len(text)


def _costs(path: Path) -> dict[str, float]:
    """The loss that every layer adds alone. **Raises** `InputError` if the file is not what sensitivity printed."""
    from ..errors import InputError

    try:
        layers = json.loads(path.read_text("utf-8"))["layers"]
        return {str(row["name"]): float(row["loss_alone"]) for row in layers}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not what `tersenet sensitivity --json` prints ({error!r})") from error
