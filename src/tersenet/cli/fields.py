"""A method's dataclass fields as command-line flags: `target_bits: float | None` is `--target-bits 3`."""

import dataclasses
import json
import typing
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.fields import OPTIONAL, check_names
from ..errors import UsageError

if TYPE_CHECKING:
    from ..core.method import Method


def build_method(name: str, flags: list[str]) -> "Method":
    """The method called `name` with hyper-parameters from `flags`, such as `["--bits", "4", "--affine"]`.

    **Raises** `UsageError` for a flag the method does not have (naming the nearest and those it has) or a value that
    its field cannot have.
    """
    from .. import methods

    cls = methods.get(name)
    kinds = typing.get_type_hints(cls)
    known = {"--" + field.name.replace("_", "-"): field.name for field in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    rest = list(flags)
    while rest:
        flag, equals, attached = rest.pop(0).partition("=")
        positive = "--" + flag.removeprefix("--no-") if flag not in known else flag
        negated = positive != flag and kinds.get(known.get(positive, "")) is bool and not equals
        check_names(f"{name} has no option", [] if negated else [flag], known)
        field = known[positive]
        if kinds[field] is bool and not equals:
            values[field] = not negated
            continue
        if not equals and not rest:
            raise UsageError(f"{flag} needs a value")
        text = attached if equals else rest.pop(0)
        if typing.get_origin(kinds[field]) is tuple:
            values[field] = (*values.get(field, ()), *_several(flag, kinds[field], text))
        else:
            values[field] = _read(flag, kinds[field], text)
    return cls(**values)


def value_of(cls: "type[Method]", field: str, text: str) -> Any:
    """The value that `text` gives a field of a method, members of a tuple between commas. **Raises** `UsageError`."""
    flag, kind = "--" + field.replace("_", "-"), typing.get_type_hints(cls)[field]
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UsageError(f"{field}={text}: expected true or false")
        return text.lower() == "true"
    if typing.get_origin(kind) is tuple:
        return tuple(_read(flag, kind, part) for part in text.split(",") if part)
    return _read(flag, kind, text)


def _several(flag: str, kind: Any, text: str) -> list[Any]:
    """The members of a tuple that `text` gives: one, or numbers between commas."""
    numbers = typing.get_args(kind)[0] in (int, float)
    return [_read(flag, kind, part) for part in (text.split(",") if numbers else [text])]


def _read(flag: str, kind: Any, text: str) -> Any:
    """The value that `text` is for a field of this kind, or `text` itself: what it may be is for the method to say."""
    if typing.get_origin(kind) in (*OPTIONAL, tuple):
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is Mapping:
        return _read_mapping(flag, Path(text))
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    with suppress(ValueError):
        return kind(text) if kind in (int, float) else text
    return text


def _read_mapping(flag: str, path: Path) -> Any:
    """The JSON object in a file, or its member "layer_bits". **Raises** `UsageError`."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{flag} {path}: not a file with a JSON object ({error})") from error
    found = content.get("layer_bits", content) if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found:
        raise UsageError(f'{flag} {path}: expected {{"name of a weight": bits, ...}}, got {str(content)[:60]}')
    return found
