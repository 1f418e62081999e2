"""`tersenet compress`: a checkpoint in, a `.terse` file out."""

import time
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..methods import DEFAULT_METHOD
from .card import CardField, card_fields, write_beside
from .checkpoints import Attach, IgnoreKeys, Key, StripPrefix, checkpoint_of
from .methods import complete
from .output import Json, Overwrite, print_json, print_line, progress_bar
from .targets import MaxBytes, MaxDrop, points, print_message, report


class Effort(StrEnum):
    """How hard the writer looks for the best coder."""

    fast = "fast"
    best = "best"


PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True}


def command(
    context: typer.Context,
    checkpoint: Annotated[Path, typer.Argument(help=".safetensors, .pt, .ckpt, ... or a Hugging Face folder.")],
    output: Annotated[
        str, typer.Option("--output", "-o", help="The file to write, or FOLDER/ for a folder that transformers loads.")
    ],
    method: Annotated[
        str, typer.Option(help="A name (see `tersenet methods`) or FILE.py:Class.", autocompletion=complete)
    ] = DEFAULT_METHOD,
    model: Annotated[
        str | None,
        typer.Option(
            help="module:function, FILE.py:function, a name such as resnet20, or auto (a Hugging Face folder)."
        ),
    ] = None,
    model_arg: Annotated[list[str] | None, typer.Option(help="name=value for that function; may be repeated.")] = None,
    task: Annotated[
        str | None, typer.Option(help="Data: module:function, FILE.py:function, digits, text, images, ...")
    ] = None,
    task_arg: Annotated[list[str] | None, typer.Option(help="name=value for --task; may be repeated.")] = None,
    key: Key = None,
    strip_prefix: StripPrefix = None,
    ignore_keys: IgnoreKeys = None,
    attach: Attach = None,
    run: Annotated[Path | None, typer.Option(help="A folder for a training's checkpoints and log.")] = None,
    resume: Annotated[Path | None, typer.Option(help="The folder of a training that was stopped: go on.")] = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="Train on from this .terse file or finished --run folder.")
    ] = None,
    max_drop: MaxDrop = None,
    max_bytes: MaxBytes = None,
    time_limit: Annotated[float | None, typer.Option(help="Minutes, for --max-drop and --max-bytes.")] = None,
    effort: Annotated[Effort, typer.Option(help="best: try every coder on every tensor.")] = Effort.fast,
    card_field: CardField = None,
    measured: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure the file on the task's test split.")
    ] = True,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Compress a checkpoint. Further options are those of the method: see `tersenet methods NAME`."""
    from ..analysis.damage import damage
    from ..api import compress_file, load
    from ..core.method import RunFolder
    from ..errors import UsageError
    from ..files.checkpoint import open_checkpoint
    from ..files.names import container_of
    from ..files.packed_folder import file_beside, names_folder
    from ..files.results import results_of
    from ..files.summary import summarize
    from ..search.within import compress_within
    from .factory import make_model, make_task
    from .fields import build_method

    started = time.perf_counter()
    if model is None and model_arg:
        raise UsageError("--model-arg needs --model")
    if task is None and task_arg:
        raise UsageError("--task-arg needs --task")
    source = checkpoint_of(checkpoint, key, strip_prefix, ignore_keys, attach)
    chosen = build_method(method, context.args)
    module = None if model is None else make_model(model, model_arg or [], checkpoint)
    given = None if task is None else make_task(task, task_arg or [], checkpoint)
    if run is not None and resume is not None:
        raise UsageError("give --run to begin a training or --resume to go on with one, not both")
    given_run = run is not None or resume is not None or start is not None
    kept = RunFolder(run or resume, resume is not None, start) if given_run else None
    if max_drop is not None or max_bytes is not None:
        if given_run:
            raise UsageError("a search keeps its trainings in OUTPUT.search: leave out --run, --resume and --from")
        if any(flag.partition("=")[0] == "--" + chosen.knob.field.replace("_", "-") for flag in context.args):
            raise UsageError(f"--{chosen.knob.field.replace('_', '-')} is what a budget chooses: leave it out")
        task_name = " ".join([task or "", *(task_arg or [])])
        limit = None if time_limit is None else 60 * time_limit
        with progress_bar():
            outcome = compress_within(
                source,
                output,
                chosen,
                module=module,
                task=given,
                max_bytes=max_bytes,
                max_drop=points(max_drop),
                time_limit=limit,
                overwrite=overwrite,
                effort=effort,
                task_name=task_name,
                card_fields=card_fields(card_field),
                on_message=print_message,
            )
        write_beside(Path(output), checkpoint, time.perf_counter() - started)
        place = file_beside(output) if names_folder(output) else Path(output)
        report(outcome, place, as_json, time.perf_counter() - started)
        return
    if time_limit is not None:
        raise UsageError("--time-limit is for a search: give --max-drop or --max-bytes")
    with progress_bar():
        size = compress_file(
            source,
            output,
            chosen,
            module=module,
            task=given,
            run=kept,
            overwrite=overwrite,
            effort=effort,
            measured=measured,
            card_fields=card_fields(card_field),
        )
    if not size:
        return  # one of several processes, and not the one that writes
    seconds = time.perf_counter() - started
    written = container_of(Path(output))
    write_beside(Path(output), checkpoint, seconds)
    summary = summarize(output, max_output=1 << 62)
    bare = chosen.needs == "nothing" and module is None and given is None
    lost = damage(open_checkpoint(source), load(output, max_output=1 << 62)) if bare else None
    facts = {
        "output": str(written),
        "bytes": size,
        "original_bytes": summary.original_bytes,
        "ratio": summary.original_bytes / size,
        "bits_per_weight": summary.bits_per_weight,
        "method": method,
        "seconds": round(seconds, 2),
        "damage": lost and {"mean": lost.mean, "likely_bad": lost.likely_bad, "layers": lost.errors},
    }
    results = results_of(output, 1 << 62)
    facts["result"] = None if results is None else asdict(results)
    if as_json:
        print_json(facts)
    else:
        print(
            f"{written}: {size:,} bytes, {facts['ratio']:.2f} times smaller than the tensors of {checkpoint.name} "
            f"({summary.original_bytes:,}); {summary.bits_per_weight:.3f} bits per quantised weight; {seconds:.1f} s"
        )
        if results is not None and results.score[0] is not None:
            score, before = results.score[0], results.reference
            beside = "" if before is None else f", {before:.6g} before compression"
            print_line(f"{results.metric} {score:.6g} on {results.n:,} samples of the {results.split} split{beside}")
    if lost is not None and lost.errors:
        if not as_json:
            print_line(lost)
        if lost.likely_bad:
            print_message(
                "tersenet: networks with such errors were much worse than their originals: allow more bytes, give data "
                "(--model, --task), or judge the file with tersenet eval"
            )
