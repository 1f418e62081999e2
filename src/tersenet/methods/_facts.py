"""What a method says about itself, read from its source: docstring, class facts, fields with a line of help each.

A line of help is the string literal below a field.
"""

import ast
import inspect
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ..core.fields import Configured, Within, described

if TYPE_CHECKING:
    from ..core.method import Method

_PACKAGE = Path(__file__).parent.parent
_WORDS: dict[str, Any] = {
    **{each.__name__: each for each in (bool, int, float, str, tuple, Mapping, Configured, Within)},
    "Annotated": Annotated,
    "Literal": Literal,
}
_HOMES = {
    "Method": "core/method.py",
    "TrainedMethod": "training/method.py",
    "TrainedOnLevels": "training/levels.py",
}  # what a method's class may inherit from


@dataclass(frozen=True)
class Field:
    """A hyper-parameter: its name, what it may be, its default and a line of help, all as text."""

    name: str
    kind: str
    default: str
    help: str


@dataclass(frozen=True)
class MethodFacts:
    """What a method says about itself: name, first sentence, docstring, needs, reference (BibTeX), fields."""

    name: str
    sentence: str
    docstring: str
    needs: str
    reference: str
    fields: tuple[Field, ...]


def facts_of_source(name: str, path: Path) -> MethodFacts:
    """The facts of the method called `name` in a file of ours, without importing it."""
    tree = _parsed(path)
    node = next(node for node in tree.body if isinstance(node, ast.ClassDef) and _base(node) in _HOMES)
    rows = _merged(_all_assignments(node, path))
    constants = {row.name: row.default for row in rows if row.kind == "ClassVar"}
    docstring = ast.get_docstring(tree) or ""
    needs, reference = (ast.literal_eval(constants[key]) for key in ("needs", "reference"))
    hyper_parameters = tuple(row for row in rows if row.kind != "ClassVar")
    return MethodFacts(name, _sentence(docstring), docstring, needs, reference, hyper_parameters)


def facts_of_class(method: type["Method"]) -> MethodFacts:
    """The facts of a method from outside, which is imported already."""
    docstring = inspect.getdoc(inspect.getmodule(method)) or inspect.getdoc(method) or ""
    kinds = typing.get_type_hints(method, include_extras=True)
    helps: dict[str, str] = {}
    for cls in reversed(method.__mro__):
        if "__dataclass_fields__" in vars(cls) and (path := inspect.getsourcefile(cls)) is not None:
            node = next(n for n in _parsed(Path(path)).body if isinstance(n, ast.ClassDef) and n.name == cls.__name__)
            helps |= {name: text for name, _, _, text in _fields(node) if text or name not in helps}
    rows = []
    for each in fields(method):
        default = "{}" if each.default is MISSING else repr(each.default)
        rows.append(Field(each.name, described(kinds[each.name]), default, helps.get(each.name, "")))
    return MethodFacts(method().name, _sentence(docstring), docstring, method.needs, method.reference, tuple(rows))


def _sentence(docstring: str) -> str:
    return docstring.split("\n\n")[0].replace("\n", " ")


def _merged(rows: list[Field]) -> tuple[Field, ...]:
    """Each once, those of the class itself first; help that a class leaves out is its parent's."""
    fields_by_name: dict[str, Field] = {}
    for row in rows:
        known = fields_by_name.get(row.name)
        if known is None:
            fields_by_name[row.name] = row
        elif not known.help:
            fields_by_name[row.name] = Field(row.name, known.kind, known.default, row.help)
    return tuple(fields_by_name.values())


def _base(node: ast.ClassDef) -> str:
    return next((base.id for base in node.bases if isinstance(base, ast.Name)), "")


def _all_assignments(node: ast.ClassDef, path: Path) -> list[Field]:
    """What a class in a file and the abstract ones it inherits from assign, its own first."""
    found, base = _assignments(node, path), _base(node)
    if base not in _HOMES:
        return found
    home = _PACKAGE / _HOMES[base]
    parent = next(each for each in _parsed(home).body if isinstance(each, ast.ClassDef) and each.name == base)
    return found + _all_assignments(parent, home)


def _assignments(cls: ast.ClassDef, path: Path) -> list[Field]:
    """What a class in a file assigns; of facts of the class the kind is "ClassVar"."""
    return [
        Field(name, "ClassVar" if _is_fact(kind) else described(_meaning(kind, path)), _default(value), text)
        for name, kind, value, text in _fields(cls)
    ]


def _fields(cls: ast.ClassDef) -> list[tuple[str, ast.expr, ast.expr, str]]:
    """Name, annotation, default and help of what a class assigns."""
    found = []
    for node, after in zip(cls.body, [*cls.body[1:], ast.Pass()], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found.append((node.target.id, node.annotation, node.value, _text(after)))
    return found


def _text(node: ast.stmt) -> str:
    literal = node.value if isinstance(node, ast.Expr) else None
    text = literal.value if isinstance(literal, ast.Constant) else None
    return " ".join(text.split()) if isinstance(text, str) else ""


def _is_fact(annotation: ast.expr) -> bool:
    return ast.unparse(annotation).startswith("ClassVar")


def _default(value: ast.expr) -> str:
    return ast.unparse(value).replace("field(default_factory=dict)", "{}")


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
