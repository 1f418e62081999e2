"""Writing a compressed model back as an ordinary checkpoint: one safetensors file, a folder of shards, or a `.pt`."""

import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.model import CompressedModel
from ..errors import FormatError, OutputError
from .atomic import NewFolder, replacing_file, replacing_folder
from .codes import as_codes
from .names import INDEXES, SHARDS, asked, check_index, check_layout, suspect
from .prefixes import original_names
from .safe import Specs, write_safetensors
from .terse import LazyTensors
from .wrapping import wrap

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".tar")


def write_checkpoint(
    model: CompressedModel,
    path: str | Path,
    *,
    overwrite: bool = False,
    codes: bool = False,
    attach: str | tuple[str, ...] = (),
) -> None:
    """Write `model` to `path`, with the names it came with: a folder if it came from one, else one safetensors file, or
    for `.pt` and the like (`PICKLES`) what torch.save writes, in the wrapping it came in.

    With `codes`, integers and their grids are written instead of values (safetensors; see docs/format.md). `attach` are
    one or more globs of a folder's files to write although they hold code or pickles, or are hidden. One tensor is in
    memory at a time, except for pickles.

    **Raises** `OutputError` if the target exists (without `overwrite`) or cannot be written; `FormatError` for a layout
    that leaves out or doubles a tensor, file names that lead elsewhere, and files that must be asked for.
    """
    target = Path(path)
    if model.activations and not codes:
        warnings.warn(
            f"the inputs of {len(model.activations)} layers are rounded in this model; {target.name} cannot say so: "
            "it is the network without that",
            stacklevel=2,
        )
    shards, metadata = checked_layout(model)
    if codes:
        if target.suffix in PICKLES:
            raise OutputError(f"{target}: codes are written as safetensors; name a .safetensors file")
        with replacing_file(target, overwrite=overwrite) as stream:
            write_safetensors(stream, *as_codes(model))
    elif target.suffix in PICKLES or (model.layout.get("content") and not target.suffix):
        state = _state(model, [*model.tensors, *model.aliases])
        with _usable(model):
            wrapped = wrap(model.layout, state)
        with replacing_file(target, overwrite=overwrite) as stream:
            torch.save(wrapped, stream)
    elif shards and target.suffix != ".safetensors":
        _check_asked(model, (attach,) if isinstance(attach, str) else attach)
        with replacing_folder(target, overwrite=overwrite) as folder:
            _write_folder(model, folder)
    else:
        with _usable(model):
            around = wrap(model.layout, {})
        if beside := [name for name in around if [name] != model.layout.get("key", [])[:1]]:
            some = ", ".join(map(str, beside[:8]))
            logging.getLogger("tersenet").info("%s: left out: %s; a .pt has a place for it", target.name, some)
        with replacing_file(target, overwrite=overwrite) as stream:
            names = [*model.tensors, *model.aliases]
            write_safetensors(stream, *_as_values(model, names), next(iter(metadata.values()), None))


def checked_layout(model: CompressedModel) -> tuple[dict[str, list[str]], dict[str, dict[str, str]]]:
    """The shards and their metadata. **Raises** `FormatError` if layout and attachments do not make a folder."""
    known = [*model.tensors, *model.aliases]
    renames = [model.layout.get(key, {}) for key in ("prefixes", "renamed")]
    with _usable(model):
        check_layout(model.layout, known, model.attachments)
        if not all(isinstance(r, dict) and all(isinstance(to, str) for to in r.values()) for r in renames):
            raise ValueError("a layout that renames tensors to what is no text")
        back = original_names(model.layout)
        if len(set(map(back, known))) != len(known):
            raise ValueError("a layout that gives two tensors one name")
        shards, metadata = model.layout.get("shards", {}), model.layout.get("metadata", {})
        written = {shard: [back(name) for name in names] for shard, names in shards.items()}
        for index, suffix in zip(INDEXES, SHARDS, strict=True):
            if index in model.attachments and any(shard.endswith(suffix) for shard in shards):
                check_index(_weight_map(model.attachments[index]), written)
    return shards, metadata


@contextmanager
def _usable(model: CompressedModel) -> Iterator[None]:
    """Turn what a layout cannot be into a `FormatError` that names the file."""
    try:
        yield
    except ValueError as error:
        raise FormatError(f"{_origin(model)} has {error}: it is damaged, or was not made by tersenet") from error


def _origin(model: CompressedModel) -> str:
    """The file that `model` was loaded from, if it was."""
    return str(model.tensors.path) if isinstance(model.tensors, LazyTensors) else "the model"


def _write_folder(model: CompressedModel, folder: NewFolder) -> None:
    shards, metadata = checked_layout(model)
    for shard, names in shards.items():
        with folder.file(shard) as stream:
            if shard.endswith(".bin"):
                torch.save(_state(model, names), stream)
            else:
                write_safetensors(stream, *_as_values(model, names), metadata.get(shard))
    for name, content in model.attachments.items():
        with folder.file(name) as stream:
            stream.write(content)


def _check_asked(model: CompressedModel, attach: tuple[str, ...]) -> None:
    """**Raises** `FormatError` for attachments that could run code, are hidden or pickles, and are not asked for."""
    found = [name for name in model.attachments if suspect(name, model.attachments) and not asked(name, attach)]
    if found:
        raise FormatError(
            f"{_origin(model)} holds {len(found)} files that can run code, are pickles or hidden: "
            f"{', '.join(found[:5])}. If you trust its author, give attach={found[0]!r}, or a glob for all of them"
        )


def _weight_map(index: bytes) -> Any:
    try:
        return json.loads(index)["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"an index of shards that is none ({error!r})") from error


def _state(model: CompressedModel, names: Iterable[str]) -> dict[str, Tensor]:
    """Tensors by their names in the checkpoint; tied names share one tensor."""
    back = original_names(model.layout)
    decoded: dict[str, Tensor] = {}
    for name in names:
        owner = model.aliases.get(name, name)
        decoded[owner] = decoded[owner] if owner in decoded else model.tensors[owner].dequantize()
    return {back(name): decoded[model.aliases.get(name, name)] for name in names}


def _as_values(model: CompressedModel, names: Iterable[str]) -> tuple[Specs, Callable[[str], Tensor]]:
    back = original_names(model.layout)
    owner = {back(name): model.aliases.get(name, name) for name in names}
    specs = {name: (model.specs[of].dtype, model.specs[of].shape) for name, of in owner.items()}
    return specs, lambda name: model.tensors[owner[name]].dequantize()
