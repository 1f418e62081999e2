"""`tersenet compare`: cards side by side, and what else differs besides the numbers."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from ..report.escape import plain
from .output import Json, MaxOutput, print_json, print_line, print_table

COLUMNS = (
    "file",
    "method",
    ">bytes",
    ">bits",
    ">stored bits",
    ">input bits",
    ">MACs",
    ">score",
    ">drop",
    ">n",
    "split",
)


class Order(StrEnum):
    """What cards are ranked by, the best first."""

    drop = "drop"
    bytes = "bytes"


def command(
    files: Annotated[list[Path], typer.Argument(help="Two or more .terse files or cards (.json).")],
    rank: Annotated[
        Order | None, typer.Option(help="Rank them: refused where they differ on an axis not named.")
    ] = None,
    across: Annotated[
        list[str] | None, typer.Option(help="An axis on which they may differ and be ranked all the same; repeat.")
    ] = None,
    max_output: MaxOutput = None,
    as_json: Json = False,
) -> None:
    """Compare files by their cards: a table, and every axis on which they differ."""
    from ..cards import opened
    from ..report.card.axes import axes, differing

    if len(files) < 2:
        raise UsageError("give two files or more to compare")
    if across and rank is None:
        raise UsageError("--across is for a ranking: give --rank")
    cards = [opened(file, max_output=max_output) for file in files]
    found = differing(cards)
    unknown = set(across or ()) - {name for card in cards for name in axes(card)}
    if unknown:
        raise UsageError(f"--across {sorted(unknown)[0]!r} is no axis; they differ on {', '.join(found) or 'none'}")
    unnamed = [name for name in found if name not in (across or ())]
    ranked = None if rank is None or unnamed else order(cards, rank.value)
    names = [str(file) for file in files]
    if as_json:
        best = None if ranked is None else [names[place] for place in ranked]
        print_json({"files": names, "cards": cards, "differ": found, "ranking": best, "not_named": unnamed})
    else:
        show(names, cards, found)
        if ranked is not None:
            print_line(f"by {rank}, the best first: {', '.join(names[place] for place in ranked)}")
    if rank is not None and unnamed:
        axes_named = " ".join(f"--across {name!r}" for name in unnamed)
        raise UsageError(
            f"not ranked: they differ on {', '.join(unnamed)}, which may be the reason; say so: {axes_named}"
        )


def show(names: Sequence[str], cards: Sequence[Mapping[str, Any]], found: Mapping[str, Sequence[str]]) -> None:
    """Print the table of cards and the axes on which they differ."""
    print_table("", COLUMNS, [_row(name, card) for name, card in zip(names, cards, strict=True)])
    if not found:
        print_line("they differ on no axis")
        return
    short = [Path(name).name for name in names]
    print_table("they differ on", ("axis", *(plain(name, 60) for name in short)), [(a, *v) for a, v in found.items()])


def order(cards: Sequence[Mapping[str, Any]], by: str) -> list[int]:
    """The places of cards, the best first. **Raises** `UsageError` if one of them does not say."""
    from ..report.card.document import group

    values = []
    for card in cards:
        drop = group(group(card, "result"), "drop").get("mean")
        value = group(card, "cost").get("bytes") if by == "bytes" else drop
        if not isinstance(value, int | float):
            raise UsageError(f"a card says nothing of {by}: it was not measured")
        values.append(value)
    return sorted(range(len(values)), key=values.__getitem__)


def _row(name: str, card: Mapping[str, Any]) -> tuple[str, ...]:
    from ..report.card.document import group, text

    cost, result = group(card, "cost"), group(card, "result")
    average = group(group(group(card, "weights"), "average_bits"), "weights_of_layers")
    inputs = group(card, "activations").get("layers")
    bits = dict.fromkeys(text(each.get("bits")) for each in inputs if isinstance(each, dict)) if inputs else {}
    return (
        name,
        text(group(card, "identity").get("method")),
        text(cost.get("bytes")),
        text(average.get("bits")),
        text(cost.get("stored_bits")),
        ", ".join(bits) or "unrounded",
        text(cost.get("macs")),
        _interval(result.get("score")),
        _interval(result.get("drop")),
        text(result.get("n")),
        text(result.get("split")),
    )


def _interval(value: Any) -> str:
    from ..report.card.document import text

    if not isinstance(value, dict):
        return text(None)
    return f"{text(value.get('mean'))} ({text(value.get('low'))} to {text(value.get('high'))})"
