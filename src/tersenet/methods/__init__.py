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


_HOMES = {
    "Method": "core/method.py",
    "TrainedMethod": "steps/train.py",
    "TrainedOnLevels": "steps/levels.py",
}  # what a method's class may inherit from


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
    docstring = ast.get_docstring(tree) or ""
    node = next(node for node in tree.body if isinstance(node, ast.ClassDef) and _base(node) in _HOMES)
    rows = {row[0]: row for row in _inherited(_base(node)) + _assignments(node.body)}
    order = [row[0] for row in _assignments(node.body)]
    facts = {key: default for key, kind, default in rows.values() if "ClassVar" in kind}
    fields = tuple(rows[key] for key in dict.fromkeys([*order, *rows]) if "ClassVar" not in rows[key][1])
    sentence = docstring.split("\n\n")[0].replace("\n", " ")
    return MethodFacts(
        name, sentence, docstring, ast.literal_eval(facts["needs"]), ast.literal_eval(facts["reference"]), fields
    )


def _check(name: str) -> None:
    if name not in names():
        raise UsageError(f"no method {name!r}; the methods are {', '.join(names())}")


def _base(node: ast.ClassDef) -> str:
    return next((base.id for base in node.bases if isinstance(base, ast.Name)), "")


def _inherited(base: str) -> list[tuple[str, str, str]]:
    """The assignments of an abstract method class and of those it inherits from."""
    tree = ast.parse((Path(__file__).parent.parent / _HOMES[base]).read_text("utf-8"))
    node = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == base)
    return (_inherited(_base(node)) if _base(node) in _HOMES else []) + _assignments(node.body)


def _assignments(body: list[ast.stmt]) -> list[tuple[str, str, str]]:
    return [
        (node.target.id, ast.unparse(node.annotation), ast.unparse(node.value))
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None
    ]
