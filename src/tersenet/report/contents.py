"""What a `.terse` file has to show: facts, where its bytes are, bits of layers, levels of a layer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.model import CompressedModel, QTensor
from ..errors import UsageError
from ..files.summary import Row, Summary
from .figures import Figure, Level, Panel, bars, levels

SHOWN = 12  # layers whose levels are drawn, if none is chosen
BINS = 64
TABLE = 1 << 16  # codes over so many levels are counted in a table

Facts = Sequence[tuple[str, object]]


def facts(summary: Summary) -> Facts:
    """What a file says about itself, in the order in which it is read."""
    made, versions = summary.provenance, summary.provenance.get("versions")
    fields = made.get("fields")
    given = ", ".join(f"{name}={value}" for name, value in fields.items()) if isinstance(fields, dict) else ""
    rounded = f"{len(summary.activations):,} inputs or outputs are rounded" if summary.activations else "not rounded"
    return (
        ("Bytes on disk", f"{summary.size:,}"),
        (
            "Bytes of the original tensors",
            f"{summary.original_bytes:,} ({summary.original_bytes / summary.size:.2f} x)",
        ),
        ("Bits per quantised weight", f"{summary.bits_per_weight:.3f} (all that belongs to them, over their number)"),
        ("Method", made.get("method", "unknown")),
        ("Fields that are not defaults", given or "none"),
        ("Batch norm", summary.batch_norm),
        ("Activations", rounded),
        ("tersenet", versions.get("tersenet", "unknown") if isinstance(versions, dict) else "unknown"),
    )


def where_the_bytes_are(summary: Summary) -> Figure:
    """Codes, tables, scales, kept tensors, index and the rest: together the bytes of the file."""
    quantised = [row for row in summary.rows if row.grid]
    parts = {
        "codes": sum(row.bytes - row.grid_bytes - row.table_bytes for row in quantised),
        "code tables": sum(row.table_bytes for row in quantised),
        "scales and grids": sum(row.grid_bytes for row in quantised),
        "kept tensors": sum(row.bytes for row in summary.rows if not row.grid),
        **summary.overhead,
    }
    shares = [100 * size / summary.size for size in parts.values()]
    panels = [Panel("bytes", list(parts.values()), 0), Panel("share, %", shares, 1)]
    figure = bars("Where the bytes are", "part", list(parts), panels)
    total = ("total", f"{sum(parts.values()):,}", "100.0")
    return Figure(figure.title, figure.elements, figure.height, figure.columns, [*figure.rows, total], figure.note)


def bits_of_layers(summary: Summary, sensitivity: Mapping[str, float] | None) -> Figure | None:
    """Bits per weight of every quantised tensor, beside what the loss rises by where only it is quantised."""
    rows = [row for row in summary.rows if row.grid]
    if not rows:
        return None
    panels = [Panel("bits per weight", [row.bits_per_weight for row in rows])]
    title = "Bits of layers"
    if sensitivity is not None:
        panels.append(Panel("loss added alone", [sensitivity.get(row.name) for row in rows], 4))
        title += " and their sensitivity"
    return bars(title, "tensor", [row.name for row in rows], panels)


def levels_of_layers(summary: Summary, model: CompressedModel, chosen: Sequence[str]) -> list[tuple[str, Figure]]:
    """The levels of the tensors in `chosen`, else of the largest. **Raises** `UsageError` for one that has none."""
    rows = {row.name: row for row in summary.rows if row.grid and row.weights}
    if unknown := [name for name in chosen if name not in rows]:
        listed = ", ".join(list(rows)[:10]) or "none"
        raise UsageError(f"layer={unknown[0][:100]!r} is no quantised tensor of this file; it has {listed}")
    largest = sorted(rows, key=lambda name: -rows[name].bytes)[:SHOWN]
    return [(name, _levels(rows[name], model)) for name in chosen or [name for name in rows if name in largest]]


def _levels(row: Row, model: CompressedModel) -> Figure:
    entry = model.tensors[row.name]
    assert isinstance(entry, QTensor)
    found = counted(entry.codes.reshape(-1), entry.dequantize().float().reshape(-1))
    merged = any(level.codes[0] != level.codes[1] for level in found)
    note = (
        f"{row.grid}; {row.weights:,} weights in {row.bytes:,} bytes, {row.bits_per_weight:.3f} bits each. Code "
        "lengths are -log2 of a level's share: what an ideal code without context takes"
        + (f"; levels are drawn as {len(found)} groups, with their mean lengths" if merged else "")
    )
    return levels(row.name, found, note)


def counted(codes: Tensor, values: Tensor) -> list[Level]:
    """Every level between the smallest and the largest code, neighbours together where there are more than 64.

    **Shapes**: both `[n]`, n > 0.
    """
    codes = codes.to(torch.int64)
    low, span = int(codes.min()), int(codes.max()) - int(codes.min()) + 1
    if span <= TABLE:
        place, counts, names = codes - low, torch.bincount(codes - low), torch.arange(span) + low
    else:
        names, place, counts = codes.unique(return_inverse=True, return_counts=True)
    bins = min(len(names), BINS)
    group = torch.arange(len(names)) * bins // len(names)
    lengths = torch.where(counts > 0, (len(codes) / counts.double()).log2(), 0.0)
    total = torch.zeros(bins, dtype=torch.int64).index_add_(0, group, counts)
    bits = torch.zeros(bins, dtype=torch.float64).index_add_(0, group, counts * lengths)
    bounds = []
    for reduce, start in (("amin", math.inf), ("amax", -math.inf)):
        bounds.append(torch.full((bins,), start).scatter_reduce_(0, group[place], values, reduce))
    edges = [(int(names[group == each][0]), int(names[group == each][-1])) for each in range(bins)]
    found = []
    for each in range(bins):
        count = int(total[each])
        between = (float(bounds[0][each]), float(bounds[1][each])) if count else (math.nan, math.nan)
        found.append(Level(edges[each], between, count, float(bits[each]) / count if count else math.inf))
    return found


def provenance_rows(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Everything that a file records about how it was made, a row for every value."""
    found: list[tuple[str, str]] = []
    for name, value in provenance.items():
        members = value.items() if isinstance(value, dict) else [("", value)]
        found += [(f"{name} {key}".strip(), str(part)) for key, part in members]
    return found
