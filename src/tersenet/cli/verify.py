"""`tersenet verify`: every checksum and a full decode."""

from pathlib import Path
from typing import Annotated

import typer

from .output import Json


def command(
    file: Annotated[Path, typer.Argument(help="A .terse file.")],
    max_output: Annotated[int | None, typer.Option(help="Allow this many bytes of decoded tensors.")] = None,
    as_json: Json = False,
) -> None:
    """Check that a file is whole and decodes; exit 0, or 1 with the reason."""
