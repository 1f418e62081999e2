"""A Hugging Face folder as one checkpoint: its shards as tensors, its other files as attachments.

A shard may be a symbolic link to any file: it is read as weights or not at all. Any other file is embedded as it is, so
one that lies outside the folder (through a link) is left out, but for the links of the Hugging Face cache into the
`blobs` of the same model.
"""

import json
import logging
import os
import warnings
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from ..errors import CheckpointError
from .names import ADAPTER, CODE, INDEXES, asked, check_index, check_layout, check_paths, hidden, suspect
from .pickled import open_pickle_shards
from .safe import FileSource, open_files
from .state import StateSource

INDEX = INDEXES[0]
OUTSIDE = "leads out of the folder"
NO_FILE = "no regular file"
RUNS = "can hold code"
DATA = "hidden, or other weights"


def open_folder(folder: Path, attach: tuple[str, ...] = ()) -> FileSource | StateSource:
    """The weights in `folder`, with its other files. `attach` are globs of files to take in that otherwise are not:
    code, pickles, other weights, hidden ones. What is left out is said in one line.

    An adapter beside a model is one of its other files; without a model it is the checkpoint.

    **Raises** `CheckpointError` if it is not clear which files are the weights, if they and their index differ, or for
    names that a `.terse` file cannot hold.
    """
    source = _weights(folder)
    shards = source.layout["shards"]
    attachments = other_files(folder, shards, attach)
    try:
        check_layout(source.layout, [*source.specs, *source.aliases], attachments)
    except ValueError as error:
        raise CheckpointError(f"{folder} has {error}: rename or move it") from error
    return replace(source, attachments=attachments)


def _weights(folder: Path) -> FileSource | StateSource:
    index = folder / INDEX
    if index.is_file():
        weight_map = _weight_map(index)
        source = _of(folder, sorted(set(weight_map.values())))
        if absent := sorted(set(weight_map) - set(source.specs)):
            shard = folder / weight_map[absent[0]]
            raise CheckpointError(f"{index} names {len(absent)} tensors that are not there ({absent[0]} in {shard})")
        _check(lambda: check_index(weight_map, source.layout["shards"]), index)
        return source
    found = sorted(path.name for path in folder.glob("*.safetensors"))
    base = [name for name in found if not (name == ADAPTER and (folder / "adapter_config.json").is_file())]
    if not base and any(folder.glob("pytorch_model.bin*")):
        return open_pickle_shards(folder, {})
    shards = [name for name in base if name == "model.safetensors"] or base or found
    if len(shards) != 1:
        raise CheckpointError(
            f"{folder}: expected {INDEX}, model.safetensors or exactly one .safetensors file, found {len(shards)}; "
            "name one file"
        )
    return _of(folder, shards)


def _weight_map(index: Path) -> dict[str, str]:
    try:
        found = json.loads(index.read_text("utf-8"))["weight_map"]
        shards = set(found.values())
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError, OSError) as error:
        raise CheckpointError(f"{index} is not an index of shards ({error!r})") from error
    if not shards or not all(isinstance(shard, str) and shard.endswith(".safetensors") for shard in shards):
        raise CheckpointError(f"{index} names no shards, or some that are no .safetensors files")
    _check(lambda: check_paths(sorted(shards)), index)
    if missing := sorted(shard for shard in shards if "/" in shard or not (index.parent / shard).is_file()):
        raise CheckpointError(f"{index} names shards that are not in the folder: {', '.join(missing[:5])}")
    return dict(found)


def _check(check: Callable[[], None], index: Path) -> None:
    try:
        check()
    except ValueError as error:
        raise CheckpointError(f"{index} does not fit its shards: {error}") from error


def _of(folder: Path, shards: list[str]) -> FileSource:
    source = open_files({shard: folder / shard for shard in shards})
    names: dict[str, list[str]] = {shard: [] for shard in shards}
    for name, path in source.files.items():
        names[path.name].append(name)
    return replace(source, layout={**source.layout, "shards": names})


def other_files(folder: Path, shards: Collection[str], attach: tuple[str, ...] = ()) -> dict[str, bytes]:
    """The files of a model folder beside its shards; one line says which are left out, and why."""
    files = _files(folder, bool(attach))
    roots, out = _roots(folder), {}
    for name in list(files):
        if name in shards:
            del files[name]
        elif (why := _why_out(name, files, roots, attach)) is not None:
            out[name] = why
    try:
        found = {name: path.read_bytes() for name, path in files.items() if name not in out}
    except OSError as error:
        raise CheckpointError(f"{folder}: {error.filename} cannot be read ({error.strerror})") from error
    if out:
        reasons = [
            f"{_some([name for name in out if out[name] == why])} ({why})" for why in dict.fromkeys(out.values())
        ]
        text = f"{folder.name}: left out: {'; '.join(reasons)}"
        if set(out.values()) & {RUNS, DATA}:
            text += '; attach="GLOB" takes such files in'
        if set(out.values()) - {DATA}:
            warnings.warn(text, stacklevel=6)
        else:
            logging.getLogger("tersenet").info("%s", text)
    return found


def _files(folder: Path, all_of_them: bool) -> dict[str, Path]:
    """Every file of a folder by its name in it; a link to a folder counts as a file, a hidden folder too, unless
    `all_of_them`."""

    def refuse(error: OSError) -> None:
        raise CheckpointError(f"{folder}: {error.filename} cannot be read ({error.strerror})") from error

    found: dict[str, Path] = {}
    for place, folders, files in os.walk(folder, onerror=refuse):
        closed = [name for name in folders if Path(place, name).is_symlink()]
        closed += [name for name in folders if name.startswith(".") and name not in closed and not all_of_them]
        folders[:] = sorted(set(folders) - set(closed))
        for name in (*files, *closed):
            path = Path(place, name)
            found[path.relative_to(folder).as_posix()] = path
    return dict(sorted(found.items()))


def _why_out(name: str, files: dict[str, Path], roots: list[Path], attach: tuple[str, ...]) -> str | None:
    path = files[name]
    if suspect(name, files) and not asked(name, attach):
        return RUNS if name.lower().endswith(CODE) and not hidden(name) else DATA
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return NO_FILE
    if not any(target.is_relative_to(root) for root in roots):
        return OUTSIDE
    return None if target.is_file() else NO_FILE


def _roots(folder: Path) -> list[Path]:
    """Where the files of a folder may really lie: in it; those of a snapshot in the cache also in its model's blobs."""
    root = folder.resolve()
    cached = root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--")
    return [root, root.parent.parent / "blobs"] if cached else [root]


def _some(names: list[str]) -> str:
    return ", ".join(map(ascii, names[:5])).replace("'", "") + (f" and {len(names) - 5} more" if len(names) > 5 else "")
