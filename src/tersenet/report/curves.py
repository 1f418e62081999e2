"""The curves of a training."""

from collections.abc import Mapping, Sequence

from .figures import Axis, Figure, Point, Series, scatter

MOST = 8  # kinds of scalars that are drawn
SCORES = ("train score", "validation")  # which belong together


def curves(rows: Sequence[Mapping[str, float]]) -> list[Figure]:
    """A chart for every scalar over the steps; the scores on training and validation samples share one."""
    names = list(dict.fromkeys(name for row in rows for name in row if name != "step"))[:MOST]
    groups = [[name] for name in names if name not in SCORES]
    if scores := [name for name in names if name in SCORES]:
        groups.insert(1, scores)
    found = []
    for group in groups:
        series = [
            Series(name, [Point(row["step"], row[name]) for row in rows if name in row], "line") for name in group
        ]
        label = "score" if group is scores else group[0]
        found.append(scatter(label.capitalize(), Axis("step"), Axis(label), series))
    return found
