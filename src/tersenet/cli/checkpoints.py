"""How to read a checkpoint that does not tell itself: the options of every command that opens one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..files.checkpoint import Checkpoint

Key = Annotated[str | None, typer.Option(help="Which state dict of several, such as ema or model.state_dict.")]
StripPrefix = Annotated[str | None, typer.Option(help="What stands before the network's own names ('': nothing).")]
IgnoreKeys = Annotated[list[str] | None, typer.Option(help="Glob of tensors to leave out; may be repeated.")]
Attach = Annotated[
    list[str] | None,
    typer.Option(help="Glob of a folder's files to take although they hold code or pickles; may be repeated."),
]


def checkpoint_of(
    path: Path,
    key: str | None,
    strip_prefix: str | None,
    ignore_keys: list[str] | None,
    attach: list[str] | None = None,
) -> "Checkpoint":
    """The checkpoint that these options describe."""
    from ..files.checkpoint import Checkpoint

    return Checkpoint(path, key, strip_prefix, tuple(ignore_keys or ()), tuple(attach or ()))
