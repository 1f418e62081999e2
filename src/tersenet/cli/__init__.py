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
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
MAKE, LOOK, BACK, LEARN = "Make a network smaller", "Look inside and check", "Get it back", "Try and understand"
FIRST = """\
tersenet: the smallest honest file of a trained neural network that still does its job, and back. Try

  tersenet demo                                             a small network, compressed and reloaded: see what it costs
  tersenet compress net.safetensors -o net.terse            your checkpoint; nothing else is needed
  tersenet methods                                          what there is beside the default

`tersenet --help` lists all commands, `tersenet COMMAND --help` explains one."""


def _version(asked: bool) -> None:
    if asked:
        print(f"tersenet {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """The smallest honest file of a trained neural network that still does its job, and back."""
    if context.invoked_subcommand is None:
        print(FIRST)


app.command("compress", context_settings=compress.PASS_ON, rich_help_panel=MAKE)(compress.command)
app.command("auto", rich_help_panel=MAKE)(auto.command)
app.command("inspect", rich_help_panel=LOOK)(inspect.command)
app.command("card", rich_help_panel=LOOK)(card.command)
app.command("report", rich_help_panel=LOOK)(report.command)
app.command("compare", rich_help_panel=LOOK)(compare.command)
app.command("verify", rich_help_panel=LOOK)(verify.command)
app.command("eval", rich_help_panel=LOOK)(evaluate.command)
app.command("decompress", rich_help_panel=BACK)(decompress.command)
app.command("demo", rich_help_panel=LEARN)(demo.command)
app.command("methods", rich_help_panel=LEARN)(methods.command)
app.command("ablate", rich_help_panel=LEARN)(ablate.command)
app.command("sensitivity", rich_help_panel=LEARN)(sensitivity.command)
app.command("reproduce", rich_help_panel=LEARN)(reproduce.command)


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
