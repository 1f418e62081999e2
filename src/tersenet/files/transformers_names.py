"""Names of an older checkpoint in a network of transformers, as transformers' own loader finds them.

It adds or takes off the prefix of the inner model (`bert.`, `model.`), renames what is called differently today
(`LayerNorm.gamma`), and leaves out what the network does not have (a head of another task).
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from ..core.model import CompressedModel, Entry


def names_in(module: nn.Module | None, names: Iterable[str]) -> dict[str, str] | None:
    """Name in the checkpoint -> name in `module`, for those that it has; None if it is no network of transformers.

    Tensors that transformers would merge or split keep their names.
    """
    library = sys.modules.get("transformers.modeling_utils")
    if module is None or library is None or not isinstance(module, getattr(library, "PreTrainedModel", ())):
        return None
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    known: Any = module.state_dict()
    steps = get_model_conversion_mapping(module)
    renamings = [step for step in steps if isinstance(step, WeightRenaming)]
    converters = [step for step in steps if isinstance(step, WeightConverter)]
    found: dict[str, str] = {}
    for name in names:
        to, converted = rename_source_key(name, renamings, converters, module.base_model_prefix, known)
        if to not in known and name in known:
            to, converted = rename_source_key(name, [], [], module.base_model_prefix, known)
        if converted is not None:
            found[name] = name
        elif to in known:
            found[name] = to
    return found


def fitted(model: CompressedModel, module: nn.Module) -> CompressedModel:
    """`model` with its tensors under the names that `module` has, if that is a network of transformers."""
    every = [*model.tensors, *model.aliases]
    names = names_in(module, every)
    if names is None or names == dict(zip(every, every, strict=True)):
        return model
    originals = {to: name for name, to in names.items()}
    owners: dict[str, str] = {}  # tensor of the model -> the first name here that it has
    for to, name in originals.items():
        owners.setdefault(model.aliases.get(name, name), to)
    return replace(
        model,
        tensors=_Renamed(model.tensors, {to: owner for owner, to in owners.items()}),
        aliases={
            to: owners[owner]
            for to, name in originals.items()
            if (owner := model.aliases.get(name, name)) and owners[owner] != to
        },
        known_specs={to: model.specs[owner] for owner, to in owners.items()},
    )


class _Renamed(Mapping[str, Entry]):
    """Entries under other names (name -> name there), still decoded when they are asked for."""

    def __init__(self, entries: Mapping[str, Entry], originals: Mapping[str, str]) -> None:
        self._entries, self._originals = entries, originals

    def __getitem__(self, name: str) -> Entry:
        return self._entries[self._originals[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._originals)

    def __len__(self) -> int:
        return len(self._originals)
