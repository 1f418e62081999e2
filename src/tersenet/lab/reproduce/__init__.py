"""Tables of papers, made again: a file of this folder each, whose name is what `tersenet reproduce` is told.

A file has a docstring, whose first sentence is shown, and `table(work, nets, seed, own) -> Table`: everything is kept
in the folder `work` and goes on there; `nets` are names of networks (none: what takes minutes), `own` is a network of
the user's in place of them.
"""

import ast
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from ...core.task import Task

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Own:
    """A network that is trained already, with its weights and its data."""

    network: "nn.Module"
    task: "Task"
    weights: Path


@dataclass(frozen=True)
class Table:
    """What was measured (`rows`), and how people see it; columns that begin with ">" are numbers."""

    title: str
    columns: tuple[str, ...]
    cells: list[tuple[object, ...]]
    rows: list[dict[str, Any]]


def papers() -> dict[str, str]:
    """Every name, with its first sentence, read from the source."""
    files = sorted(_FOLDER.glob("[a-z]*.py"))
    texts = {path.stem: ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "" for path in files}
    return {name: text.split("\n\n")[0].replace("\n", " ") for name, text in texts.items()}


def get(name: str) -> Callable[[Path, Sequence[str], int, Own | None], Table]:
    """The function that makes a table. **Raises** `UsageError` listing the names."""
    if name not in papers():
        raise UsageError(f"nothing to reproduce called {name!r}; there are {', '.join(papers())}")
    table: Callable[[Path, Sequence[str], int, Own | None], Table] = importlib.import_module(f".{name}", __name__).table
    return table
