"""Marks, axes and scales in SVG: a drawing is a string, its colours are those of the page it is in."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ..escape import markup

WIDTH = 440.0
COLOURS = 6
SHAPES = ("circle", "square", "triangle", "diamond", "cross")
LEAST_SPAN = 1e-12
_LIGHT = "--ink:#1b1f24;--soft:#57606a;--grid:#d0d7de;--paper:#ffffff"
_DARK = "--ink:#e6edf3;--soft:#9da7b3;--grid:#3d444d;--paper:#0d1117"
_LIGHT_MARKS = ("#0b5cad", "#a8430a", "#196b3a", "#8a2f8f", "#6b5b00", "#a3123a")
_DARK_MARKS = ("#7db8ff", "#ffb07a", "#7fd99a", "#e3a3e6", "#e0cf6a", "#ff9bb3")


def _named(colours: Sequence[str]) -> str:
    return ";".join(f"--c{number}:{colour}" for number, colour in enumerate(colours))


PALETTE = (
    f":root{{color-scheme:light dark;{_LIGHT};{_named(_LIGHT_MARKS)}}}"
    f"@media(prefers-color-scheme:dark){{:root{{{_DARK};{_named(_DARK_MARKS)}}}}}"
)
STYLE = (
    "svg text{font:13px system-ui,sans-serif;fill:var(--ink);unicode-bidi:isolate}"
    ".paper{fill:var(--paper)}.soft{fill:var(--soft)}.grid{stroke:var(--grid);fill:none}.axis{stroke:var(--soft);fill:none}"
    ".rule{stroke:var(--soft);stroke-dasharray:5 4;fill:none}.end{text-anchor:end}.mid{text-anchor:middle}"
    ".line{stroke-width:1.8}"
    + "".join(
        f".c{n}{{stroke:var(--c{n});fill:var(--c{n})}}.line.c{n}{{fill:none}}.fill.c{n}{{stroke:none}}"
        for n in range(COLOURS)
    )
)


def number(value: float) -> str:
    """A coordinate."""
    return f"{value:.1f}".removesuffix(".0")


def _places(**values: float) -> str:
    return " ".join(f'{name}="{number(value)}"' for name, value in values.items())


def short(value: float) -> str:
    """A number for an axis: four digits at most, with k, M, G for thousands.

    >>> short(20_000), short(1_250_000.0), short(0.25), short(0)
    ('20k', '1.25M', '0.25', '0')
    """
    size = abs(value)
    for least, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= least:
            return f"{value / (1e3 if unit == 'k' else least):.4g}{unit}"
    return f"{value:.4g}"


def text(x: float, y: float, what: object, classes: str = "", most: int = 60) -> str:
    """Words at a place."""
    chosen = f' class="{classes}"' if classes else ""
    return f'<text x="{number(x)}" y="{number(y)}"{chosen}>{markup(what, most)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, classes: str) -> str:
    """A straight line."""
    return f'<line {_places(x1=x1, y1=y1, x2=x2, y2=y2)} class="{classes}"/>'


def path(points: Sequence[tuple[float, float]], classes: str, steps: bool = False) -> str:
    """A line through points; in `steps`, it stays level until the next point."""
    if not points:
        return ""
    moves = [f"M{number(points[0][0])} {number(points[0][1])}"]
    for x, y in points[1:]:
        moves.append(f"H{number(x)}V{number(y)}" if steps else f"L{number(x)} {number(y)}")
    return f'<path d="{"".join(moves)}" class="{classes}"/>'


def rectangle(x: float, y: float, width: float, height: float, classes: str, opacity: float | None = None) -> str:
    """A filled rectangle."""
    shown = "" if opacity is None else f' fill-opacity="{opacity:.2f}"'
    return f'<rect {_places(x=x, y=y, width=width, height=height)} class="{classes}"{shown}/>'


def rectangles(found: Sequence[tuple[float, float, float, float]], classes: str) -> str:
    """Many filled rectangles (x, y, width, height) in one path."""
    parts = [f"M{number(x)} {number(y)}h{number(w)}v{number(h)}h{number(-w)}z" for x, y, w, h in found]
    return f'<path d="{"".join(parts)}" class="fill {classes}"/>' if parts else ""


def strokes(found: Sequence[tuple[float, float, float, float]], classes: str) -> str:
    """Many straight lines (from x, y to x, y) in one path."""
    parts = [f"M{number(x1)} {number(y1)}L{number(x2)} {number(y2)}" for x1, y1, x2, y2 in found]
    return f'<path d="{"".join(parts)}" class="{classes}"/>' if parts else ""


def mark(shape: str, x: float, y: float, classes: str) -> str:
    """A point; series differ in shape as well as in colour."""
    if shape == "circle":
        return f'<circle cx="{number(x)}" cy="{number(y)}" r="3.5" class="{classes}"/>'
    outline = {
        "square": ((-3, -3), (3, -3), (3, 3), (-3, 3)),
        "triangle": ((0, -4.5), (4, 3), (-4, 3)),
        "diamond": ((0, -4.8), (4.8, 0), (0, 4.8), (-4.8, 0)),
    }.get(shape)
    if outline is None:
        return path([(x - 3.5, y - 3.5), (x + 3.5, y + 3.5)], f"line {classes}") + path(
            [(x - 3.5, y + 3.5), (x + 3.5, y - 3.5)], f"line {classes}"
        )
    corners = "L".join(f"{number(x + dx)} {number(y + dy)}" for dx, dy in outline)
    return f'<path d="M{corners}Z" class="{classes}"/>'


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` as places from `start` to `stop`; evenly by value, or by logarithm."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    @staticmethod
    def over(values: Sequence[float], start: float, stop: float, log: bool = False, zero: bool = False) -> "Scale":
        """One on which all finite `values` have a place, with some room; `zero`: 0 too."""
        finite = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
        low, high = (min(finite), max(finite)) if finite else (1.0, 10.0)
        if log:
            room = math.exp(min(max((math.log(high) - math.log(low)) * 0.05, 0.05), 5.0))
            return Scale(low / room, high * room, start, stop, True)
        if zero:
            low, high = min(low, 0.0), max(high, 0.0)
        span = high - low if high - low > 1e-6 * max(abs(low), abs(high)) else max(abs(high) / 10, LEAST_SPAN)
        room = 0.06 * span
        return Scale(low if zero and low == 0 else low - room, high + room, start, stop)

    def at(self, value: float) -> float:
        """The place of a value."""
        low, high, here = (self.low, self.high, value)
        if self.log:
            low, high, here = math.log(low), math.log(high), math.log(value)
        return self.start + (self.stop - self.start) * (here - low) / (high - low)

    def holds(self, value: float) -> bool:
        """Whether a value has a place."""
        return math.isfinite(value) and self.low <= value <= self.high

    @cached_property
    def ticks(self) -> list[float]:
        """About five round values."""
        if self.log and math.log(self.high) - math.log(self.low) > 1.6:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps: Sequence[int] = (1, 2, 5) if last - first < 4 else (1,)
            marks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
            inside = [value for value in marks if self.low <= value <= self.high]
            return inside[:: -(-len(inside) // 7) or 1]
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next((power * unit for unit in (1, 2, 5) if power * unit >= rough), power * 10)
        first = math.ceil(self.low / step)
        return [place * step for place in range(first, math.floor(self.high / step) + 1)][:12]
