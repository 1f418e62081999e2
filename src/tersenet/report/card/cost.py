"""The group of a card that says what a file costs: bytes, which add up to the file, bits, MACs, activations."""

from collections.abc import Sequence
from typing import Any

from ...files.layout import ACTIVATIONS, HASH, HEADER, PREFIX, RESULTS, TRAILER
from ...files.reader import Reader
from .layers import DIGITS
from .network import NetworkCard

FLOAT_BITS = 32  # of an input that is not rounded


def cost(reader: Reader, network: NetworkCard) -> dict[str, Any]:
    """Bytes, bits and operations of the file that `reader` has open."""
    layers = [*network.layers, *network.left_out]
    parts = byte_parts(reader, network.layers)
    records = reader.index.records.values()
    original = sum(record.original for record in records)
    elements = sum(record.count for record in records)
    weights = sum(each["weights"] for each in network.layers)
    stored = sum(sum(each["bytes"].values()) for each in network.layers)
    entropy = sum(each["entropy_bits"] * each["weights"] for each in network.layers)
    outputs = [each["outputs"] for each in layers if len(each["shape"]) > 1]
    known = bool(outputs) and None not in outputs
    return {
        "bytes": reader.size,
        "parts": parts,
        "original_bytes": original,
        "ratio": round(original / reader.size, DIGITS),
        "ratio_is": "bytes of the tensors before compression over bytes of the file",
        "bits_per_element": round(8 * reader.size / elements, DIGITS) if elements else None,
        "stored_bits": round(8 * stored / weights, DIGITS) if weights else None,
        "entropy_bits": round(entropy / weights, DIGITS) if weights else None,
        "weights": weights,
        "elements": elements,
        "macs": total([each["macs"] for each in layers]),
        "macs_unknown": [each["name"] for each in layers if each["macs"] is None],
        "bit_operations": total([_operations(each) for each in layers]),
        "largest_output": max(outputs) if known else None,
        "mean_output": round(sum(outputs) / len(outputs), DIGITS) if known else None,
    }


def byte_parts(reader: Reader, layers: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Where the bytes are; the sum is the size of the file."""
    sections = reader.index.sections
    parts = {
        name: sum(each["bytes"][key] for each in layers)
        for name, key in (("codes", "codes"), ("code_tables", "tables"), ("grids", "grid"))
    }
    parts |= {
        "kept_tensors": sum(record.stored_size for record in reader.index.records.values() if not record.grid),
        "attachments": sum(stored for stored, _ in reader.index.files.values()),
        "activations": sum(section.size for section in sections if section.kind == ACTIVATIONS),
        "results": sum(section.size for section in sections if section.kind == RESULTS),
        "index": reader.index_size,
        "checksums": HASH * len(sections),
        "header_and_trailer": HEADER + PREFIX + TRAILER,
    }
    return parts | {"padding": reader.size - sum(parts.values())}


def total(numbers: Sequence[int | None]) -> int | None:
    """The sum of what is known; None if nothing is."""
    known = [each for each in numbers if each is not None]
    return sum(known) if known else None


def _operations(layer: dict[str, Any]) -> int | None:
    """MACs times the bits of weights and inputs."""
    if layer["macs"] is None:
        return None
    return int(layer["macs"] * layer["bits"] * (layer.get("input_bits") or FLOAT_BITS))
