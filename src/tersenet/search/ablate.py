"""One axis of a file flipped, everything else as it was: its method with one other field, on the same checkpoint."""

import typing
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal

from torch import nn

from .. import methods
from ..analysis.results import measure
from ..api import compress_file, open_inputs
from ..cards import card, with_result
from ..core.method import Method
from ..core.task import Task
from ..errors import InputError, UsageError
from ..files.checkpoint import Where
from ..files.summary import provenance_of
from ..version import __version__


def method_of(path: str | Path, where: str | None = None) -> Method:
    """The method that made a file, with its fields; `where` names one that is not ours (`FILE.py:Class`).

    **Raises** `UsageError` if it is not known here, or the file was made with the defaults of another version.
    """
    about = provenance_of(path)
    stored, versions = about.get("fields"), about.get("versions")
    name = where or (about.get("method") if methods.ours(about) is not None else None)
    if name is None or not isinstance(stored, dict):
        raise UsageError(f"{path} does not tell a method that is known here: name it as FILE.py:Class")
    version = versions.get("tersenet") if isinstance(versions, dict) else None
    if where is None and version != __version__:
        raise UsageError(
            f"{path} was made by tersenet {version}, whose defaults this version ({__version__}) does not know: "
            "install that one"
        )
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
    return methods.get(name)(**given)


def flipped(method: Method, axis: str) -> list[Method]:
    """The method with every other value of one field, which has to have a list of values: of "affine", the other one.

    **Raises** `UsageError` for a field that the method does not have, or that has no such list.

    >>> [each.granularity for each in flipped(methods.get("rtn")(), "granularity")]
    ['tensor', 'group']
    """
    check_axis(method, axis)
    now = getattr(method, axis)
    kind = typing.get_type_hints(type(method))[axis]
    others = [each for each in _values(kind) if each != now]
    if not others:
        raise UsageError(f"{axis} has no list of values, so name one; it is {now!r}")
    found, why = [], ""
    for each in others:
        try:
            found.append(replace(method, **{axis: each}))
        except UsageError as error:  # a value that does not go with the other fields
            why = str(error)
    if not found:
        raise UsageError(f"{axis} has no other value that goes with the rest: {why}")
    return found


def check_axis(method: Method, axis: str) -> None:
    """**Raises** `UsageError` unless the method has a field of this name."""
    known = [each.name for each in fields(method)]
    if axis not in known:
        raise UsageError(f"{method.name} has no axis {axis!r}; it has {', '.join(known)}")


def _values(kind: Any) -> Iterator[Any]:
    """All values that a field may have, where its annotation lists them."""
    if kind is bool:
        yield from (False, True)
    elif typing.get_origin(kind) is Literal:
        yield from typing.get_args(kind)
    elif typing.get_origin(kind) in (typing.Union, UnionType):
        for part in typing.get_args(kind):
            yield from _values(part)


class Ablation:
    """Files that differ from the one at `path` on one axis, made from the same checkpoint and judged on the same split.

    That is the validation split, where there is one: which setting is better is a choice. Without network and task
    nothing is judged.

    **Raises** `InputError` for another checkpoint than the file was made from.
    """

    def __init__(self, path: Path, checkpoint: Where, module: nn.Module | None, task: Task | None) -> None:
        self.path, self.checkpoint, self.module = path, checkpoint, module
        source, self.network = open_inputs(checkpoint, module)
        made_from = provenance_of(path).get("input")
        if source.digest() != made_from:
            raise InputError(f"this checkpoint is not the one that {path} was made from ({made_from}): give that one")
        validated = task is not None and task.validation is not None
        self.task = replace(task, test=None) if task is not None and validated else task
        self.split = None if task is None or module is None else "validation" if validated else "test"

    def original(self) -> dict[str, Any]:
        """The card of the file itself, judged."""
        return self._judged(self.path)

    def made(self, method: Method, place: Path, overwrite: bool = False) -> dict[str, Any]:
        """The card of what `method` makes, which is written to `place`."""
        network, task = self.module, self.task
        compress_file(self.checkpoint, place, method, module=network, task=task, measured=False, overwrite=overwrite)
        return self._judged(place)

    def _judged(self, path: Path) -> dict[str, Any]:
        found = card(path, max_output=1 << 62)
        if self.network is None or self.task is None or self.split is None:
            return found
        return with_result(found, measure(path, self.network, self.task, self.split, self.network)[1])
