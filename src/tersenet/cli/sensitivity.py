"""`tersenet sensitivity`: what every layer costs to quantise, how important it is, and bits for it."""

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .checkpoints import IgnoreKeys, Key, StripPrefix, checkpoint_of
from .output import Json, Overwrite, print_json, print_table, progress_bar
from .pairs import report_pairs

if TYPE_CHECKING:
    from ..report.figures import Figure


class Score(StrEnum):
    """How importance is measured."""

    imprint = "imprint"
    fisher = "fisher"
    hessian = "hessian"
    sensitivity = "sensitivity"
    random = "random"


def command(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint or a .terse file.")],
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
    score: Annotated[Score, typer.Option(help="How importance is measured.")] = Score.imprint,
    bits: Annotated[int, typer.Option(help="The width that layers are rounded to, 2 to 8.")] = 4,
    average_bits: Annotated[float | None, typer.Option(help="Choose bits for layers (8, 4, 2) with this mean.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write them here, for --layer-bits.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the costs here, as .svg.")] = None,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Instead: how much the clips of layers have to do with each other.")
    ] = False,
    samples: Annotated[int, typer.Option(min=1, help="Calibration samples of --pairs.")] = 64,
    evaluations: Annotated[int, typer.Option(min=1, help="Losses that each of the searches of --pairs may use.")] = 300,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Quantise one layer at a time, and all but one; score every layer; optionally choose bits for each."""
    from ..analysis.allocate import average, ladder
    from ..analysis.layer_costs import survey
    from ..analysis.scores import rank
    from ..api import load_into
    from ..errors import UsageError
    from ..files.atomic import check_output, replacing_file
    from ..report.figures import Panel, bars
    from .factory import make_model, make_task

    if not 2 <= bits <= 8:
        raise UsageError(f"--bits is {bits}; it may be 2 to 8")
    if output is not None and average_bits is None:
        raise UsageError("--output writes the bits of layers: give --average-bits")
    if picture is not None and picture.suffix.lower() != ".svg":
        raise UsageError(f"--picture is {picture}; pictures are written as .svg")
    if pairs and (output is not None or average_bits is not None):
        raise UsageError("--pairs chooses no bits: leave out --average-bits and --output")
    for wanted in (output, picture):
        if wanted is not None:
            check_output(wanted, checkpoint, overwrite=overwrite)
    source = checkpoint_of(checkpoint, key, strip_prefix, ignore_keys)
    network = load_into(source, make_model(model, model_arg or [], checkpoint))
    judged = make_task(task, task_arg or [], checkpoint).for_method()
    if pairs:
        report_pairs(source, network, judged, samples, evaluations, picture, overwrite, as_json)
        return
    with progress_bar():
        rows = survey(network, judged, bits, score.value)
    agreement = judged.agreement_name
    layers = [asdict(row) for row in rows]
    facts: dict[str, object] = {"bits": bits, "score": score.value, "agreement": agreement, "layers": layers}
    if average_bits is not None:
        names, sizes = [row.name for row in rows], {row.name: row.weights for row in rows}
        pinned = dict.fromkeys((names[0], names[-1]), 8)
        order = rank({row.name: row.score for row in rows if row.name not in pinned})
        chosen = ladder(order, (8, 4, 2), lambda found: average(sizes, found), average_bits, pinned)
        facts |= {"layer_bits": chosen, "average_bits": average(sizes, chosen)}
        if output is not None:
            with replacing_file(output, overwrite=overwrite) as stream:
                stream.write(json.dumps(facts, indent=1, default=str).encode())
    if picture is not None:
        panels = [Panel("only it", [r.loss_alone for r in rows]), Panel("all but it", [r.loss_kept for r in rows])]
        title = f"Loss added when layers have {bits} bits"
        _draw(picture, bars(title, "layer", [row.name for row in rows], panels), overwrite)
    if as_json:
        print_json(facts)
        return
    cells = []
    for row in rows:
        changes = (row.loss_alone, row.agreement_alone * 100, row.loss_kept, row.agreement_kept * 100)
        cells.append((row.name, f"{row.bytes:,}", f"{row.score:.4g}", *map(_signed, changes)))
    points = f">{agreement}, points"
    columns = ("layer", ">bytes", f">{score.value}", ">loss, alone", points, ">loss, kept", points)
    print_table(f"{checkpoint} at {bits} bits: only this layer quantised, and all but it", columns, cells)
    if average_bits is not None:
        print(f"bits by layer, {facts['average_bits']:.3f} on average: {json.dumps(facts['layer_bits'])}")


def _signed(change: float) -> str:
    return f"{change:+.3f}"


def _draw(path: Path, figure: "Figure", overwrite: bool) -> None:
    from ..files.atomic import replacing_file
    from ..report.figures import standalone

    with replacing_file(path, overwrite=overwrite) as stream:
        stream.write(standalone(figure).encode())
