"""The methods: one file each, the file's name is the method's name. This folder is the registry.

Nothing here imports torch until a method is asked for by `get`; what `tersenet methods` prints is read from the source.
"""

import ast
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from ..core.method import Method


@dataclass(frozen=True)
class MethodFacts:
    """What a method's file says about it: name, first sentence, docstring, needs, reference, fields."""

    name: str
    sentence: str
    docstring: str
    needs: str
    reference: str
    fields: tuple[tuple[str, str, str], ...]  # name, type, default


def names() -> list[str]:
    """The names of all methods."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def get(name: str) -> type["Method"]:
    """The class of the method called `name`. **Raises** `UsageError` listing the valid names."""
    _check(name)
    from ..core.method import Method

    module = importlib.import_module(f".{name}", __name__)
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    )


def facts(name: str) -> MethodFacts:
    """The facts of a method, read from its source without importing it."""
    _check(name)
    tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text("utf-8"))
    base = ast.parse((Path(__file__).parent.parent / "core" / "method.py").read_text("utf-8"))
    docstring = ast.get_docstring(tree) or ""
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and _inherits_method(node)).body
    shared = next(node for node in base.body if isinstance(node, ast.ClassDef) and node.name == "Method").body
    facts = {key: default for key, kind, default in _assignments(shared) + _assignments(body) if "ClassVar" in kind}
    fields = tuple(row for row in _assignments(body) + _assignments(shared) if "ClassVar" not in row[1])
    sentence = docstring.split("\n\n")[0].replace("\n", " ")
    return MethodFacts(
        name, sentence, docstring, ast.literal_eval(facts["needs"]), ast.literal_eval(facts["reference"]), fields
    )


def _check(name: str) -> None:
    if name not in names():
        raise UsageError(f"no method {name!r}; the methods are {', '.join(names())}")


def _inherits_method(node: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id == "Method" for base in node.bases)


def _assignments(body: list[ast.stmt]) -> list[tuple[str, str, str]]:
    return [
        (node.target.id, ast.unparse(node.annotation), ast.unparse(node.value))
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None
    ]
