"""What a hyper-parameter may be: its annotation, read once for Python, for the command line and for people.

An annotation is `bool`, `int`, `float`, `str`, a `Literal` of texts, `X | None`, `tuple[X, ...]`, `Mapping[str, X]`, or
`Annotated[X, Within(...)]` around a number.
"""

import math
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from ..errors import UsageError

OPTIONAL = (types.UnionType, typing.Union)  # the origins of `X | None`
SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Within:
    """The numbers from `least` to `most`, or `above` and `below` others (themselves left out), and `also` another.

    >>> str(Within(2, 8, also=32)), str(Within(above=0, most=16))
    ('2 to 8 or 32', 'above 0 and at most 16')
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    also: float | None = None

    def __contains__(self, value: float) -> bool:
        return value == self.also or (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        words = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        text = " and ".join(f"{word} {number}" for word, number in words.items() if number is not None)
        if self.least is not None and self.most is not None:
            text = f"{self.least} to {self.most}"
        return text if self.also is None else f"{text} or {self.also}"


@dataclass(frozen=True)
class Configured:
    """A name, and constants that belong to it: "ewgs" or "ewgs:delta=0.1".

    >>> rules = Configured({"ste": {}, "ewgs": {"delta": Within(least=0)}})
    >>> str(rules), rules.read("ewgs:delta=0.1"), "ste:delta=1" in rules
    ("'ste' or 'ewgs' (delta at least 0), constants as in 'ewgs:delta=0.1'", ('ewgs', {'delta': 0.1}), False)
    """

    constants: Mapping[str, Mapping[str, Within]]

    def read(self, text: str) -> tuple[str, dict[str, float]]:
        """The name and the constants that are given. **Raises** `ValueError`."""
        name, _, rest = text.partition(":")
        _need(name in self.constants)
        values: dict[str, float] = {}
        for part in filter(None, rest.split(",")):
            constant, _, number = part.partition("=")
            values[constant] = fitted(float, float(number))
            _need(constant in self.constants[name] and values[constant] in self.constants[name][constant])
        return name, values

    def __contains__(self, text: str) -> bool:
        try:
            self.read(text)
        except ValueError:
            return False
        return True

    def __str__(self) -> str:
        shown = []
        for name, constants in self.constants.items():
            ranges = ", ".join(f"{constant} {within}" for constant, within in constants.items())
            shown.append(f"{name!r} ({ranges})" if ranges else repr(name))
        return f"{', '.join(shown[:-1])} or {shown[-1]}, constants as in 'ewgs:delta=0.1'"


Seed = Annotated[int, Within(0, 2**63 - 1)]


def fitted(kind: Any, value: Any) -> Any:
    """`value` as an annotation `kind` wants it: a list becomes a tuple, a NumPy number Python's, an int stays one.

    **Raises** `ValueError` if it does not fit.
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        number = fitted(parts[0], value)
        _need(all(number in within for within in parts[1:]))
        return number
    if origin in OPTIONAL:
        return None if value is None else fitted(parts[0], value)
    if origin is Literal:
        _need(isinstance(value, str) and value in parts)
        return next(part for part in parts if part == value)
    if origin is tuple:
        _need(isinstance(value, list | tuple))
        return tuple(fitted(parts[0], item) for item in value)
    if origin is Mapping:
        _need(isinstance(value, Mapping))
        return {fitted(parts[0], key): fitted(parts[1], item) for key, item in value.items()}
    return _plain(kind, value)


def _plain(kind: Any, value: Any) -> Any:
    """`fitted` for a bool, a number or a text."""
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item()
    if kind is float:
        _need(isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))
    else:
        _need(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)))
    return value


def _need(condition: bool) -> None:
    if not condition:
        raise ValueError


def described(kind: Any) -> str:
    """An annotation in words.

    >>> described(tuple[Annotated[int, Within(2, 8)], ...])
    'a tuple, each an integer, 2 to 8'
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return ", ".join([described(parts[0]), *map(str, parts[1:])])
    if origin in OPTIONAL:
        return f"{described(parts[0])}, or None"
    if origin is Literal:
        return " or ".join(filter(None, (", ".join(map(repr, parts[:-1])), repr(parts[-1]))))
    if origin is tuple:
        return f"a tuple, each {described(parts[0])}"
    if origin is Mapping:
        return f"a mapping from texts to numbers, each {described(parts[1])}"
    return {bool: "True or False", int: "an integer", float: "a number", str: "a text"}[kind]


def check_value(name: str, kind: Any, value: Any) -> Any:
    """`value`, as `kind` wants it. **Raises** `UsageError` that says what was got and expected."""
    try:
        return fitted(kind, value)
    except (ValueError, OverflowError):
        one = f", such as ({value[:SHOWN]!r},)" if isinstance(value, str) and typing.get_origin(kind) is tuple else ""
        raise UsageError(f"{name}={_shown(value)}: expected {described(kind)}{one}") from None


def _shown(value: Any) -> str:
    """A value in one short line, whatever it is."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # of a number too long for digits, or of the caller's own class
        text = f"<{type(value).__name__}>"
    return text if len(text) <= SHOWN else text[: SHOWN - 4] + " ..."


def check_widths(layer_bits: Mapping[str, int], least: int, most: int) -> None:
    """**Raises** `UsageError` for a layer's width that a method does not have."""
    for name, bits in layer_bits.items():
        if not least <= bits <= most:
            raise UsageError(f"layer_bits gives {name} {bits} bits; expected {least} to {most}")


def check_names(problem: str, given: Collection[str], known: Collection[str]) -> None:
    """**Raises** `UsageError` for a name in `given` that is not `known`: the `problem`, the nearest, all there are.

    >>> check_names("rtn has no field", ["bit"], ["bits", "affine"])
    Traceback (most recent call last):
    tersenet.errors.UsageError: rtn has no field 'bit' (did you mean 'bits'?); it has affine, bits
    """
    for name in given:
        if name in known:
            continue
        longer = [other for other in known if other.endswith(("_" + name, "-" + name.strip("-")))]
        near = [repr(other) for other in longer or get_close_matches(name, known, 1)]
        meant = f" (did you mean {' or '.join(filter(None, [', '.join(near[:-1]), near[-1]]))}?)" if near else ""
        raise UsageError(f"{problem} {name!r}{meant}; it has {', '.join(sorted(known))}")
