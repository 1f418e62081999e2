"""A card as one page of HTML that needs nothing else: no script, no network, light and dark."""

from collections.abc import Mapping
from html import escape
from typing import Any

from .document import Section, document, shown, title_of

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 0 auto; padding: 1rem; }
section { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8886;
  overflow-wrap: anywhere; }
pre { overflow-x: auto; }
"""


def page(card: Mapping[str, Any]) -> str:
    """The card as HTML. Whatever a file says is escaped."""
    title = escape(title_of(card))
    body = "\n".join(map(_section, document(card)))
    citations = card.get("citations")
    texts = [text for text in citations if isinstance(text, str)] if isinstance(citations, list) else []
    code = escape("\n".join(shown(line, 1000) for text in texts for line in text.splitlines()))
    cited = f'<section tabindex="0"><h2>Citations</h2>\n<pre>{code}</pre></section>\n' if code else ""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{body}\n{cited}</main>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    title = escape(section.title)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in section.columns) if any(section.columns) else ""
    rows = "\n".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in section.rows
    )
    top = f"<thead><tr>{head}</tr></thead>\n" if head else ""
    table = f"<table>\n{top}<tbody>\n{rows}\n</tbody></table>"
    return f'<section tabindex="0" aria-label="{title}"><h2>{title}</h2>\n{table}</section>'
