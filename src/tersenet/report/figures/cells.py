"""A square of cells: how much every pair has to do with each other."""

from collections.abc import Sequence

from ..escape import middle_cut
from . import svg
from .figure import Figure
from .svg import WIDTH

LEFT, TOP = 120.0, 16.0


def heat_map(title: str, names: Sequence[str], values: Sequence[Sequence[float]], note: str = "") -> Figure:
    """Cells as dark as the magnitude of `values[row][column]` is near the largest; negative ones in another colour."""
    most = max((abs(value) for row in values for value in row), default=0.0) or 1.0
    size = (WIDTH - LEFT - 10) / max(1, len(names))
    parts = []
    every = -(-len(names) // 20) or 1  # rows that have room for their name
    for row, name in enumerate(names):
        if row % every == 0:
            parts.append(svg.text(LEFT - 6, TOP + size * (row + 0.5) + 4, middle_cut(name, 16), "end"))
        for column, value in enumerate(values[row]):
            x, y = LEFT + size * column, TOP + size * row
            parts.append(svg.rectangle(x, y, size, size, f"fill c{0 if value >= 0 else 1}", abs(value) / most))
    edge = size * len(names)
    ends = ((0, 0, edge, 0), (0, edge, edge, edge), (0, 0, 0, edge), (edge, 0, edge, edge))
    parts += [svg.line(LEFT + x1, TOP + y1, LEFT + x2, TOP + y2, "axis") for x1, y1, x2, y2 in ends]
    legend = TOP + edge + 20
    for place, (colour, told) in enumerate((("c0", "positive"), ("c1", "negative"))):
        parts += [
            svg.rectangle(LEFT + 110 * place, legend - 10, 12, 12, f"fill {colour}"),
            svg.text(LEFT + 110 * place + 18, legend, told),
        ]
    columns = ("", *(f">{name}" for name in names))
    rows = [(name, *(f"{value:.4g}" for value in row)) for name, row in zip(names, values, strict=True)]
    return Figure(title, "".join(parts), legend + 10, columns, rows, note)
