"""The levels of a grid: how many weights have each, and in how many bits each is told."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from . import svg
from .figure import Figure
from .svg import WIDTH, Scale

LEFT, RIGHT, TOP = 58.0, WIDTH - 14, 16.0


@dataclass(frozen=True)
class Level:
    """A level, or neighbours drawn as one: its codes and values from where to where, how many weights have it, and the
    bits of an ideal code for it (infinite where there are none)."""

    codes: tuple[int, int]
    values: tuple[float, float]
    count: int
    length: float


def levels(title: str, found: Sequence[Level], note: str) -> Figure:
    """The share of weights on every level, and below it the length of an ideal code for the level."""
    total = max(1, sum(level.count for level in found))
    middle, bottom = TOP + 120, TOP + 226
    wide = (RIGHT - LEFT) / max(1, len(found))
    shares = [100 * level.count / total for level in found]
    lengths = [level.length for level in found]
    up = Scale.over([*shares, 0.0], middle, TOP + 6, zero=True)
    down = Scale.over([*(each for each in lengths if math.isfinite(each)), 0.0], bottom, middle + 32, zero=True)
    parts = [svg.text(LEFT + 4, TOP, "weights, %"), svg.text(LEFT + 4, middle + 26, "code length, bits")]
    for scale in (up, down):
        for tick in scale.ticks[::2]:
            parts += [
                svg.line(LEFT, scale.at(tick), RIGHT, scale.at(tick), "grid"),
                svg.text(LEFT - 6, scale.at(tick) + 4, svg.short(tick), "end soft"),
            ]
    filled, told = [], []
    for place, (share, length) in enumerate(zip(shares, lengths, strict=True)):
        x = LEFT + wide * place
        filled.append((x + wide * 0.1, up.at(share), wide * 0.8, max(0.0, up.at(0) - up.at(share))))
        if math.isfinite(length):
            told.append((x + wide * 0.1, down.at(length), x + wide * 0.9, down.at(length)))
    parts += [svg.rectangles(filled, "c0"), svg.strokes(told, "line c1")]
    for place in range(0, len(found), -(-len(found) // 9) or 1):
        x = LEFT + wide * (place + 0.5)
        parts += [
            svg.line(x, bottom, x, bottom + 4, "axis"),
            svg.text(x, bottom + 17, svg.short(found[place].codes[0]), "mid soft"),
        ]
    parts += [svg.line(LEFT, middle, RIGHT, middle, "axis"), svg.line(LEFT, bottom, RIGHT, bottom, "axis")]
    parts.append(svg.text(RIGHT, bottom + 32, "code of the level", "end"))
    columns = ("code", "value", ">weights", ">share, %", ">code length, bits")
    rows = [
        (_span(level.codes), _span(level.values), f"{level.count:,}", f"{share:.3f}", _bits(length))
        for level, share, length in zip(found, shares, lengths, strict=True)
    ]
    return Figure(title, "".join(parts), bottom + 40, columns, rows, note)


def _span(ends: tuple[float, float]) -> str:
    low, high = ("" if math.isnan(end) else f"{end:.6g}" for end in ends)
    return low if low == high else f"{low} to {high}"


def _bits(length: float) -> str:
    return f"{length:.2f}" if math.isfinite(length) else "never used"
