"""The charts of the report and of the command line."""

from .bars import Panel, bars
from .cells import heat_map
from .figure import Figure, standalone
from .levels import Level, levels
from .scatter import Axis, Point, Series, scatter

__all__ = [
    "Axis",
    "Figure",
    "Level",
    "Panel",
    "Point",
    "Series",
    "bars",
    "heat_map",
    "levels",
    "scatter",
    "standalone",
]
