"""Writing a compressed model back as an ordinary checkpoint: one safetensors file, a folder of shards, or a `.pt`."""

import json
import logging
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..core.model import CompressedModel, QTensor
from ..errors import FormatError, OutputError
from .atomic import replacing_file, replacing_folder
from .prefixes import original_names
from .wrapping import wrap

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".tar")

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.uint16: "U16", torch.uint32: "U32", torch.uint64: "U64", torch.bool: "BOOL", torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip


def write_checkpoint(model: CompressedModel, path: str | Path, *, force: bool = False, codes: bool = False) -> None:
    """Write `model` to `path`, with the names it came with: a folder if it came from one, else one safetensors file, or
    for `.pt` and the like (`PICKLES`) what torch.save writes, in the wrapping it came in.

    With `codes`, every quantised tensor is written as integers `NAME` and its grid as `NAME:scale`, `NAME:offset`, ...
    (safetensors). One tensor is in memory at a time, except for `.pt`.

    **Raises** `OutputError` if the target exists (without `force`) or cannot be written.
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
        with replacing_file(target, force=force) as stream:
            write_safetensors(stream, *_as_codes(model))
    elif target.suffix in PICKLES or (model.layout.get("content") and not target.suffix):
        wrapped = wrap(model.layout, _state(model, [*model.tensors, *model.aliases]))
        with replacing_file(target, force=force) as stream:
            torch.save(wrapped, stream)
    elif shards and target.suffix != ".safetensors":
        with replacing_folder(target, force=force) as folder:
            for shard, names in shards.items():
                with folder.file(shard) as stream:
                    if shard.endswith(".bin"):
                        torch.save(_state(model, names), stream)
                    else:
                        write_safetensors(stream, *_as_values(model, names), metadata.get(shard))
            for name, content in model.attachments.items():
                with folder.file(name) as stream:
                    stream.write(content)
    else:
        if beside := [name for name in wrap(model.layout, {}) if [name] != model.layout.get("key", [])[:1]]:
            some = ", ".join(map(str, beside[:8]))
            logging.getLogger("tersenet").info("%s: left out: %s; a .pt has a place for it", target.name, some)
        with replacing_file(target, force=force) as stream:
            names = [*model.tensors, *model.aliases]
            write_safetensors(stream, *_as_values(model, names), next(iter(metadata.values()), None))


def checked_layout(model: CompressedModel) -> tuple[dict[str, list[str]], dict[str, dict[str, str]]]:
    """The shards and their metadata. **Raises** `FormatError` if the file's layout is not what tersenet writes."""
    shards, metadata = model.layout.get("shards", {}), model.layout.get("metadata", {})
    known = {*model.tensors, *model.aliases}
    right = isinstance(shards, dict) and isinstance(metadata, dict)
    right = right and all(isinstance(names, list) and known.issuperset(map(str, names)) for names in shards.values())
    right = right and all(
        isinstance(values, dict) and all(isinstance(text, str) for text in values.values())
        for values in metadata.values()
    )
    renames = [model.layout.get(key, {}) for key in ("prefixes", "renamed")]
    right = right and all(isinstance(r, dict) and all(isinstance(to, str) for to in r.values()) for r in renames)
    if not right or len(set(map(original_names(model.layout), known))) != len(known):
        raise FormatError("the file's layout names tensors it does not have, or is no layout: write codes=True")
    return shards, metadata


Specs = dict[str, tuple[torch.dtype, torch.Size]]


def write_safetensors(
    stream: BinaryIO, specs: Specs, read: Callable[[str], Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Stream tensors into a safetensors file: the header from `specs`, then `read(name)` one after the other."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, (dtype, shape) in specs.items():
        if name == "__metadata__":
            raise OutputError("a tensor is called __metadata__, which safetensors does not allow; write a .pt instead")
        if dtype not in _NAMES:
            raise OutputError(f"tensor {name}: safetensors has no {dtype}; write a .pt instead")
        end = offset + shape.numel() * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    for name in specs:
        stream.write(read(name).contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _state(model: CompressedModel, names: Iterable[str]) -> dict[str, Tensor]:
    """Tensors by their names in the checkpoint; tied names share one tensor."""
    back = original_names(model.layout)
    made: dict[str, Tensor] = {}
    for name in names:
        owner = model.aliases.get(name, name)
        made[owner] = made[owner] if owner in made else model.tensors[owner].dequantize()
    return {back(name): made[model.aliases.get(name, name)] for name in names}


def _as_values(model: CompressedModel, names: Iterable[str]) -> tuple[Specs, Callable[[str], Tensor]]:
    back = original_names(model.layout)
    owner = {back(name): model.aliases.get(name, name) for name in names}
    specs = {name: (model.specs[of].dtype, model.specs[of].shape) for name, of in owner.items()}
    return specs, lambda name: model.tensors[owner[name]].dequantize()


def _as_codes(model: CompressedModel) -> tuple[Specs, Callable[[str], Tensor]]:
    small: dict[str, Tensor] = {}
    specs: Specs = {}
    owner = {**{name: name for name in model.tensors}, **model.aliases}
    for name, of in owner.items():
        entry = model.tensors[of]
        if isinstance(entry, QTensor):
            specs[name] = (entry.codes.dtype, entry.shape)
            small.update({f"{name}:{k}": v for k, v in vars(entry.grid).items() if isinstance(v, Tensor)})
        else:
            specs[name] = (entry.tensor.dtype, entry.shape)
    if both := sorted(set(specs) & set(small)):
        raise OutputError(f"tensor {both[0]} has the name that its grid needs: write values instead (codes=False)")
    specs |= {name: (value.dtype, value.shape) for name, value in small.items()}

    def read(name: str) -> Tensor:
        if name in small:
            return small[name]
        entry = model.tensors[owner[name]]
        return entry.codes if isinstance(entry, QTensor) else entry.tensor

    return specs, read
