"""Checkpoints that torch.save wrote: `.pt`, `.pth.tar`, `.ckpt`, `.bin`, `.pkl`, or without a suffix.

Nothing in them is executed: they are read with `weights_only=True` only, and objects of a few well-known classes that
hold settings (`INERT`) become placeholders that keep nothing.
"""

import io
import json
import logging
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from .foreign import entries, kind_of
from .state import StateSource, from_state
from .wrapping import envelope, find_state, named, state_at

PICKLE_INDEX = "pytorch_model.bin.index.json"
FREE, GROWTH = 1 << 26, 50  # bytes of tensors that every file may have, and per byte of it
INERT = (
    *("argparse.Namespace", "types.SimpleNamespace", "numpy.dtype", "numpy.ndarray"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"pathlib{x}.{y}Path" for x in ("", "._local") for y in ("Posix", "Windows", "PurePosix", "PureWindows")),
    *(f"datetime.{name}" for name in ("datetime", "date", "timedelta")),
)
DICTS = (
    *(f"{package}.utilities.parsing.AttributeDict" for package in ("pytorch_lightning", "lightning.pytorch")),
    *(f"{package}.utilities.data.AttributeDict" for package in ("lightning_fabric", "lightning.fabric")),
)


_ALLOCATES = re.compile(rb"builtin(s|__)\nbytearray\n")  # the one call with a number that torch would make


class Unread:
    """Stands for an object that was not made, because making it would run its class's code."""

    def __init__(self, *args: Any, **fields: Any) -> None:
        pass

    def __new__(cls, *args: Any, **fields: Any) -> "Unread":
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


_STANDINS: list[Any] = [(type(name.rpartition(".")[2], (Unread,), {}), name) for name in INERT]
_STANDINS += [(OrderedDict, name) for name in DICTS]


def open_pickle(path: Path, key: str | None) -> StateSource:
    """The state dict in a pickle, with what is around it in its layout; `key` chooses one of several.

    **Raises** `CheckpointError` naming the file: damaged, unsafe, or no (or more than one) state dict in it.
    """
    content = _content(path)
    try:
        way, others = find_state(content, key)
        layout, dropped = envelope(content, way)
        source = from_state(state_at(content, way), layout)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    _check_size(path, sum(spec.shape.numel() * spec.dtype.itemsize for spec in source.specs.values()))
    rest = [f'not {named(other)} (key="{".".join(other)}" reads that)' for other in others[:8]]
    said = [", ".join([f"reads {named(way)}", *rest])] if way else []
    lost = [
        f"{'.'.join(gone)} ({why})" for gone, why in dropped.items() if not any(o[: len(gone)] == gone for o in others)
    ]
    said += [f"left out: {', '.join(lost[:8])}{f' and {len(lost) - 8} more' if len(lost) > 8 else ''}"] if lost else []
    if said:
        logging.getLogger("tersenet").info("%s: %s", path.name, "; ".join(said))
    return source


def open_pickle_shards(folder: Path, attachments: Mapping[str, bytes]) -> StateSource:
    """The pickles of a Hugging Face folder as one source: those that `pytorch_model.bin.index.json` names, or
    `pytorch_model.bin` alone. Its layout lists the tensors of every shard.

    **Raises** `CheckpointError`.
    """
    index = folder / PICKLE_INDEX
    names = ["pytorch_model.bin"]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError, OSError) as error:
            raise CheckpointError(f"{index} is not an index of shards ({error!r})") from error
    missing = [
        name for name in names if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file()
    ]
    if missing or not names:
        raise CheckpointError(f"{index} names shards that are not in the folder: {', '.join(map(str, missing[:5]))}")
    state: dict[str, torch.Tensor] = {}
    shards: dict[str, list[str]] = {}
    for name in names:
        part = open_pickle(folder / name, None)
        if twice := sorted(set(part.state) & set(state)):
            raise CheckpointError(f"{folder / name}: tensor {twice[0]} is also in another shard")
        state |= part.state
        shards[name] = list(part.state)
    return replace(from_state(state, {"shards": shards}), attachments=attachments)


def _content(path: Path) -> Any:
    """What is in the pickle. **Raises** `CheckpointError`."""
    mapped = False
    if kind_of(path) == "zip":
        inside = entries(path)
        mapped = all(entry.compress_type == zipfile.ZIP_STORED for entry in inside)
        _check_size(path, sum(entry.file_size for entry in inside))
    if _ALLOCATES.search(_pickle_of(path)):
        raise CheckpointError(f"{path} asks for a bytearray, as forged files do to exhaust memory: leave it out of it")
    try:
        with torch.serialization.safe_globals(_STANDINS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of other protocols before it refuses them
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise _unsafe(path, error) from error
    except MemoryError as error:
        raise CheckpointError(f"{path} asks for more memory than there is: it is damaged or forged") from error
    except Exception as error:  # a forged pickle can make torch raise anything
        why = str(error).partition("\n")[0][:200] or type(error).__name__
        raise CheckpointError(f"{path} is damaged or no torch checkpoint ({why}): fetch or save it again") from error


def _pickle_of(path: Path) -> bytes:
    """What is unpickled (before torch 1.6 with the tensors after it). **Raises** `CheckpointError`."""
    if kind_of(path) == "pickle":
        return path.read_bytes()
    try:
        with zipfile.ZipFile(path) as archive:
            return b"\n".join(
                archive.read(entry) for entry in archive.infolist() if entry.filename.lower().endswith("/data.pkl")
            )
    except Exception as error:  # zipfile raises many kinds for forged entries
        raise CheckpointError(f"{path} is damaged or no torch checkpoint ({error}): fetch or save it again") from error


def _check_size(path: Path, size: int) -> None:
    most = max(FREE, GROWTH * path.stat().st_size)
    if size > most:
        raise CheckpointError(
            f"{path} has {path.stat().st_size:,} bytes and claims {size:,} bytes of content (at most {most:,} are "
            "taken): save it again with torch.save, which does not compress, and with contiguous tensors"
        )


def _unsafe(path: Path, error: Exception) -> CheckpointError:
    trust = "and unpickling it could run any code. If you trust its author, make a checkpoint of it once: python -c"
    protocol, whole = _head_of(path)
    if protocol > 3:
        what = f"was pickled with protocol {protocol}, which torch does not read safely,"
        code = f"torch.save(torch.load('{path.name}', weights_only=False), 'weights.pt')"
    elif whole is not None:
        what = f"is a whole pickled {whole}, not a state dict,"
        code = f"torch.save(torch.load('{path.name}', weights_only=False).state_dict(), 'weights.pt')"
    elif found := re.search(r"(?:GLOBAL|function|create new object for|but got) (\S+)", str(error)):
        what = f"holds more than tensors ({found[1][:80]}),"
        code = (
            f"x = torch.load('{path.name}', weights_only=False); torch.save({{k: v.state_dict() if hasattr(v, "
            "'state_dict') else v for k, v in x.items() if hasattr(v, 'state_dict') or isinstance(v, (dict, "
            "torch.Tensor))}, 'weights.pt')"
        )
    else:
        why = re.search(r"WeightsUnpickler error: (.{1,200})", str(error))
        return CheckpointError(
            f"{path} is damaged or no torch checkpoint ({why[1] if why else str(error)[:200]}): fetch or save it again"
        )
    return CheckpointError(f'{path} {what} {trust} "import torch; {code}"')


def _head_of(path: Path) -> tuple[int, str | None]:
    """The protocol of a pickle, and the class of which it is one whole object (None for a dict)."""
    try:
        stream = io.BytesIO(_pickle_of(path))
        if kind_of(path) == "pickle":  # before torch 1.6: three pickles of one number each come first
            for _ in range(3):
                deque(pickletools.genops(stream), maxlen=0)
        parts = pickletools.genops(stream)
        protocol = next(parts)[1]
        skipped = ("MARK", "BINUNICODE", "BINPUT")  # before 1.6 a class stands in a tuple ("module", class, ...)
        code, argument, _ = next(part for part in parts if part[0].name not in skipped)
    except (ValueError, StopIteration):
        return 0, None
    place, _, name = str(argument).partition(" ")
    whole = f"{place}.{name}" if code.name == "GLOBAL" and place != "collections" else None
    return protocol if isinstance(protocol, int) else 0, whole
