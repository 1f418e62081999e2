"""How a file says that it was made: the fields that it stores, and the defaults of the version that wrote it."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..version import __version__
from ._facts import MethodFacts


@dataclass(frozen=True)
class Setting:
    """A field of the method that made a file: its value as JSON has it, and the version of tersenet of which it is the
    default, None if the file stores it."""

    name: str
    value: Any
    default_of: str | None = None


@dataclass(frozen=True)
class Settings:
    """The fields of the method that made a file, as far as they are known here; `others_of` is the version of tersenet
    whose defaults all others are (None: there are no others)."""

    fields: tuple[Setting, ...]
    others_of: str | None = None


def settings_of(provenance: Mapping[str, Any], facts: MethodFacts | None) -> Settings:
    """The fields of a method of ours with these `facts`, or (None) of one that is not known here."""
    fields, versions = provenance.get("fields"), provenance.get("versions")
    stored = fields if isinstance(fields, dict) else {}
    found = tuple(Setting(name, value) for name, value in stored.items())
    version = str(versions.get("tersenet", "?")) if isinstance(versions, dict) else "?"
    if facts is None:
        return Settings(found)
    if version != __version__:
        return Settings(found, version)
    defaults = {each.name: ast.literal_eval(each.default) for each in facts.fields if each.name not in stored}
    return Settings(found + tuple(Setting(name, _as_json(value), version) for name, value in defaults.items()))


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
