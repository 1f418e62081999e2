"""What the commands print: tables for people, one JSON object for programs, a progress bar for the patient."""

import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from ..report.escape import plain

ROWS = 1000  # of a table that are shown
CELL = 200  # characters of a cell that are shown

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
MaxOutput = Annotated[int | None, typer.Option(help="Allow this many bytes of decoded tensors.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", "--force", help="Replace the output if it exists.")]


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on standard output."""
    print(json.dumps(_finite(value), indent=2, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    """`value` with null in place of numbers that JSON does not have (NaN, infinity)."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value


def print_line(text: object) -> None:
    """One line on standard output, which may hold what a file says."""
    print(plain(text))


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], last: Sequence[Sequence[object]] = ()
) -> None:
    """A table; columns whose name starts with '>' are right-aligned.

    Of very many `rows` the first are shown, and of long cells the beginning; `last` are rows below them.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=plain(title), title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    for row in (*rows[:ROWS], *last):
        table.add_row(*(plain(cell, CELL) for cell in row))
    Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False).print(table)
    if len(rows) > ROWS:
        print(f"({len(rows) - ROWS:,} more rows are not shown: --json has them all)")


@contextmanager
def progress_bar() -> Iterator[None]:
    """Draw the records of `tersenet.progress` on standard error while the body runs, if that is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import Progress

    from ..progress import LOGGER

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        class Drawer(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                facts = vars(record)
                bar.update(
                    task, description=plain(record.getMessage(), CELL), completed=facts["done"], total=facts["total"]
                )

        drawer, level = Drawer(), LOGGER.level
        LOGGER.addHandler(drawer)
        LOGGER.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            LOGGER.removeHandler(drawer)
            LOGGER.setLevel(level)
