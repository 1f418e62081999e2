"""A card as sections of tables, which Markdown and HTML are written from. A file may have chosen any text in it.

What a card of a newer version has and this one does not know is shown as it is, at the end.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NOT_GIVEN, NOT_IN_FILE = "not given", "not in the file"
CELL = 200  # characters of a text that are shown
ROWS = 1000  # of a table that are shown
KNOWN = {
    *("card", "identity", "method", "weights", "activations", "left_out", "batch_norm", "arithmetic", "cost"),
    *("result", "citations", "run", "hash"),
}
LAYER = {
    "name": "layer",
    "shape": "shape",
    "grid": "grid",
    "granularity": "scale per",
    "symmetric": "symmetric",
    "zero": "zero is a level",
    "bits": "bits",
    "levels": "levels used",
    "smallest": "from",
    "largest": "to",
    "entropy_bits": "entropy",
    "stored_bits": "stored bits/weight",
    "input_bits": "input bits",
    "accumulator_bits": "accumulator bits",
    "macs": "MACs",
}
INPUT = {
    "layer": "layer",
    "grid": "levels",
    "lowest": "from",
    "highest": "to",
    "bits": "bits",
    "signed": "signed",
    "scale": "scale",
}
KEPT = {
    "name": "tensor",
    "shape": "shape",
    "stored": "stored as",
    "reason": "reason",
    "weights": "weights",
    "macs": "MACs",
}


@dataclass(frozen=True)
class Section:
    """A heading, the names of columns, and rows of cells, all text as it is (not escaped)."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def shown(text: object, most: int = CELL) -> str:
    """`text` on one line: what is not printable (controls, marks that turn the direction of writing) as an escape, cut
    after `most` characters.

    >>> shown("a\\u202eb\\n")
    'a\\\\u202eb\\\\n'
    """
    whole = str(text)
    cut = whole if len(whole) <= most else f"{whole[:most]}... ({len(whole) - most:,} more characters)"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut)


def text(value: Any, missing: str = NOT_GIVEN) -> str:
    """A value of a card for people."""
    if value is None:
        return missing
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if value in ([], {}, ""):
        return "none"
    if isinstance(value, list) and all(type(each) is int for each in value):
        return "x".join(map(str, value))[:CELL]
    if isinstance(value, dict) and not any(isinstance(each, dict | list) for each in value.values()):
        return shown(", ".join(f"{name} {text(each)}" for name, each in value.items()))
    return shown(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def title_of(card: Mapping[str, Any]) -> str:
    """What a card is called."""
    identity = group(card, "identity")
    name = group(identity, "given").get("name")
    return shown(name) if isinstance(name, str) else f"A network compressed by {text(identity.get('method'))}"


def document(card: Mapping[str, Any]) -> list[Section]:
    """The sections of a card."""
    weights, left, inputs = (group(card, name) for name in ("weights", "left_out", "activations"))
    identity, method = dict(group(card, "identity")), dict(group(card, "method"))
    given, fields = identity.pop("given", {}), method.pop("fields", {})
    average = [
        (
            f"average bits over {text(each.get('over'))}",
            f"{text(each.get('bits'))} ({text(each.get('weights'))} weights)",
        )
        for each in group(weights, "average_bits").values()
        if isinstance(each, dict)
    ]
    bits = [(f"{shown(width)} bits", f"{text(count)} weights") for width, count in group(weights, "bits").items()]
    rest = {name: value for name, value in card.items() if name not in KNOWN}
    cost = dict(group(card, "cost"))
    parts = cost.pop("parts", {})
    sections = [
        _facts("Result", group(card, "result"), "not measured"),
        _facts("Identity", {**identity, "card": card.get("card"), "hash": card.get("hash")}),
        _facts("Given by the user, not checked", given),
        _facts("Method", method),
        Section("Fields of the method", ("field", "value", "from"), tuple(_field(*each) for each in _items(fields))),
        Section("Bits", ("", ""), tuple(average + bits)),
        _table("Quantised layers", LAYER, weights.get("layers")),
        _facts("Left out", {key: left.get(key) for key in ("share_of_weights", "share_of_macs")}),
        _table("Matrices left out", KEPT, left.get("layers")),
        _facts("Other tensors", group(left, "others")),
        _table("Rounded inputs", INPUT, inputs.get("layers")),
        _facts("Inputs", {key: value for key, value in inputs.items() if key != "layers"}),
        _facts("Batch norm", group(card, "batch_norm")),
        _facts("Arithmetic", group(card, "arithmetic")),
        _facts("Cost", cost),
        _facts("Bytes of the file, by part", parts),
        _facts("Run", group(card, "run"), NOT_IN_FILE),
        _facts("From a newer version of tersenet, as it is", rest),
    ]
    return [section for section in sections if section.rows]


def group(card: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A member that is an object; an empty one where it is anything else."""
    found = card.get(name)
    return found if isinstance(found, dict) else {}


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _facts(title: str, facts: Any, missing: str = "") -> Section:
    rows = [(shown(name.replace("_", " ")), text(value)) for name, value in _items(facts)]
    return Section(title, ("", ""), tuple(rows or ([(missing, "")] if missing else [])))


def _field(name: str, each: Any) -> tuple[str, str, str]:
    value, of = (each.get("value"), each.get("default_of")) if isinstance(each, dict) else (each, None)
    return shown(name), text(value), "given" if of is None else f"default of {shown(of)}"


def _table(title: str, columns: Mapping[str, str], rows: Any) -> Section:
    """A table of objects: the columns that are known."""
    found = [each for each in rows if isinstance(each, dict)] if isinstance(rows, Sequence) else []
    cells = [tuple(text(each.get(key)) for key in columns) for each in found[:ROWS]]
    if len(found) > ROWS:
        cells.append((f"and {len(found) - ROWS:,} more", *[""] * (len(columns) - 1)))
    return Section(title, tuple(columns.values()), tuple(cells))
