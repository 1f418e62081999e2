"""Names of the files that a model folder consists of: which ones a `.terse` file may hold, and which must be asked for.

Numpy and torch stay out: `inspect` checks names, too.
"""

import os
import re
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
CONTAINER = "model.terse.safetensors"  # of a compressed folder
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
SHARDS = (".safetensors", ".bin")
WEIGHTS = (
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".nemo", ".mar", ".ot"),
    *(".pkl", ".pickle", ".joblib", ".dill", ".npy", ".npz"),
    *(".h5", ".hdf5", ".keras", ".msgpack", ".pb", ".tflite", ".onnx", ".mlmodel", ".gguf", ".ggml", ".terse"),
)
CODE = (
    *(".py", ".pyi", ".pyc", ".pyo", ".pyw", ".pyz", ".pyx", ".pyd", ".ipynb", ".whl", ".egg"),
    *(".so", ".dll", ".dylib", ".exe", ".com", ".scr", ".msi", ".app", ".wasm", ".jar", ".class", ".o", ".a"),
    *(".sh", ".bash", ".zsh", ".fish", ".csh", ".command", ".bat", ".cmd", ".ps1", ".vbs"),
    *(".js", ".mjs", ".cjs", ".pl", ".rb", ".php", ".lua", ".r", ".rdata", ".jl"),
    *(".cu", ".c", ".cc", ".cpp", ".h", ".mk", ".cmake"),
    *(".desktop", ".lnk", ".url", ".reg", ".hta"),
)
LONGEST, DEEPEST = 1024, 32  # bytes of a name, its parts
PART = 255  # bytes of one part
MISLEADING = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")  # text is not what it looks like


def container_of(path: Path) -> Path:
    """The file at `path`, or the container in the folder there."""
    return path / CONTAINER if os.path.isdir(path) else path


def check_paths(names: Iterable[str]) -> None:
    """**Raises** `ValueError` unless every name is a file of its own in one folder, on every system.

    >>> check_paths(["config.json", "tokens/vocab.txt"])
    """
    known: set[str] = set()
    for name in names:
        if (why := _problem(name)) is not None:
            raise ValueError(f"a file called {ascii(name)[:80]}, which {why}")
        if name in known:
            raise ValueError(f"two files called {ascii(name)[:80]}")
        known.add(name)
    for name in known:
        for end in (i for i, letter in enumerate(name) if letter == "/"):
            if name[:end] in known:
                raise ValueError(f"{ascii(name[:end])[:80]}, which is both a file and a folder")


def _problem(name: str) -> str | None:
    parts = name.split("/")
    if name != name.encode(errors="replace").decode():
        return "is no text"
    if MISLEADING.search(name):
        return "has control characters, or some that turn text around"
    if "\\" in name or ":" in name:
        return "is a path of Windows"
    if any(not part.rstrip(" .") for part in parts):  # empty, "." and "..", which Windows sees in ".. " as well
        return "leads out of its folder, or is no name"
    if len(name.encode()) > LONGEST or len(parts) > DEEPEST or any(len(part.encode()) > PART for part in parts):
        return f"is longer than {LONGEST} bytes, {DEEPEST} parts of {PART} bytes"
    return None


def check_layout(layout: Mapping[str, Any], tensors: Collection[str], attachments: Collection[str]) -> None:
    """**Raises** `ValueError` unless `layout` and `attachments` make a folder: every tensor (tied ones too) is in one
    shard, and no two files have one name."""
    shards, metadata = layout.get("shards", {}), layout.get("metadata", {})
    if not isinstance(shards, dict) or not isinstance(metadata, dict):
        raise ValueError("a layout that is none")
    for values in metadata.values():
        texts = [*values, *values.values()] if isinstance(values, dict) else [None]
        if not all(isinstance(text, str) and text == text.encode(errors="replace").decode() for text in texts):
            raise ValueError("a layout with metadata that is no text")
    check_paths([*shards, *attachments])
    for shard in shards:
        if "/" in shard or not shard.endswith(SHARDS):
            raise ValueError(f"a shard called {ascii(shard)[:80]}; it must end in {' or '.join(SHARDS)}")
    if not shards:
        return
    known, seen = set(tensors), set()
    for shard, names in shards.items():
        for name in names if isinstance(names, list) else [None]:
            if not isinstance(name, str) or name not in known:
                raise ValueError(f"a layout that names {ascii(name)[:80]}, which is no tensor of the file")
            if name in seen:
                raise ValueError(f"a layout that writes tensor {ascii(name)[:80]} twice (again in {ascii(shard)[:80]})")
            seen.add(name)
    if missing := sorted(known - seen):
        raise ValueError(f"a layout without {len(missing)} of the tensors ({ascii(missing[0])[:80]}, ...)")


def check_index(weight_map: Any, shards: Mapping[str, Collection[str]]) -> None:
    """**Raises** `ValueError` unless an index (tensor -> shard) says of every tensor in `shards` what they say.

    It may name tensors that are nowhere; it may not name other shards.
    """
    if not isinstance(weight_map, dict):
        raise ValueError("no weight_map")
    for shard, names in shards.items():
        for name in names:
            if weight_map.get(name, shard) != shard:
                raise ValueError(f"tensor {ascii(name)[:80]} is in {shard}, not in {ascii(weight_map[name])[:80]}")
    if foreign := {ascii(shard)[:80] for shard in weight_map.values() if shard not in shards}:
        raise ValueError(f"no shard is called {min(foreign)}")


def adapter(name: str, beside: Collection[str]) -> bool:
    """Whether `name` holds the weights of an adapter, with its settings beside it."""
    place, _, last = name.rpartition("/")
    return last == ADAPTER and (f"{place}/{ADAPTER_CONFIG}" if place else ADAPTER_CONFIG) in beside


def hidden(name: str) -> bool:
    """Whether a name, or a folder that it lies in, begins with a dot."""
    return any(part.startswith(".") for part in name.split("/"))


def suspect(name: str, beside: Collection[str]) -> bool:
    """Whether a file must be asked for by name: hidden, code, a pickle or other weights (but an adapter).

    >>> suspect("modeling_x.py", ()), suspect("config.json", ())
    (True, False)
    """
    return hidden(name) or (name.lower().endswith((*CODE, *WEIGHTS)) and not adapter(name, beside))


def asked(name: str, globs: Iterable[str]) -> bool:
    """Whether one of `globs` matches the name, or its last part."""
    return any(fnmatchcase(name, glob) or fnmatchcase(name.rpartition("/")[2], glob) for glob in globs)
