"""Bars with a name each, a column for every quantity."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..escape import middle_cut
from . import svg
from .figure import Figure
from .svg import WIDTH, Scale

BARS = 60
TOP, ROW = 14.0, 18.0


@dataclass(frozen=True)
class Panel:
    """A column of bars beside each other: what it says and a value for every name (None: unknown)."""

    label: str
    values: Sequence[float | None]
    decimals: int = 3


def bars(title: str, what: str, names: Sequence[str], panels: Sequence[Panel]) -> Figure:
    """Bars for every name, a column for each panel. Beyond 60 names, those with the largest first values are drawn."""
    order = list(range(len(names)))
    if len(names) > BARS:
        largest = sorted(order, key=lambda i: -abs(panels[0].values[i] or 0.0))[:BARS]
        order = sorted(largest)
    top, height = TOP + 14, 18.0
    wide = (WIDTH - 150) / len(panels)
    parts = []
    for row, index in enumerate(order):
        parts.append(svg.text(132, top + height * row + 13, middle_cut(names[index], 16), "end"))
    for column, panel in enumerate(panels):
        start = 140 + wide * column
        parts.append(svg.text(start, TOP, panel.label))
        parts += _column(panel, order, start, wide, top)
    note = f"the {BARS} largest of {len(names):,}; all are in the table" if len(names) > BARS else ""
    columns = (what, *(f">{panel.label}" for panel in panels))
    cells: list[tuple[object, ...]] = [
        (name, *(_amount(panel.values[i], panel.decimals) for panel in panels)) for i, name in enumerate(names)
    ]
    return Figure(title, "".join(parts), top + height * len(order) + 8, columns, cells, note)


def _column(panel: Panel, order: Sequence[int], start: float, wide: float, top: float) -> list[str]:
    values = [panel.values[index] for index in order]
    finite = [value for value in values if value is not None and math.isfinite(value)]
    scale = Scale.over(finite, start + 2, start + wide - 62, zero=True)
    parts = [svg.line(scale.at(0), top, scale.at(0), top + 18.0 * len(order), "axis")]
    for row, value in enumerate(values):
        y, end = top + 18.0 * row, scale.at(0)
        if value is not None and math.isfinite(value):
            end = scale.at(value)
            parts.append(svg.rectangle(min(end, scale.at(0)), y + 3, abs(end - scale.at(0)), 12, "fill c0"))
        told = _amount(value, panel.decimals) or "unknown"
        parts.append(svg.text(max(end, scale.at(0)) + 4, y + 13, told, "soft"))
    return parts


def _amount(value: float | None, decimals: int) -> str:
    if value is None or math.isnan(value):
        return ""
    return f"{value:,.{decimals}f}" if abs(value) >= 10.0**-decimals or value == 0 else f"{value:.2g}"
