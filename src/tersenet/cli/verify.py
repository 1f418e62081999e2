"""`tersenet verify`: every checksum and a full decode."""

from pathlib import Path
from typing import Annotated

import typer

from .output import Json, MaxOutput, print_json, print_line


def command(
    file: Annotated[Path, typer.Argument(help="A .terse file.")],
    max_output: MaxOutput = None,
    as_json: Json = False,
) -> None:
    """Check that a file is whole and decodes; exit 0, or 1 with the reason."""
    from ..files.summary import verify

    summary = verify(file, max_output=max_output)
    if as_json:
        print_json({"file": str(file), "ok": True, "bytes": summary.size, "tensors": len(summary.rows)})
    else:
        print_line(
            f"{file}: {summary.size:,} bytes, {len(summary.rows)} tensors, all checksums right, everything decodes"
        )
