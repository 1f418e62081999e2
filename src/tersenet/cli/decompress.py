"""`tersenet decompress`: a `.terse` file back to an ordinary checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .checkpoints import Attach
from .output import Json, MaxOutput, Overwrite, print_json, print_line, progress_bar


def command(
    file: Annotated[Path, typer.Argument(help="A .terse file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help=".safetensors, .pt, or a folder if it came from one.")],
    form: Annotated[str, typer.Option("--as", help="values, or codes: integers and their grids.")] = "values",
    attach: Attach = None,
    max_output: MaxOutput = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write the tensors as your existing code loads them."""
    if form not in ("values", "codes"):
        raise UsageError(f"--as is {form!r}; it may be values or codes")
    from ..api import load
    from ..files.atomic import check_output
    from ..files.checkpoint_write import write_checkpoint

    check_output(output, file, overwrite=overwrite)
    model = load(file, max_output=max_output)
    with progress_bar():
        write_checkpoint(model, output, overwrite=overwrite, codes=form == "codes", attach=tuple(attach or ()))
    if as_json:
        print_json({"output": str(output), "tensors": len(model.tensors) + len(model.aliases)})
    else:
        print_line(f"{output}: {len(model.tensors) + len(model.aliases)} tensors")
