"""One page of HTML that needs nothing else: no network, no script but the one that follows a running process.

Every chart has its table below it; what others chose (names) is escaped, cut, and kept from turning the direction of
the text around it. A content security policy forbids whatever would slip through.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from .escape import markup
from .figures import Figure
from .figures.svg import PALETTE, STYLE, WIDTH

ROWS = 150  # of a table that are shown
CELL = 80  # characters of a cell
STYLES = (
    f"{PALETTE}*{{box-sizing:border-box}}body{{margin:0 auto;max-width:1180px;padding:1rem;font:16px/1.5 "
    "system-ui,sans-serif;background:var(--paper);color:var(--ink)}h1{font-size:1.5rem;overflow-wrap:anywhere}"
    "h2{font-size:1.2rem;border-bottom:1px solid var(--grid);margin-top:2rem}h3{font-size:1rem;overflow-wrap:anywhere}"
    "dl{display:grid;grid-template-columns:auto minmax(0,1fr);gap:.2rem 1rem}dt{color:var(--soft)}dd{margin:0;"
    "overflow-wrap:anywhere}.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));"
    "gap:1rem 2rem}figure{margin:0;max-width:560px;min-width:0}figcaption{font-weight:600;margin-bottom:.3rem}"
    ".note{color:var(--soft);font-size:.875rem;overflow-wrap:anywhere}svg{width:100%;height:auto;display:block}"
    ".table{overflow:auto;max-height:24rem;border:1px solid var(--grid)}table{border-collapse:collapse;"
    "font-size:.875rem}th,td{unicode-bidi:isolate;padding:.15rem .5rem;text-align:start;border-bottom:1px solid "
    "var(--grid)}"
    "thead th{position:sticky;top:0;background:var(--paper)}td{font-variant-numeric:tabular-nums}.n{text-align:end}"
    "summary{cursor:pointer;padding:.3rem 0;overflow-wrap:anywhere}:focus-visible{outline:3px solid var(--c0);"
    "outline-offset:2px}button{font:inherit;padding:.3rem .8rem;color:var(--ink);background:var(--paper);border:1px "
    "solid var(--soft);border-radius:4px}"
    f"{STYLE}@media(max-width:640px){{dl{{grid-template-columns:minmax(0,1fr);gap:0}}dd{{margin-bottom:.5rem}}}}"
)
SCRIPT = (
    "const b=document.getElementById('follow'),s=Number(b.dataset.seconds)*1000;"
    "const on=()=>location.hash==='#follow';"
    "const show=()=>b.setAttribute('aria-pressed',String(on()));"
    "b.addEventListener('click',()=>{location.hash=on()?'still':'follow';show()});"
    "show();setInterval(()=>{if(on())location.reload()},s);"
)


@dataclass(frozen=True)
class Section:
    """A part of the page: charts beside each other (`figures`), then charts of which one is open at a time
    (`choice`)."""

    title: str
    figures: Sequence[Figure] = ()
    text: str = ""
    choice: Sequence[tuple[str, Figure]] = ()


@dataclass(frozen=True)
class Page:
    """What a page says: its title, facts (name, value), sections; `seconds` between its changes while it is live."""

    title: str
    facts: Sequence[tuple[str, object]]
    sections: Sequence[Section]
    seconds: float | None = None
    details: Sequence[tuple[str, object]] = field(default=())


def html(page: Page) -> str:
    """The page as one HTML document."""
    script = SCRIPT if page.seconds is not None else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">',
        f"<title>{markup(page.title, CELL)} – tersenet report</title><style>{STYLES}</style></head><body>",
        f"<header><h1>{_name(page.title)}</h1>{_follow(page.seconds)}</header><main>",
        _facts(page.facts),
        *(_section(section, number) for number, section in enumerate(page.sections)),
    ]
    if page.details:
        parts.append(
            "<section><h2>How it was made</h2><details><summary>Everything that the file records</summary>"
            f"{_table(('what', 'value'), page.details, 'Everything that the file records')}</details></section>"
        )
    parts.append(f"</main>{f'<script>{script}</script>' if script else ''}</body></html>\n")
    return "".join(parts)


def _follow(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return (
        f'<p>This page is rewritten while the work goes on. <button id="follow" type="button" aria-pressed="false" '
        f'data-seconds="{max(1.0, seconds):g}">Follow: load it again every {max(1.0, seconds):g} s</button></p>'
    )


def _name(text: object, most: int = CELL) -> str:
    """Text of others; a direction of its own does not reach what is around it."""
    return f"<bdi>{markup(text, most)}</bdi>"


def _facts(facts: Sequence[tuple[str, object]]) -> str:
    return f"<dl>{''.join(f'<dt>{markup(name)}</dt><dd>{_name(value, 600)}</dd>' for name, value in facts)}</dl>"


def _section(section: Section, number: int) -> str:
    drawn = [_figure(figure, f"f{number}-{place}") for place, figure in enumerate(section.figures)]
    chosen = [
        f'<details name="s{number}"{" open" if place == 0 else ""}><summary>{_name(name)}</summary>'
        f"{_figure(figure, f'c{number}-{place}')}</details>"
        for place, (name, figure) in enumerate(section.choice)
    ]
    text = f'<p class="note">{markup(section.text, 2000)}</p>' if section.text else ""
    charts = f'<div class="charts">{"".join(drawn)}</div>' if drawn else ""
    return f"<section><h2>{_name(section.title)}</h2>{text}{charts}{''.join(chosen)}</section>"


def _figure(figure: Figure, key: str) -> str:
    note = f'<p class="note">{_name(figure.note, 600)}</p>' if figure.note else ""
    return (
        f'<figure><figcaption id="{key}">{_name(figure.title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH:g} {figure.height:g}" role="img" aria-labelledby="{key}">{figure.elements}</svg>'
        f"{note}<details><summary>Table: {_name(figure.title)}</summary>"
        f"{_table(figure.columns, figure.rows, figure.title)}</details></figure>"
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]], caption: str) -> str:
    """A table that is scrolled with the keyboard; the first cell of a row is its header."""
    ends = [' class="n"' if column.startswith(">") else "" for column in columns]
    head = "".join(
        f'<th scope="col"{end}>{markup(column.removeprefix(">"), CELL) or "row"}</th>'
        for column, end in zip(columns, ends, strict=True)
    )
    body = []
    for row in rows[:ROWS]:
        first, *others = (markup(cell, CELL) for cell in row)
        cells = "".join(f"<td{end}>{cell}</td>" for cell, end in zip(others, ends[1:], strict=True))
        body.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    more = f'<p class="note">{len(rows) - ROWS:,} more rows are not shown.</p>' if len(rows) > ROWS else ""
    return (
        f'<div class="table" role="region" tabindex="0" aria-label="{markup(caption, CELL)}"><table><thead><tr>{head}'
        f"</tr></thead><tbody>{''.join(body)}</tbody></table></div>{more}"
    )
