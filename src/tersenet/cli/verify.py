"""`tersenet verify`: every checksum and a full decode; the card of the file; its accuracy."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from .output import Json, MaxOutput, print_json, print_line


def command(
    file: Annotated[Path, typer.Argument(help="A .terse file.")],
    card: Annotated[
        bool, typer.Option("--card", help="Compute every number of its card, and of FILE.card.json, from the bytes.")
    ] = False,
    card_file: Annotated[Path | None, typer.Option(help="Another card (.json) to compare with the bytes.")] = None,
    model: Annotated[str | None, typer.Option(help="With --task: measure the accuracy again in this network.")] = None,
    model_arg: Annotated[list[str] | None, typer.Option(help="name=value for --model; may be repeated.")] = None,
    task: Annotated[str | None, typer.Option(help="Data and metric to measure the accuracy on again.")] = None,
    task_arg: Annotated[list[str] | None, typer.Option(help="name=value for --task; may be repeated.")] = None,
    max_output: MaxOutput = None,
    as_json: Json = False,
) -> None:
    """Check that a file is whole and decodes (with --card: that its card is true); exit 0, or 1 with the reason."""
    from ..files.summary import verify

    if (model is None) != (task is None):
        raise UsageError("--model and --task go together: they measure the accuracy again")
    summary = verify(file, max_output=max_output)
    facts: dict[str, Any] = {"file": str(file), "bytes": summary.size, "tensors": len(summary.rows)}
    lines = [f"{file}: {summary.size:,} bytes, {len(summary.rows)} tensors, all checksums right, everything decodes"]
    wrong: list[str] = []
    if card or card_file is not None:
        checked, wrong = _check(file, card_file, max_output)
        facts |= {"cards": checked, "differences": wrong}
        lines.append(f"card: every number computed again from the bytes; {', '.join(checked)}")
    if model is not None and task is not None:
        found = _repeat(file, (model, model_arg or []), (task, task_arg or []))
        facts |= {"accuracy": "not measured" if found is None else "differ" if found else "agree"}
        lines.append(f"accuracy: {facts['accuracy']}")
        wrong += found or []
    if as_json:
        print_json({**facts, "ok": not wrong})
    else:
        for line in lines if not wrong else [*lines, *wrong]:
            print_line(line)
    if wrong:
        raise typer.Exit(1)


def _check(file: Path, other: Path | None, max_output: int | None) -> tuple[list[str], list[str]]:
    """Which cards were compared with the bytes, and where they are wrong."""
    from ..cards import beside, opened
    from ..cards import card as derived
    from ..files.names import container_of
    from ..verifier import check

    cards = {"the card of the file": derived(file, max_output=max_output)}
    if beside(file).is_file():
        cards[beside(file).name] = opened(beside(file))
    if other is not None:
        cards[other.name] = opened(other)
    return list(cards), [f"{name}: {each}" for name, card in cards.items() for each in check(container_of(file), card)]


def _repeat(file: Path, model: tuple[str, list[str]], task: tuple[str, list[str]]) -> list[str] | None:
    """Where the accuracy, measured again, differs from what the file says; None if it says nothing."""
    from ..analysis.results import repeated
    from ..files.results import results_of
    from .factory import make_model, make_task

    recorded = results_of(file)
    if recorded is None:
        return None
    return repeated(file, make_model(*model, file), make_task(*task, file), recorded)
