"""The command `tersenet`. Exit codes: 0 ok, 1 the job failed, 2 wrong usage.

Commands import torch only when they run and only if they need it.
"""

import json
import sys

import typer

from ..errors import TersenetError, UsageError
from . import auto, compress, decompress, demo, evaluate, inspect, methods, reproduce, sensitivity, verify
from .wording import in_flags

app = typer.Typer(
    name="tersenet",
    help="The smallest honest file of a trained neural network that still does its job, and back.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("compress", context_settings=compress.PASS_ON)(compress.command)
app.command("auto")(auto.command)
app.command("inspect")(inspect.command)
app.command("verify")(verify.command)
app.command("decompress")(decompress.command)
app.command("eval")(evaluate.command)
app.command("sensitivity")(sensitivity.command)
app.command("reproduce")(reproduce.command)
app.command("methods")(methods.command)
app.command("demo")(demo.command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        app(given, prog_name="tersenet")
    except TersenetError as error:
        message = in_flags(str(error))
        if "--json" in given:
            print(json.dumps({"error": type(error).__name__, "message": message}))
        print(f"tersenet: {message}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except SystemExit as stop:
        if stop.code == 2 and "--json" in given:
            print(json.dumps({"error": "UsageError", "message": "wrong usage: see standard error"}))
        raise
