"""What a chart is: a picture in SVG, and the table that says the same in words."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..escape import markup
from . import svg
from .svg import WIDTH


@dataclass(frozen=True)
class Figure:
    """A chart: what it shows (`title`), the elements of its picture and their height, what a reader should know
    (`note`), and a table of the same numbers; columns that begin with ">" are numbers."""

    title: str
    elements: str
    height: float
    columns: tuple[str, ...]
    rows: Sequence[tuple[object, ...]]
    note: str = ""


def standalone(figure: Figure) -> str:
    """A figure as an SVG file of its own, light or dark as its reader wishes."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {figure.height:g}" width="{2 * WIDTH:g}" '
        f'role="img"><title>{markup(figure.title)}</title><style>{svg.PALETTE}{svg.STYLE}</style>'
        f'<rect width="100%" height="100%" class="paper"/>{figure.elements}</svg>\n'
    )
