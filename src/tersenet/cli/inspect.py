"""`tersenet inspect`: what is in a file, byte by byte."""

from pathlib import Path
from typing import Annotated

import typer

from .output import Json


def command(file: Annotated[Path, typer.Argument(help="A .terse file.")], as_json: Json = False) -> None:
    """Show every tensor with its grid, bits per weight and bytes; the bytes add up to the file."""
    from ..files.summary import summarize

    summary = summarize(file)
