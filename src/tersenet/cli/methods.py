"""`tersenet methods`: what there is, what data each method needs, and which options it has."""

from dataclasses import asdict
from typing import Annotated

import typer

from .output import Json, print_json, print_table
from .wording import in_flags


def complete() -> list[str]:
    """The names of the methods, for the shell."""
    from ..methods import names

    return names()


def command(
    name: Annotated[str | None, typer.Argument(help="Show one method in full.", autocompletion=complete)] = None,
    as_json: Json = False,
) -> None:
    """List the methods, or describe one with its options."""
    from ..methods import facts, names

    if name is None:
        rows = [facts(each) for each in names()]
        if as_json:
            print_json({"methods": [{"name": r.name, "needs": r.needs, "sentence": r.sentence} for r in rows]})
        else:
            print_table("", ("method", "needs", "what it does"), [(r.name, r.needs, r.sentence) for r in rows])
        return
    one = facts(name)
    if as_json:
        print_json(asdict(one))
        return
    print(in_flags(one.docstring) + ("\n\n" + one.reference if one.reference else ""))
    options = [("--" + each.name.replace("_", "-"), each.kind, each.default, each.help) for each in one.fields]
    print_table("\noptions", ("option", "value", "default", "what it does"), options)
