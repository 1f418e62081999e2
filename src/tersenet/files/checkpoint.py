"""Checkpoints as tensor sources: `.safetensors`, a Hugging Face folder, `.pt`/`.pth`, a live module.

Nothing in a checkpoint is executed: pickles are read with `weights_only=True` only.
"""

import json
import pickle
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

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module")
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


def open_checkpoint(path: str | Path, module: nn.Module | None = None) -> TensorSource:
    """The checkpoint at `path`; `module`, where given, tells the channel axes.

    **Raises** `CheckpointError` if there is nothing there that can be read safely.
    """
    where = Path(path)
    if where.is_dir():
        source: FileSource | StateSource = _open_folder(where)
    elif not where.is_file():
        raise CheckpointError(f"{where}: no such file or folder; give a .safetensors, .pt, .pth or a model folder")
    elif where.stat().st_size == 0:
        raise CheckpointError(f"{where} is empty (0 bytes): the download or the copy has failed")
    elif where.suffix == ".terse":
        raise CheckpointError(f"{where} is already compressed: decompress it first (tersenet decompress)")
    elif where.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        source = _open_pickle(where)
    else:
        source = _open_files({where.name: where}, {})
    return source if module is None else replace(source, specs=_with_axes(source.specs, module))


def open_module(module: nn.Module) -> "StateSource":
    """The parameters and buffers of a live module."""
    source = _from_state(module.state_dict(), {})
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


@dataclass(frozen=True)
class StateSource:
    """Tensors of a state dict in memory."""

    specs: Mapping[str, TensorSpec]
    state: Mapping[str, Tensor]
    layout: Mapping[str, Any] = field(default_factory=dict)
    attachments: Mapping[str, bytes] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    def read(self, name: str) -> Tensor:
        """The tensor called `name`."""
        return self.state[name].detach().resolve_conj().resolve_neg().contiguous()

    def digest(self) -> str:
        """xxh3-128 of names and values."""
        state = xxhash.xxh3_128()
        for name in self.specs:
            state.update(name.encode())
            state.update(self.read(name).cpu().reshape(-1).view(torch.uint8).numpy().data)
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


def check_name(name: str) -> None:
    """**Raises** `CheckpointError` for the name of a tensor that no file can hold."""
    if name.startswith("\0") or name != name.encode(errors="replace").decode():
        raise CheckpointError(f"a tensor is called {name!r}: rename it, names are text that does not begin with NUL")


def _dtype(name: str, path: Path, tensor: str) -> torch.dtype:
    try:
        return _DTYPES[name]
    except KeyError:
        raise CheckpointError(f"{path}: tensor {tensor} has dtype {name}; known are {', '.join(_DTYPES)}") from None


_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64, "BOOL": torch.bool, "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


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
                f"{folder}: expected {INDEX} or exactly one .safetensors file, found {len(shards)}; "
                "name one file, or convert .bin files with save_pretrained(safe_serialization=True)"
            )
    attachments = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.suffix not in WEIGHT_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    source = _open_files({shard: folder / shard for shard in shards}, attachments)
    names = {shard: [name for name, path in source.files.items() if path.name == shard] for shard in shards}
    return replace(source, layout={**source.layout, "shards": names})


def _open_pickle(path: Path) -> StateSource:
    try:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the format before torch 1.6 cannot be mapped
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with path.open("rb") as stream:
            if stream.read(1) not in (b"P", b"\x80"):
                raise CheckpointError(f"{path} is damaged or no torch checkpoint ({error})") from error
        raise CheckpointError(
            f"{path} holds more than tensors, and unpickling it could run any code. If you trust its author, "
            f"convert it once: python -c \"import torch; x = torch.load('{path.name}', weights_only=False); "
            f"torch.save(x.state_dict() if hasattr(x, 'state_dict') else x.get('state_dict', x), 'converted.pt')\""
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged or no torch checkpoint ({error})") from error
    return _from_state(_unwrap(content, path), {})


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(3):
        inner = content if isinstance(content, Mapping) else {}
        key = next((key for key in WRAPPERS if isinstance(inner.get(key), Mapping)), None)
        if key is None and any(isinstance(value, Tensor) for value in inner.values()):
            break
        if key is None:
            has = ", ".join(map(str, list(inner)[:8])) or type(content).__name__
            raise CheckpointError(f"{path}: no state dict found in it (it has: {has}); save model.state_dict()")
        content = inner[key]
    nested = [str(name) for name, value in content.items() if isinstance(value, Mapping)]
    if nested or any(not isinstance(name, str) for name in content):
        raise CheckpointError(
            f"{path}: a state dict maps names to tensors, this has {', '.join(nested[:5]) or 'names that are no text'} "
            "as well; save model.state_dict() alone"
        )
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _from_state(state: Mapping[str, Tensor], layout: Mapping[str, Any]) -> StateSource:
    specs: dict[str, TensorSpec] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, value in state.items():
        if value.layout != torch.strided or value.is_quantized:
            raise CheckpointError(f"tensor {name} is sparse or quantised ({value.layout}): give dense tensors")
        if value.is_meta:
            raise CheckpointError(f"tensor {name} has no values (meta device): load the weights first")
        if value.dtype not in _DTYPES.values() and value.dtype != torch.complex128:
            raise CheckpointError(f"tensor {name} has dtype {value.dtype}; known are {', '.join(_DTYPES)}")
        check_name(name)
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() and key in seen:
            aliases[name] = seen[key]
        else:
            seen[key] = name
            specs[name] = TensorSpec(value.shape, value.dtype)
    if not specs:
        raise CheckpointError("no tensors in it")
    return StateSource(specs, state, layout, {}, aliases)
