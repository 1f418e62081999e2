"""The numbers of a card, from the bytes of a file. What each means is said in docs/cards.md."""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from .checks import need, whole
from .container import Container
from .grids import DTYPES, FLOATS
from .layers import layer
from .reader import Tensor

NORMS = {"": "keep", "pair": "scale-shift", "fold": "fold"}
RESULTS = ("split", "metric", "n", "score", "reference", "drop", "worst_class", "samples")
Layers = list[dict[str, Any]]


def numbers(container: Container, tensors: list[Tensor]) -> dict[str, Any]:
    """Everything that a card of this file has to say, in the places where it says it."""
    about = container.index.get("provenance", {})
    inputs = _inputs(container)
    bits = {each["layer"]: each["bits"] for each in inputs}
    used = _shapes(about.get("shapes"), tensors)
    quantised = [layer(t, bits.get(_path(t.name)), *used(t)) for t in tensors if t.grid]
    matrices = [t for t in tensors if not t.grid and len(t.shape) > 1 and t.dtype in FLOATS]
    left = [_left(t, *used(t)) for t in matrices]
    versions = about.get("versions") if isinstance(about.get("versions"), dict) else {}
    given = about.get("given") if isinstance(about.get("given"), dict) else {}
    return {
        "identity": {
            "content": container.content,
            "format": 1,
            "method": _text(about.get("method")),
            "tersenet": _text(versions.get("tersenet")),
            "torch": _text(versions.get("torch")),
            "checkpoint": _text(about.get("input")),
            "given": {key: value for key, value in given.items() if isinstance(value, str)},
        },
        "weights": {
            "layers": quantised,
            "bits": _distribution(quantised),
            "average_bits": {"quantised": _average(quantised), "weights_of_layers": _average(quantised + left)},
        },
        "activations": {"layers": inputs, "unrounded": [q["name"] for q in quantised if _path(q["name"]) not in bits]},
        "left_out": {
            "layers": left,
            "share_of_weights": _share(left, quantised, "weights"),
            "share_of_macs": _share(left, quantised, "macs"),
            "others": _others([t for t in tensors if not t.grid and t not in matrices]),
        },
        "batch_norm": {"mode": NORMS[container.index.get("batch_norm", "")]},
        "arithmetic": {
            "accumulator_bits": max((n for q in quantised if (n := q["accumulator_bits"]) is not None), default=None)
        },
        "cost": _cost(container, tensors, quantised, left),
        "result": _result(container),
    }


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _path(name: str) -> str:
    return name.removesuffix("weight").rstrip(".")


def _inputs(container: Container) -> Layers:
    found = []
    for path, (kind, scale, levels) in container.inputs.items():
        low, high = levels[0], levels[-1]
        count = high - low + 1 if kind == "integers" else len(levels)
        facts = {"layer": path, "grid": kind, "lowest": low, "highest": high, "levels": count, "scale": scale}
        found.append({**facts, "bits": (high - low).bit_length(), "signed": low < 0})
    return found


def _shapes(recorded: Any, tensors: list[Tensor]) -> Callable[[Tensor], tuple[int | None, int | None]]:
    """A function from a tensor to how often it is used for a sample, and to the elements of its layer's output."""
    matrices = [t for t in tensors if len(t.shape) > 1]
    uses: list[int | None] = [None] * len(matrices)
    outputs: list[int | None] = [None] * len(matrices)
    if isinstance(recorded, dict):
        uses = recorded["uses"]
        outputs = recorded.get(
            "outputs", [None if n is None else n * t.shape[0] for n, t in zip(uses, matrices, strict=True)]
        )
        need(len(uses) == len(outputs) == len(matrices), "recorded shapes of other tensors")
        for each in (*uses, *outputs):
            whole(0 if each is None else each, 0, 1 << 100)
    found = {t.name: pair for t, *pair in zip(matrices, uses, outputs, strict=True)}

    def used(tensor: Tensor) -> tuple[int | None, int | None]:
        times, elements = found.get(tensor.name, (0, None))
        return times, elements

    return used


def _left(tensor: Tensor, uses: int | None, outputs: int | None) -> dict[str, Any]:
    count = prod(tensor.shape)
    return {
        "name": tensor.name,
        "shape": tensor.shape,
        "weights": count,
        "stored": tensor.stored,
        "bits": 8 * np.dtype(DTYPES[tensor.stored]).itemsize,
        "reason": tensor.reason,
        "bytes": tensor.size,
        "uses": uses,
        "macs": None if uses is None else uses * count,
        "outputs": outputs,
    }


def _distribution(layers: Layers) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in layers:
        width = f"{each['bits']:g}"
        found[width] = found.get(width, 0) + each["weights"]
    return found


def _average(layers: Layers) -> dict[str, Any]:
    count = sum(each["weights"] for each in layers)
    return {"bits": sum(each["bits"] * each["weights"] for each in layers) / count if count else None, "weights": count}


def _share(part: Layers, rest: Layers, what: str) -> float | None:
    every = [each[what] for each in (*part, *rest)]
    if None in every or not sum(every):
        return None
    return float(sum(each[what] for each in part) / sum(every))


def _others(tensors: list[Tensor]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for tensor in tensors:
        row = found.setdefault(tensor.stored, {"tensors": 0, "elements": 0, "bytes": 0})
        row["tensors"] += 1
        row["elements"] += prod(tensor.shape)
        row["bytes"] += tensor.size
    return found


def _cost(container: Container, tensors: list[Tensor], quantised: Layers, left: Layers) -> dict[str, Any]:
    def of_kind(kind: str) -> int:
        return sum(size for size, each in container.sections if each == kind)

    coded = [array for tensor in tensors for array in tensor.arrays]
    parts = {
        "codes": sum(array.chunks for array in coded),
        "code_tables": sum(array.tables for array in coded),
        "grids": sum(tensor.grid_size for tensor in tensors),
        "kept_tensors": sum(tensor.size for tensor in tensors if not tensor.grid),
        "attachments": sum(size for size, _ in container.index.get("files", {}).values()),
        "activations": of_kind("activations"),
        "results": of_kind("results"),
        "index": container.index_size,
        "checksums": 8 * len(container.sections),
        "header_and_trailer": 192 + 64 + 32,
    }
    parts["padding"] = container.size - sum(parts.values())
    weights, elements = sum(q["weights"] for q in quantised), sum(prod(t.shape) for t in tensors)
    original = sum(prod(t.shape) * np.dtype(DTYPES[t.dtype]).itemsize for t in tensors)
    macs = [each["macs"] for each in (*quantised, *left) if each["macs"] is not None]
    outputs = [each["outputs"] for each in (*quantised, *left) if len(each["shape"]) > 1]
    known = bool(outputs) and None not in outputs
    operations = [
        int(each["macs"] * each["bits"] * (each.get("input_bits") or 32))
        for each in (*quantised, *left)
        if each["macs"] is not None
    ]
    return {
        "bytes": container.size,
        "parts": parts,
        "original_bytes": original,
        "ratio": original / container.size,
        "bits_per_element": 8 * container.size / elements if elements else None,
        "stored_bits": 8 * sum(sum(q["bytes"].values()) for q in quantised) / weights if weights else None,
        "entropy_bits": sum(q["entropy_bits"] * q["weights"] for q in quantised) / weights if weights else None,
        "weights": weights,
        "elements": elements,
        "macs": sum(macs) if macs else None,
        "macs_unknown": [each["name"] for each in (*quantised, *left) if each["macs"] is None],
        "bit_operations": sum(operations) if operations else None,
        "largest_output": max(outputs) if known else None,
        "mean_output": sum(outputs) / len(outputs) if known else None,
    }


def _result(container: Container) -> dict[str, Any] | None:
    if not container.results:
        return None
    of, *members = container.results[:9]
    found = dict(zip(RESULTS, members, strict=True))
    for name in ("score", "drop"):
        found[name] = None if found[name] is None else dict(zip(("mean", "low", "high"), found[name], strict=True))
    worst = found["worst_class"]
    found["worst_class"] = None if worst is None else {"class": worst[0], "drop": float(worst[1] or 0)}
    return {"of_this_file": bool(of) and container.content.startswith(of), **found}
