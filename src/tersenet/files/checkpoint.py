"""Checkpoints as tensor sources: `.safetensors`, a Hugging Face folder, what torch.save wrote, a live module.

Nothing in a checkpoint is executed.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..core.method import TensorSource
from ..core.model import TensorSpec
from ..errors import CheckpointError
from .foreign import kind_of
from .pickled import open_pickle, open_pickle_shards
from .prefixes import renamed
from .state import DTYPES, StateSource, check_name, from_state
from .wrapping import wrap

WEIGHT_SUFFIXES = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".h5",
    ".msgpack",
    ".onnx",
    ".gguf",
    ".ckpt",
    ".npz",
    ".terse",
)
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint at `path`, and how to read it where its content alone does not tell.

    `key` names the state dict among several ("ema", "model.state_dict"), `strip_prefix` what stands in front of the
    network's own names ("" keeps all names as they are), `ignore_keys` one or more globs of tensors to leave out.

    >>> Checkpoint("run.ckpt", key="state_dict", ignore_keys="criterion.*").file.name
    'run.ckpt'
    """

    path: str | Path
    key: str | None = None
    strip_prefix: str | None = None
    ignore_keys: str | tuple[str, ...] = ()

    @property
    def file(self) -> Path:
        """The path as a `Path`."""
        return Path(self.path)


Where = str | Path | Checkpoint


def checkpoint_at(where: Where) -> Checkpoint:
    """`where` as a `Checkpoint`."""
    return where if isinstance(where, Checkpoint) else Checkpoint(where)


def open_checkpoint(where: Where, module: nn.Module | None = None) -> TensorSource:
    """The checkpoint at `where`, with the names that `module` knows.

    `module`, where given, tells the channel axes, the prefix in front of its names, and which buffers it no longer
    has (see `prefixes.renamed`). What was detected is logged, in one line each.

    **Raises** `CheckpointError` if there is nothing there that can be read safely, or more than one network.
    """
    given = checkpoint_at(where)
    source = _opened(given)
    globs = (given.ignore_keys,) if isinstance(given.ignore_keys, str) else tuple(given.ignore_keys)
    common = ("module.", "model.") if "pytorch-lightning_version" in wrap(source.layout, {}) else ("module.",)
    try:
        found, said = renamed(source, module, given.strip_prefix, globs, common)
    except CheckpointError as error:
        raise CheckpointError(f"{given.path}: {error}") from error
    if said:
        logging.getLogger("tersenet").info("%s: %s", given.file.name, said)
    return found if module is None else replace(found, specs=_with_axes(found.specs, module))


def _opened(given: Checkpoint) -> "FileSource | StateSource":
    where = given.file
    if where.is_dir():
        pickled = not any(where.glob("*.safetensors")) and not (where / INDEX).is_file() and any(where.glob("*.bin"))
        source = open_pickle_shards(where, _attachments(where)) if pickled else _open_folder(where)
    elif not where.is_file():
        raise CheckpointError(f"{where}: no such file or folder; give a .safetensors, .pt, .pth or a model folder")
    elif where.stat().st_size == 0:
        raise CheckpointError(f"{where} is empty (0 bytes): the download or the copy has failed")
    elif where.suffix == ".terse":
        raise CheckpointError(f"{where} is already compressed: decompress it first (tersenet decompress)")
    elif kind_of(where) != "safetensors":
        return open_pickle(where, given.key)
    else:
        source = _open_files({where.name: where}, {})
    if given.key is not None:
        raise CheckpointError(f"{where} is one state dict without wrapping: leave out key={given.key!r}")
    return source


def open_module(module: nn.Module) -> StateSource:
    """The parameters and buffers of a live module."""
    source = from_state(module.state_dict(), {})
    return replace(source, specs=_with_axes(source.specs, module))


@dataclass(frozen=True)
class FileSource:
    """Tensors of one or more safetensors files, mapped one at a time."""

    specs: Mapping[str, TensorSpec]
    files: Mapping[str, Path]
    layout: Mapping[str, Any] = field(default_factory=dict)
    attachments: Mapping[str, bytes] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

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


def _with_axes(specs: Mapping[str, TensorSpec], module: nn.Module) -> dict[str, TensorSpec]:
    """`specs` with axis 1 for the weights of transposed convolutions and of Hugging Face's Conv1D."""
    transposed = {
        f"{path}.weight" if path else "weight"
        for path, part in module.named_modules()
        if type(part).__name__.startswith("ConvTranspose") or type(part).__name__ == "Conv1D"
    }
    return {name: replace(spec, axis=1) if name in transposed else spec for name, spec in specs.items()}


def _open_files(paths: Mapping[str, Path], attachments: Mapping[str, bytes]) -> FileSource:
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
                    specs[name] = TensorSpec(torch.Size(part.get_shape()), _dtype(part.get_dtype(), path, name))
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
    return FileSource(specs, files, {"metadata": kept} if kept else {}, attachments)


def _dtype(name: str, path: Path, tensor: str) -> torch.dtype:
    try:
        return DTYPES[name]
    except KeyError:
        raise CheckpointError(f"{path}: tensor {tensor} has dtype {name}; known are {', '.join(DTYPES)}") from None


def _open_folder(folder: Path) -> FileSource:
    index = folder / INDEX
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{index} is not an index of shards ({error!r})") from error
        missing = [shard for shard in shards if Path(shard).name != shard or not (folder / shard).is_file()]
        if missing:
            raise CheckpointError(f"{index} names shards that are not in the folder: {', '.join(missing[:5])}")
    else:
        shards = sorted(path.name for path in folder.glob("*.safetensors"))
        if len(shards) != 1:
            raise CheckpointError(
                f"{folder}: expected {INDEX} or exactly one .safetensors file, found {len(shards)}; name one file"
            )
    source = _open_files({shard: folder / shard for shard in shards}, _attachments(folder))
    names = {shard: [name for name, path in source.files.items() if path.name == shard] for shard in shards}
    return replace(source, layout={**source.layout, "shards": names})


def _attachments(folder: Path) -> dict[str, bytes]:
    """The other files of a model folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.suffix not in WEIGHT_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
