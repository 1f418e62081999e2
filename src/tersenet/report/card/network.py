"""The groups of a card that describe a network: weights, inputs of layers, what is left out, batch norm, arithmetic."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...files.grids import Arrays
from ...files.reader import Reader
from ...files.records import Encoded, Record
from .layers import DIGITS, accumulator_bits, integer_bits, is_matrix, kept, quantised

FORMULA = "weight bits + input bits + ceil(log2(weights per output channel))"


@dataclass(frozen=True)
class NetworkCard:
    """All `layers` that are quantised and the matrices `left_out`, each as a card says it; what layers round their
    inputs to; other tensors by the dtype they are stored in; batch norm, and the dtypes its parts are stored in."""

    layers: list[dict[str, Any]]
    left_out: list[dict[str, Any]]
    inputs: list[dict[str, Any]]
    beside: dict[str, dict[str, int]]
    batch_norm: dict[str, Any]
    shape: Any

    @classmethod
    def of(cls, reader: Reader) -> "NetworkCard":
        """What the file says. **Raises** `FormatError` if a tensor does not decode."""
        inputs = _inputs(reader.activations())
        bits = {each["layer"]: each["bits"] for each in inputs}
        uses, outputs, shape = _shapes(reader)
        layers: list[dict[str, Any]] = []
        left_out: list[dict[str, Any]] = []
        beside: dict[str, dict[str, int]] = {}
        for name, record in reader.index.records.items():
            if record.grid:
                layer = _layer(reader, record, bits.get(_path(name)))
            elif is_matrix(record):
                layer = kept(record)
            else:
                found = beside.setdefault(record.stored, {"tensors": 0, "elements": 0, "bytes": 0})
                found["tensors"] += 1
                found["elements"] += record.count
                found["bytes"] += record.stored_size
                continue
            layer["uses"] = uses.get(name) if len(record.shape) > 1 else 0  # a vector is no matrix to multiply with
            layer["macs"] = None if layer["uses"] is None else layer["uses"] * record.count
            layer["outputs"] = outputs.get(name)
            (layers if record.grid else left_out).append(layer)
        return cls(layers, left_out, inputs, beside, _batch_norm(reader), shape)

    def groups(self) -> dict[str, Any]:
        """The groups of the card."""
        rounded = {each["layer"] for each in self.inputs}
        widest = [each["accumulator_bits"] for each in self.layers if each["accumulator_bits"] is not None]
        return {
            "weights": {
                "layers": self.layers,
                "bits": _distribution(self.layers),
                "average_bits": self.average_bits(),
            },
            "activations": {
                "layers": self.inputs,
                "unrounded": [each["name"] for each in self.layers if _path(each["name"]) not in rounded],
                "place": "inputs of layers, before the layer" if self.inputs else None,
                "ranges": "static" if self.inputs else None,
                "sample": self.shape,
            },
            "left_out": {
                "layers": self.left_out,
                "share_of_weights": share(self.left_out, [*self.layers, *self.left_out], "weights"),
                "share_of_macs": share(self.left_out, [*self.layers, *self.left_out], "macs"),
                "others": self.beside,
            },
            "batch_norm": self.batch_norm,
            "arithmetic": {
                "execution": "simulated: values are decoded to floats; layers compute in the precision of the network",
                "rounding": "nearest, halves to even, in fp32" if self.inputs else None,
                "accumulator_bits": max(widest, default=None),
                "accumulator_formula": FORMULA,
            },
        }

    def average_bits(self) -> dict[str, Any]:
        """Average widths, each with what it is an average over."""
        every = [*self.layers, *self.left_out]
        return {
            "quantised": _average(self.layers, "all quantised tensors"),
            "weights_of_layers": _average(
                every, "all quantised tensors and all others of two or more dimensions, at the width they are stored in"
            ),
        }


def share(part: Sequence[Mapping[str, Any]], whole: Sequence[Mapping[str, Any]], what: str) -> float | None:
    """What `part` has of the sum over `whole`; None where something is not known, or there is nothing."""
    numbers = [each[what] for each in whole]
    total = 0 if None in numbers else sum(numbers)
    return round(sum(each[what] for each in part) / total, DIGITS) if total else None


def _layer(reader: Reader, record: Record, input_bits: int | None) -> dict[str, Any]:
    def use(fields: Arrays, arrays: list[Encoded]) -> dict[str, Any]:
        found = quantised(record, fields, arrays)
        found["input_bits"] = input_bits
        whole = integer_bits(record, fields, found["bits"])
        found["accumulator_bits"] = accumulator_bits(found, whole, input_bits)
        return found

    return reader.quantised(record, use)


def _path(name: str) -> str:
    """The layer whose weight has this name."""
    return name.removesuffix("weight").rstrip(".")


def _inputs(activations: Mapping[str, tuple[float, list[int], bool]]) -> list[dict[str, Any]]:
    return [
        {
            "layer": path,
            "grid": "integers" if plain else "points",
            "lowest": levels[0],
            "highest": levels[-1],
            "levels": levels[-1] - levels[0] + 1 if plain else len(levels),
            "bits": (levels[-1] - levels[0]).bit_length(),
            "signed": levels[0] < 0,
            "granularity": "tensor",
            "scale": scale,
        }
        for path, (scale, levels, plain) in activations.items()
    ]


def _distribution(layers: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    found: Counter[float] = Counter()
    for each in layers:
        found[each["bits"]] += each["weights"]
    return {f"{bits:g}": count for bits, count in sorted(found.items())}


def _average(layers: Sequence[Mapping[str, Any]], of: str) -> dict[str, Any]:
    weights = sum(each["weights"] for each in layers)
    bits = sum(each["bits"] * each["weights"] for each in layers)
    return {"bits": round(bits / weights, DIGITS) if weights else None, "weights": weights, "over": of}


def _batch_norm(reader: Reader) -> dict[str, Any]:
    records = reader.index.records
    norms = [name.removesuffix("running_var") for name in records if name.endswith("running_var")]
    stored = {r.stored for n, r in records.items() if n.startswith(tuple(norms)) and not r.grid} if norms else set()
    return {"mode": reader.batch_norm, "layers": len(norms), "stored": sorted(stored & {"f64", "f32", "f16", "bf16"})}


def _shapes(reader: Reader) -> tuple[dict[str, int | None], dict[str, int | None], Any]:
    """How often each matrix is used, the elements of its layer's output, and the shapes of a sample, as recorded."""
    recorded = reader.index.about["provenance"].get("shapes")
    names = [name for name, record in reader.index.records.items() if len(record.shape) > 1]
    if not isinstance(recorded, dict):
        return {}, {}, None
    uses = _counts(recorded.get("uses"), len(names))
    rows = [None if n is None else n * reader.index.records[name].shape[0] for name, n in zip(names, uses, strict=True)]
    outputs = _counts(recorded["outputs"], len(names)) if "outputs" in recorded else rows
    pairs = (dict(zip(names, column, strict=True)) for column in (uses, outputs))
    return next(pairs), next(pairs), recorded.get("input")


def _counts(value: Any, count: int) -> list[int | None]:
    right = isinstance(value, list) and len(value) == count
    if not (right and all(each is None or (type(each) is int and each >= 0) for each in value)):
        raise ValueError("recorded shapes that are not those of its tensors")
    return list(value)
