"""A card as Markdown, with the YAML head that the Hugging Face Hub reads."""

import json
import re
from collections.abc import Mapping
from typing import Any

from .document import document, group, shown, title_of

HEAD = ("license", "language", "base_model", "datasets", "pipeline_tag", "license_name", "license_link")
LISTS = {"datasets", "language"}
_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+!|~&$@:])")


def markdown(card: Mapping[str, Any]) -> str:
    """The card as Markdown. Whatever a file says is escaped."""
    lines = ["---", *_head(card), "---", "", f"# {escaped(title_of(card))}", ""]
    for section in document(card):
        lines += [f"## {section.title}", ""]
        lines.append(f"| {' | '.join(map(escaped, section.columns))} |")
        lines.append(f"|{'---|' * len(section.columns)}")
        lines += [f"| {' | '.join(map(escaped, row))} |" for row in section.rows]
        lines.append("")
    citations = card.get("citations")
    texts = [text for text in citations if isinstance(text, str)] if isinstance(citations, list) else []
    if texts:
        lines += ["## Citations", "", "```bibtex", *(_code(text) for text in texts), "```", ""]
    return "\n".join(lines)


def escaped(text: str) -> str:
    """`text` so that Markdown, and HTML in it, mean nothing.

    >>> escaped("<b>|a_b")
    '\\\\<b\\\\>\\\\|a\\\\_b'
    """
    return _SPECIAL.sub(r"\\\1", shown(text, 1000))


def _head(card: Mapping[str, Any]) -> list[str]:
    """The YAML of the head: every value is JSON, which YAML reads."""
    identity, result = group(card, "identity"), group(card, "result")
    given = group(identity, "given")
    lines = ["library_name: tersenet", "tags:", "- quantization", "- compression"]
    if isinstance(method := identity.get("method"), str):
        lines.append(f"- {_json(method)}")
    for name in HEAD:
        if isinstance(value := given.get(name), str):
            parts = [part.strip() for part in value.split(",")] if name in LISTS else []
            lines += [f"{name}:", *(f"- {_json(part)}" for part in parts)] if parts else [f"{name}: {_json(value)}"]
    metric, mean = result.get("metric"), group(result, "score").get("mean")
    if isinstance(metric, str):
        lines += ["metrics:", f"- {_json(metric)}"]
    named = [given.get(name) for name in ("pipeline_tag", "datasets")]
    if isinstance(metric, str) and isinstance(mean, int | float) and all(isinstance(each, str) for each in named):
        task, data = map(_json, map(str, named))
        lines += ["model-index:", f"- name: {_json(title_of(card))}", "  results:", "  - task:", f"      type: {task}"]
        lines += ["    dataset:", f"      type: {data}", f"      name: {data}"]
        lines += [f"      split: {_json(str(result.get('split')))}", "    metrics:"]
        lines += [f"    - type: {_json(metric)}", f"      value: {json.dumps(mean)}"]
    return lines


def _json(text: str) -> str:
    return json.dumps(shown(text), ensure_ascii=False).replace("<", "\\u003c").replace(">", "\\u003e")


def _code(text: str) -> str:
    """Lines of a code block that nothing in them can end."""
    return "\n".join(shown(line, 1000).replace("```", "'''") for line in text.splitlines())
