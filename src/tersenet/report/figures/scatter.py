"""Points over points, and lines: bytes against accuracy, training curves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..escape import middle_cut
from . import svg
from .figure import Figure
from .svg import COLOURS, SHAPES, WIDTH, Scale

POINTS = 300  # marks of a series that are drawn
LEFT, RIGHT, TOP = 58.0, WIDTH - 14, 14.0
LEGEND = 18.0  # height of its lines


@dataclass(frozen=True)
class Point:
    """A point with the bounds of its y, if it has any, and what it is called."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one kind: as marks, joined by a line, or by steps."""

    name: str
    points: Sequence[Point]
    kind: Literal["marks", "line", "steps"] = "marks"


@dataclass(frozen=True)
class Axis:
    """What an axis says, whether it is logarithmic, and the largest value that is drawn (None: any)."""

    label: str
    log: bool = False
    most: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a value is drawn."""
        return math.isfinite(value) and (value > 0 or not self.log) and (self.most is None or value <= self.most)


def scatter(title: str, x: Axis, y: Axis, series: Sequence[Series], rules: Sequence[tuple[str, float]] = ()) -> Figure:
    """Points over points; `rules` are horizontal lines with names. What is not finite is in the table only."""
    bottom = TOP + 210
    drawn = [(one, _thinned([p for p in one.points if x.holds(p.x) and y.holds(p.y)])) for one in series]
    points = [point for _, held in drawn for point in held]
    across = Scale.over([p.x for p in points], LEFT, RIGHT, x.log)
    bounds = [edge for p in points for edge in (p.low, p.high) if edge is not None]
    ends = [p.y for p in points]
    reach = 3 * (max(ends) - min(ends)) if ends else 0.0
    near = [edge for edge in bounds if not reach or abs(edge - min(ends)) <= reach]  # wide bounds would flatten all
    up = Scale.over([*ends, *near, *(value for _, value in rules)], bottom, TOP, y.log)
    parts = [*_axes(x.label, y.label, across, up)]
    for name, value in rules:
        if up.holds(value):
            parts += [
                svg.line(LEFT, up.at(value), RIGHT, up.at(value), "rule"),
                svg.text(RIGHT, up.at(value) - 4, name, "end soft"),
            ]
    legend = bottom + 44
    for index, (one, held) in enumerate(drawn):
        parts += _series(one, held, index, across, up)
        parts += _entry(one, index, legend + LEGEND * index)
    unshown = sum(len(one.points) for one in series) - len(points)
    note = f"{unshown:,} of {unshown + len(points):,} points are in the table only" if unshown else ""
    bounded = any(p.low is not None or p.high is not None for one in series for p in one.points)
    columns = ("series", f">{x.label}", f">{y.label}", *((">at least", ">at most") if bounded else ()), "what")
    rows = [
        (one.name, _told(p.x), _told(p.y), *((_told(p.low), _told(p.high)) if bounded else ()), p.label)
        for one in series
        for p in one.points
    ]
    return Figure(title, "".join(parts), legend + LEGEND * len(series), columns, rows, note)


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most `POINTS` of them, evenly, the last one always."""
    if len(points) <= POINTS:
        return list(points)
    return [points[round(place * (len(points) - 1) / (POINTS - 1))] for place in range(POINTS)]


def _told(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 and value % 1 == 0 else f"{value:.6g}"


def _axes(x: str, y: str, across: Scale, up: Scale) -> list[str]:
    """Ticks, grid lines and what the axes say."""
    bottom, parts = up.start, []
    for tick in up.ticks:
        parts += [
            svg.line(LEFT, up.at(tick), RIGHT, up.at(tick), "grid"),
            svg.text(LEFT - 6, up.at(tick) + 4, svg.short(tick), "end soft"),
        ]
    for tick in across.ticks:
        parts += [
            svg.line(across.at(tick), bottom, across.at(tick), bottom + 4, "axis"),
            svg.text(across.at(tick), bottom + 17, svg.short(tick), "mid soft"),
        ]
    parts.append(svg.line(LEFT, bottom, RIGHT, bottom, "axis"))
    parts.append(svg.text(RIGHT, bottom + 32, x, "end"))
    parts.append(svg.text(LEFT + 4, TOP - 2, y))
    return parts


def _series(one: Series, held: Sequence[Point], index: int, across: Scale, up: Scale) -> list[str]:
    colour, shape = f"c{index % COLOURS}", SHAPES[index % len(SHAPES)]
    places = [(across.at(point.x), up.at(point.y)) for point in held]
    if one.kind != "marks":
        return [svg.path(places, f"line {colour}", one.kind == "steps")]
    bounds = [
        (x, y, x, up.at(min(max(edge, up.low), up.high)))
        for point, (x, y) in zip(held, places, strict=True)
        for edge in (point.low, point.high)
        if edge is not None and math.isfinite(edge)
    ]
    return [svg.strokes(bounds, f"line {colour}"), *(svg.mark(shape, x, y, colour) for x, y in places)]


def _entry(one: Series, index: int, y: float) -> list[str]:
    """A line of the legend."""
    colour = f"c{index % COLOURS}"
    if one.kind == "marks":
        sign = svg.mark(SHAPES[index % len(SHAPES)], LEFT + 8, y - 4, colour)
    else:
        sign = svg.path([(LEFT, y - 4), (LEFT + 16, y - 4)], f"line {colour}")
    return [sign, svg.text(LEFT + 24, y, middle_cut(one.name, 50))]
