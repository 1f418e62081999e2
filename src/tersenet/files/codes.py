"""A compressed model as integers and their grids in one safetensors file: see "Codes" in docs/format.md."""

import json
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..core.model import CompressedModel, KeptTensor
from ..errors import OutputError
from .grids import kind_of
from .prefixes import original_names
from .reader import stored_batch_norm
from .safe import NAMES, Specs
from .terse import described


def as_codes(model: CompressedModel) -> tuple[Specs, Callable[[str], Tensor], dict[str, str]]:
    """What a safetensors file of codes holds: its tensors, how to read one, and its metadata, which says how to make
    every value and rounding from them.

    **Raises** `OutputError` where two tensors would have one name.
    """
    grids: dict[str, Tensor] = {}
    specs: Specs = {}
    facts: dict[str, dict[str, Any]] = {}
    back = original_names(model.layout)
    owner = {back(name): model.aliases.get(name, name) for name in (*model.tensors, *model.aliases)}
    for name, of in owner.items():
        entry = model.tensors[of]
        stored = entry.tensor if isinstance(entry, KeptTensor) else entry.codes
        specs[name], facts[name] = (stored.dtype, stored.shape), {"dtype": NAMES.get(entry.dtype)}
        if isinstance(entry, KeptTensor):
            continue
        facts[name]["kind"] = kind_of(entry.grid)
        for key, value in vars(entry.grid).items():
            if isinstance(value, Tensor):
                grids[f"{name}:{key}"] = value
            elif value is not None:
                facts[name][key] = value
    if both := sorted(set(specs) & set(grids)):
        raise OutputError(f"tensor {both[0]} has the name that its grid needs: write values instead (codes=False)")
    specs |= {name: (value.dtype, value.shape) for name, value in grids.items()}

    def read(name: str) -> Tensor:
        if name in grids:
            return grids[name]
        entry = model.tensors[owner[name]]
        return entry.tensor if isinstance(entry, KeptTensor) else entry.codes

    about: dict[str, Any] = {
        "tensors": facts,
        "aliases": {back(name): back(of) for name, of in model.aliases.items()},
        "batch_norm": stored_batch_norm(model.batch_norm) or "keep",
    }
    about["activations"] = {path: described(activation) for path, activation in model.activations.items()}
    return specs, read, {"format": "pt", "tersenet.codes": json.dumps(about, separators=(",", ":"), allow_nan=False)}
