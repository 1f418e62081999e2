"""Networks that a Hugging Face folder describes by itself: the class its config.json names, built by transformers."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from torch import nn

AUTO = "auto"
CONFIG = "config.json"


def network(where: str, beside: Sequence[Path], changes: Mapping[str, Any]) -> "nn.Module":
    """The network of `--model`: that of the folder `where`, or ("auto") of the checkpoint or `.terse` file among
    `beside` that has a config.json. Its weights are random. `changes` replace values of the config.

    **Raises** `UsageError` without a config.json, without transformers, or for a class that it does not have.
    """
    content = _config(beside if where == AUTO else [Path(where)], where)
    named = json.loads(content).get("architectures") or []
    if not named:
        raise UsageError(
            f"--model {where}: {CONFIG} names no class (architectures): write a function that builds the network, and "
            "give --model FILE.py:function"
        )
    try:
        import transformers
    except ImportError as error:
        raise UsageError(
            f"--model {where} builds {named[0]} with transformers, which is not installed: pip install transformers"
        ) from error
    kind = getattr(transformers, named[0], None)
    if kind is None:
        raise UsageError(
            f"--model {where}: transformers {transformers.__version__} has no class {named[0]}: install another "
            "version, or give --model FILE.py:function"
        )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / CONFIG).write_bytes(content)
        config = transformers.AutoConfig.from_pretrained(folder, **changes)
    built: nn.Module = kind(config)
    return built


def _config(places: Sequence[Path], where: str) -> bytes:
    """The content of the first config.json: in a folder, beside a file, or attached to a `.terse` file."""
    from ..files.packed_folder import is_packed

    for place in places:
        if is_packed(place):
            from ..api import load

            attached = load(place).attachments
            if CONFIG in attached:
                return attached[CONFIG]
        found = (place if place.is_dir() else place.parent) / CONFIG
        if found.is_file():
            return found.read_bytes()
    tried = ", ".join(map(str, places))
    raise UsageError(
        f"--model {where}: there is no {CONFIG} in or beside {tried}: give a Hugging Face folder, or the network's "
        "code as module:function or FILE.py:function"
    )
