"""The command `tersenet`. Exit codes: 0 ok, 1 the job failed, 2 wrong usage; see `ending` for all of them.

Commands import torch only when they run and only if they need it.
"""

import sys
from typing import Annotated

import typer

from ..version import __version__
from . import (
    ablate,
    auto,
    card,
    compare,
    compress,
    decompress,
    demo,
    ending,
    evaluate,
    inspect,
    methods,
    report,
    reproduce,
    sensitivity,
    verify,
)

app = typer.Typer(
    name="tersenet",
    cls=ending.Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(asked: bool) -> None:
    if asked:
        print(f"tersenet {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """The smallest honest file of a trained neural network that still does its job, and back."""


app.command("compress", context_settings=compress.PASS_ON)(compress.command)
app.command("auto")(auto.command)
app.command("inspect")(inspect.command)
app.command("card")(card.command)
app.command("compare")(compare.command)
app.command("ablate")(ablate.command)
app.command("verify")(verify.command)
app.command("decompress")(decompress.command)
app.command("eval")(evaluate.command)
app.command("report")(report.command)
app.command("sensitivity")(sensitivity.command)
app.command("reproduce")(reproduce.command)
app.command("methods")(methods.command)
app.command("demo")(demo.command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    given = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in given
    code: str | int | None = 0
    with ending.streams() as output, ending.lines():
        try:
            app(given, prog_name="tersenet")
        except SystemExit as stop:
            code = stop.code
            if code == ending.USAGE and as_json:
                ending.print_error("UsageError", "wrong usage: see standard error")
        except BaseException as error:
            if output.holds:
                code = ending.explain(error, as_json)
        code = output.code(code)
    sys.exit(code)
