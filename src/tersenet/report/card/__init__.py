"""A quantization card: every number of a compressed file together with what it depends on. Never imports torch.

`card_of` derives it from the bytes of a `.terse` file; `document` says it in sections and tables, which `markdown` and
`page` (HTML) write. The JSON Schema is `schema.json` in this folder.
"""

import json
from importlib.resources import files
from typing import Any

from .build import VERSION, MethodCard, card_of, hash_of, result_of
from .html import page
from .markdown import markdown

__all__ = ["VERSION", "MethodCard", "card_of", "hash_of", "markdown", "page", "result_of", "schema"]


def schema() -> dict[str, Any]:
    """The JSON Schema of cards of this version."""
    found: dict[str, Any] = json.loads(files(__package__).joinpath("schema.json").read_text("utf-8"))
    return found
