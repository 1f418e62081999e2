"""The methods: one file each, the file's name is the method's name. This folder is the registry.

Nothing here imports torch until a method is asked for by `get`; what `tersenet methods` prints is read from the source.
"""

import ast
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ..core.fields import Within, described
from ..errors import UsageError

if TYPE_CHECKING:
    from ..core.method import Method


_PACKAGE = Path(__file__).parent.parent
_WORDS: dict[str, Any] = {
    **{each.__name__: each for each in (bool, int, float, str, tuple, Mapping, Within)},
    "Annotated": Annotated,
    "Literal": Literal,
}
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
    fields: tuple[tuple[str, str, str], ...]  # name, what it may be, default


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
    path = Path(__file__).parent / f"{name}.py"
    tree = _parsed(path)
    docstring = ast.get_docstring(tree) or ""
    node = next(node for node in tree.body if isinstance(node, ast.ClassDef) and _base(node) in _HOMES)
    own = _assignments(node, path)
    rows = {row[0]: row for row in _inherited(_base(node)) + own}
    facts = {key: default for key, kind, default in rows.values() if kind == "ClassVar"}
    order = dict.fromkeys([*(row[0] for row in own), *rows])
    fields = tuple(rows[key] for key in order if key not in facts)
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
    path = _PACKAGE / _HOMES[base]
    node = next(node for node in _parsed(path).body if isinstance(node, ast.ClassDef) and node.name == base)
    return (_inherited(_base(node)) if _base(node) in _HOMES else []) + _assignments(node, path)


def _assignments(cls: ast.ClassDef, path: Path) -> list[tuple[str, str, str]]:
    """Name, what it may be ("ClassVar" for a fact of the class) and default of what a class in a file assigns."""
    found = []
    for node in cls.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            fact = ast.unparse(node.annotation).startswith("ClassVar")
            kind = "ClassVar" if fact else described(_meaning(node.annotation, path))
            default = ast.unparse(node.value).replace("field(default_factory=dict)", "{}")
            found.append((node.target.id, kind, default))
    return found


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def _meaning(annotation: ast.expr, path: Path) -> Any:
    """The type that an annotation in a file stands for; of what the file imports, only other types are looked up."""
    names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)} - set(_WORDS)
    return eval(ast.unparse(annotation), dict(_WORDS), {name: _named(name, path) for name in names})


def _named(name: str, path: Path) -> Any:
    """The type that a file defines, or imports, under a name."""
    for node in _parsed(path).body:
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in node.targets):
            return _meaning(node.value, path)
        if isinstance(node, ast.ImportFrom) and node.level and any(alias.name == name for alias in node.names):
            home = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            return _named(name, home.with_suffix(".py"))
    raise LookupError(f"{path} neither defines nor imports {name}")
