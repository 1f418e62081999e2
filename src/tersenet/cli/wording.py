"""Messages in the words of the command line: Python's `bn='fold'` is `--bn fold` there, `module=` is `--model`."""

import ast
import re
import shlex
from functools import cache

import typer.main

_VALUE = r"""'[^'\n]*'|"[^"\n]*"|\{[^{}\n]*\}|\([^()\n]*\)|\w+\([^()\n]*\)|[^\s'"`(),;:]*[^\s'"`(),;:.?]|"""
_ARGUMENT = re.compile(rf"(?<![\w.\-=?&/])([a-z]\w*)=({_VALUE})")


def in_flags(text: str) -> str:
    """`text` with every `name=value` (or `name=`) that the command line has an option for as that option.

    Arguments inside a call are left alone: `Task(..., train=batches)` is Python to everyone.

    >>> in_flags("x.terse exists: give overwrite=True, or bn='fold' with module=")
    'x.terse exists: give --overwrite, or --bn fold with --model'
    """
    return _ARGUMENT.sub(_flag, text)


def _flag(found: re.Match[str]) -> str:
    name, value = found.groups()
    option = _options().get(name)
    if option is None or _inside_a_call(found.string[: found.start()]):
        return found.group()
    if value in ("True", "False"):
        return option if value == "True" else option.replace("--", "--no-", 1)
    if folder := re.fullmatch(r"RunFolder\((.*?)(, resume=True)?\)", value):
        option, value = _options()["resume"] if folder[2] else option, folder[1]
    return " ".join(f"{option} {part}" for part in _parts(value)) or option


def _parts(value: str) -> list[str]:
    """The words of a value: every member of a tuple, a text as a shell wants it quoted, anything else as it is."""
    if value[:1] in ("'", '"', "("):
        try:
            read = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return [value]
        return [shlex.quote(str(part)) for part in (read if isinstance(read, tuple) else [read])]
    return [value] if value else []


def _inside_a_call(before: str) -> bool:
    """Whether the last bracket that `before` leaves open follows a name."""
    depth = 0
    for at in range(len(before) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(before[at], 0)
        if depth < 0:
            return at > 0 and (before[at - 1].isalnum() or before[at - 1] == "_")
    return False


@cache
def _options() -> dict[str, str]:
    """Python's name -> flag: of every command's options and every method's fields."""
    from .. import methods
    from . import app

    fields = [field.name for name in methods.names() for field in methods.facts(name).fields]
    found = {field: "--" + field.replace("_", "-") for field in fields}
    for command in typer.main.get_command(app).commands.values():  # type: ignore[attr-defined]
        for option in command.params:
            flags = [flag for flag in option.opts if flag.startswith("--")]
            found |= {option.name: flags[0]} if flags else {}
    return {**found, "module": "--model"}
