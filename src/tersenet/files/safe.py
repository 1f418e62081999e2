"""safetensors files, read and written one tensor at a time."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..core.method import Facts
from ..core.model import TensorSpec
from ..errors import CheckpointError, OutputError
from .state import DTYPES, check_name

NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class FileSource:
    """Tensors of one or more safetensors files, mapped one at a time."""

    specs: Mapping[str, TensorSpec]
    files: Mapping[str, Path]
    layout: Mapping[str, Any] = field(default_factory=dict)
    attachments: Mapping[str, bytes] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)

    def read(self, name: str) -> Tensor:
        """The tensor called `name`, mapped from its file."""
        with safe_open(self.files[name], framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
            return tensor

    def digest(self) -> str:
        """xxh3-128 of the files' bytes, in the order of their names."""
        state = xxhash.xxh3_128()
        for path in sorted(set(self.files.values())):
            with path.open("rb") as stream:
                while block := stream.read(1 << 22):
                    state.update(block)
        return state.hexdigest()


def open_files(paths: Mapping[str, Path]) -> FileSource:
    """safetensors files, by their names, as one source. **Raises** `CheckpointError`."""
    specs: dict[str, TensorSpec] = {}
    files: dict[str, Path] = {}
    metadata: dict[str, dict[str, str]] = {}
    for shard, path in paths.items():
        try:
            with safe_open(path, framework="pt") as opened:
                metadata[shard] = opened.metadata() or {}
                for name in opened.keys():  # noqa: SIM118 (not a mapping)
                    if name in specs:
                        raise CheckpointError(f"{path}: tensor {name} is also in {files[name].name}")
                    check_name(name)
                    part = opened.get_slice(name)
                    specs[name] = TensorSpec(_shape(part, path, name), _dtype(part.get_dtype(), path, name))
                    files[name] = path
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} is not a readable safetensors file ({error}); a pickle must be named .pt or .pth"
            ) from error
    if not specs:
        raise CheckpointError(f"{', '.join(str(p) for p in paths.values())}: no tensors in it")
    if any(values.get("format") == "terse" for values in metadata.values()):
        raise CheckpointError(f"{next(iter(paths.values()))} is a compressed file of tersenet: decompress it first")
    kept = {shard: values for shard, values in metadata.items() if values}
    return FileSource(specs, files, {"metadata": kept} if kept else {})


def _shape(part: Any, path: Path, tensor: str) -> torch.Size:
    shape = part.get_shape()
    if math.prod(size or 1 for size in shape) >= 1 << 63:
        raise CheckpointError(f"{path}: tensor {tensor} has shape {shape}, which no tensor can have: it is damaged")
    return torch.Size(shape)


def _dtype(name: str, path: Path, tensor: str) -> torch.dtype:
    try:
        return DTYPES[name]
    except KeyError:
        raise CheckpointError(f"{path}: tensor {tensor} has dtype {name}; known are {', '.join(DTYPES)}") from None


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
        if dtype not in NAMES:
            raise OutputError(f"tensor {name}: safetensors has no {dtype}; write a .pt instead")
        end = offset + shape.numel() * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    for name in specs:
        stream.write(read(name).contiguous().reshape(-1).view(torch.uint8).numpy().data)
