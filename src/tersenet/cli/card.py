"""`tersenet card`: what a file is, and what its numbers depend on."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .output import MaxOutput, print_json

CardField = Annotated[
    list[str] | None,
    typer.Option(help="name=value for the card, of what only you know (license=mit); may be repeated."),
]


def card_fields(given: list[str] | None) -> dict[str, str]:
    """The values of `--card-field`. **Raises** `UsageError`."""
    found = {}
    for each in given or []:
        name, equals, value = each.partition("=")
        if not (name and equals):
            raise UsageError(f"--card-field {each!r}: expected name=value")
        found[name] = value
    return found


def write_beside(output: Path, checkpoint: Path, seconds: float) -> None:
    """Write the card of a new file as `FILE.card.json`, with what the file does not say about its run."""
    from ..cards import beside, card, with_run
    from ..files.atomic import replacing_file
    from .hardware import described

    made = with_run(card(output, max_output=1 << 62), described(output, checkpoint, seconds))
    with replacing_file(beside(output), overwrite=True) as stream:
        stream.write(json.dumps(made, indent=1, ensure_ascii=False).encode())


def command(
    file: Annotated[Path, typer.Argument(help="A .terse file, or a card (.json), of a newer version too.")],
    html: Annotated[bool, typer.Option("--html", help="Print a page of HTML.")] = False,
    max_output: MaxOutput = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card itself.")] = False,
) -> None:
    """Print the quantization card of a file as Markdown with the head that the Hugging Face Hub reads."""
    from ..cards import opened
    from ..report.card import markdown, page

    if html and as_json:
        raise UsageError("give --html or --json, not both")
    found = opened(file, max_output=max_output)
    if as_json:
        print_json(found)
    else:
        print(page(found) if html else markdown(found))
