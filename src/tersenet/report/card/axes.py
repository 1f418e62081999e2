"""Axes: what a result depends on besides the method, and on which of them cards differ."""

from collections.abc import Mapping, Sequence
from typing import Any

from .document import group, text


def axes(card: Mapping[str, Any]) -> dict[str, str]:
    """Axis -> what this card has there, for people. Fields of the method are axes of their own: `field NAME`."""
    identity, method, result = (group(card, name) for name in ("identity", "method", "result"))
    left, inputs, norm = (group(card, name) for name in ("left_out", "activations", "batch_norm"))
    layers, rounded = _rows(group(card, "weights").get("layers")), _rows(inputs.get("layers"))
    found = {
        "network": text(identity.get("checkpoint")),
        "method": text(identity.get("method")),
        "version": text(identity.get("tersenet")),
        "data": text(method.get("needs")),
        "metric": text(result.get("metric")),
        "split": text(result.get("split")),
        "samples": text(result.get("samples")),
        "n": text(result.get("n")),
        "bits": _each(group(group(card, "weights"), "bits")),
        "ends": _ends(layers),
        "grid": _kinds(layers, "grid"),
        "granularity": _kinds(layers, "granularity"),
        "symmetric": _kinds(layers, "symmetric"),
        "zero": _kinds(layers, "zero"),
        "trellis": _kinds(layers, "trellis"),
        "left out": _names(_rows(left.get("layers"))),
        "kept in": ", ".join(group(left, "others")) or "none",
        "input bits": _kinds(rounded, "bits"),
        "input levels": _kinds(rounded, "grid"),
        "signed inputs": _kinds(rounded, "signed"),
        "unrounded inputs": text(inputs.get("unrounded")),
        "batch norm": text(norm.get("mode")),
    }
    return found | {
        f"field {name}": text(each.get("value") if isinstance(each, dict) else each)
        for name, each in group(method, "fields").items()
    }


def differing(cards: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The axes on which cards differ, with what each card has; an axis that a card does not have is "not given"."""
    found = [axes(card) for card in cards]
    names = dict.fromkeys(name for each in found for name in each)
    rows = {name: [each.get(name, text(None)) for each in found] for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def _rows(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _kinds(layers: list[dict[str, Any]], key: str) -> str:
    """The different values over layers."""
    return ", ".join(dict.fromkeys(text(each.get(key)) for each in layers)) or "none"


def _each(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{text(count)} weights of {text(bits)}" for bits, count in counts.items()) or "none"


def _ends(layers: list[dict[str, Any]]) -> str:
    """The bits of the first and the last quantised layer."""
    matrices = [each for each in layers if isinstance(shape := each.get("shape"), list) and len(shape) > 1]
    return ", ".join(text(each.get("bits")) for each in (matrices[:1] + matrices[-1:])) or "none"


def _names(layers: list[dict[str, Any]]) -> str:
    return ", ".join(f"{text(each.get('name'))} in {text(each.get('stored'))}" for each in layers) or "none"
