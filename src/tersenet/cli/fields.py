"""A method's dataclass fields as command-line flags: `target_bits: float | None` is `--target-bits 3`."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from ..core.method import Method


def build_method(name: str, flags: list[str]) -> "Method":
    """The method called `name` with hyper-parameters from `flags`, such as `["--bits", "4", "--affine"]`.

    **Raises** `UsageError` for a flag the method does not have (listing those it has) or a value of the wrong kind.
    """
    from .. import methods

    cls = methods.get(name)
    kinds = typing.get_type_hints(cls)
    known = {"--" + field.name.replace("_", "-"): field.name for field in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    rest = list(flags)
    while rest:
        flag, equals, attached = rest.pop(0).partition("=")
        negated = flag.startswith("--no-") and flag not in known
        field = known.get("--" + flag.removeprefix("--no-") if negated else flag)
        if field is None or (negated and (kinds[field] is not bool or equals)):
            raise UsageError(f"{name} has no option {flag!r}; it has {', '.join(sorted(known))}")
        if kinds[field] is bool and not equals:
            values[field] = not negated
            continue
        if not equals and not rest:
            raise UsageError(f"{flag} needs a value")
        value = _convert(flag, kinds[field], attached if equals else rest.pop(0))
        values[field] = (*values.get(field, ()), value) if typing.get_origin(kinds[field]) is tuple else value
    return cls(**values)


def _read_bits(flag: str, path: Path) -> dict[str, int]:
    """A JSON object of names and bits. **Raises** `UsageError`."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{flag} {path}: not a file with a JSON object ({error})") from error
    bits = content.get("layer_bits", content) if isinstance(content, dict) else {}
    if not isinstance(bits, dict) or not bits or not all(type(value) is int for value in bits.values()):
        raise UsageError(f'{flag} {path}: expected {{"name of a weight": bits, ...}}, got {str(content)[:60]}')
    return bits


def _convert(flag: str, kind: Any, text: str) -> Any:
    if isinstance(kind, types.UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    if typing.get_origin(kind) is tuple:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is Mapping:
        return _read_bits(flag, Path(text))
    if typing.get_origin(kind) is typing.Literal:
        if text not in typing.get_args(kind):
            raise UsageError(f"{flag} is {text!r}; it may be {', '.join(map(str, typing.get_args(kind)))}")
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UsageError(f"{flag} is {text!r}; it may be true or false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{flag} is {text!r}; it must be {kind.__name__}") from None
