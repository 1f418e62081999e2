"""The README.md of a compressed folder: how its weights are loaded, and then what the original said."""

from typing import Any

from ..core.model import CompressedModel
from .names import CONTAINER

README = "README.md"
QUANT_METHOD = "terse"  # what config.json calls it


def readme(envelope: CompressedModel, named: Any) -> bytes:
    """What to do with the folder of a network (`named` by its config), in front of what its README said, but after the
    metadata there."""
    first = named[0] if isinstance(named, list) and named else None
    kind = first if isinstance(first, str) and first.isidentifier() else "AutoModel"
    method, versions = (envelope.provenance.get(key) for key in ("method", "versions"))
    version = versions.get("tersenet", "") if isinstance(versions, dict) else ""
    note = f"""# Compressed with tersenet

The weights are in `{CONTAINER}`, compressed by tersenet {version} (method: {method}). To load them:

```
pip install tersenet transformers accelerate
```

```python
import tersenet  # before the model is loaded: it tells transformers how these weights are read
from transformers import {kind}

model = {kind}.from_pretrained("path/of/this/folder")
```

Without `import tersenet`, transformers says "Unknown quantization type, got {QUANT_METHOD}" and finds no weights.
The model is an ordinary one in memory: it computes, trains and is saved like any other. Without transformers:

```
tersenet inspect path/of/this/folder
tersenet decompress path/of/this/folder -o ordinary/
```
"""
    before, after = _front_matter(envelope.attachments.get(README, b""))
    return before + note.encode() + (b"\n" + after if after.strip() else b"")


def _front_matter(text: bytes) -> tuple[bytes, bytes]:
    """The metadata that a README begins with, and the rest."""
    lines = text.splitlines(keepends=True)
    if lines and lines[0].strip() == b"---":
        for number, line in enumerate(lines[1:], 1):
            if line.strip() == b"---":
                return b"".join(lines[: number + 1]) + b"\n", b"".join(lines[number + 1 :])
    return b"", text
