"""The folder of a training: its checkpoint, its log, its scalars, the widths it chose; without one, nothing is kept."""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
import xxhash
from torch import nn

from ..core.method import Job, Method
from ..errors import InputError, KeyMismatchError, OutputError, UsageError
from ..files.atomic import replacing_file
from ..files.lock import locked
from ..files.terse import load
from .processes import is_main

EVERY = 120.0  # seconds between checkpoints
HASH = 16  # bytes of the hash (xxh3-128) that follows a checkpoint
DESCRIPTION, LAST, LOG, BITS = "run.json", "last.pt", "log.jsonl", "layer_bits.json"


class Run:
    """A training's folder, made or gone on with. `open_run` makes sure that it is nobody else's meanwhile."""

    def __init__(self, folder: Path, resumed: bool) -> None:
        self.folder, self.resumed = folder, resumed
        self._saved = time.monotonic()
        self._log = folder / LOG
        self._training = _training(folder) if is_main() else ""
        self._board = _board(folder) if is_main() else None
        self._state = _read(folder) if resumed else None
        if resumed and is_main():
            _shorten(self._log, 0 if self._state is None else self._state.pop("logged"))

    @property
    def state(self) -> dict[str, Any] | None:
        """What was saved last before this run, if anything."""
        return self._state

    @staticmethod
    def finished(folder: Path) -> dict[str, Any]:
        """The latent weights at the end of the training in another folder. **Raises** `UsageError` if it has no end,
        `InputError` if its checkpoint is damaged."""
        state = (_read(folder) if (folder / DESCRIPTION).is_file() else None) or {}
        if "finished" not in state:
            raise UsageError(
                f"{folder} holds no finished training: give a folder that a training with run= filled, or a .terse file"
            )
        latent: dict[str, Any] = state["finished"]
        return latent

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is minutes old."""
        return time.monotonic() - self._saved > EVERY

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint, so that a kill at any moment leaves the old one or the new one.

        **Raises** `OutputError` if it cannot be written; then the old one is still there.
        """
        logged = self._log.stat().st_size if self._log.is_file() else 0
        with replacing_file(self.folder / LAST, overwrite=True) as stream:
            hashing = _Hashing(stream)
            torch.save({**state, "training": self._training, "logged": logged}, cast(BinaryIO, hashing))
            stream.write(hashing.digest.digest())
        self._saved = time.monotonic()

    def write_bits(self, layer_bits: Mapping[str, int]) -> None:
        """Write the widths of weights, as `layer_bits` reads them. **Raises** `OutputError`."""
        if is_main():
            with replacing_file(self.folder / BITS, overwrite=True) as stream:
                stream.write(json.dumps({"layer_bits": dict(layer_bits)}, indent=1).encode())

    def log(self, step: int, **scalars: float) -> None:
        """Append a line to log.jsonl, and scalars for TensorBoard where it is installed. **Raises** `OutputError`."""
        line = json.dumps({"step": step, **{key: round(value, 6) for key, value in scalars.items()}}) + "\n"
        with _writing(self._log), self._log.open("a") as stream:
            stream.write(line)
        if self._board is not None:
            with _writing(self.folder):
                for key, value in scalars.items():
                    self._board.add_scalar(key, value, step)
                self._board.flush()


@contextmanager
def open_run(folder: str | Path, identity: Mapping[str, Any], resume: bool) -> Iterator[Run]:
    """A training's folder, which no other process may use meanwhile. `identity` (JSON) says which training it is.

    Of several processes that train together the main one makes and locks it.

    **Raises** `UsageError` if the folder holds a training and `resume` is not set, or holds none and it is, or holds
    another one; `InputError` if what it holds is damaged; `OutputError` if another process trains there, or it cannot
    be written.
    """
    folder = Path(folder)
    described = folder / DESCRIPTION
    if not is_main():
        yield Run(folder, resume)
        return
    if resume and not described.is_file():
        raise UsageError(f"{folder} holds no training to resume: begin one with run=RunFolder({str(folder)!r})")
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", f"the training in {folder}"):
        text = json.dumps(identity, indent=1, sort_keys=True, default=str)
        if not resume:
            if described.exists():
                raise UsageError(
                    f"{folder} already holds a training: give another folder, or go on with "
                    f"run=RunFolder({str(folder)!r}, resume=True)"
                )
            with replacing_file(described, overwrite=False) as stream:
                stream.write(text.encode())
        elif other := _other(described, json.loads(text)):
            raise UsageError(f"{folder} holds a training with other {', '.join(other)}: resume it as it was begun")
        yield Run(folder, resume)


@contextmanager
def run_of(method: Method, job: Job) -> Iterator[Run | None]:
    """The folder of a method's training on a checkpoint; None if nothing is to be kept. **Raises** as `open_run`."""
    asked = job.run
    if asked is not None and asked.start is not None and not asked.start.exists():
        raise UsageError(f"start={str(asked.start)!r}: there is nothing there")
    if asked is None or asked.folder is None:
        yield None
        return
    identity = {"method": method.name, **asdict(method), "input": job.source.digest(), "start": str(asked.start)}
    with open_run(asked.folder, identity, asked.resume) as run:
        yield run


def begin_with(network: nn.Module, start: Path) -> None:
    """Load the latent weights of a finished run folder, or the weights of a `.terse` file, into `network`.

    **Raises** `KeyMismatchError` if they are of another network, and as `Run.finished` and `load` do.
    """
    if start.is_dir():
        latent = Run.finished(start)
        try:
            network.load_state_dict(latent)
        except RuntimeError as error:
            why = " ".join(str(error).split())[:300]
            raise KeyMismatchError(f"{start} holds the training of another network: {why}") from error
        return
    begun = load(start)
    if begun.batch_norm != "keep":
        raise UsageError(
            f"{start} was written with bn={begun.batch_norm!r}, without batch-norm statistics, so nothing can be "
            "trained from it: start from its run folder, or write it with bn='keep'"
        )
    begun.apply_to(network, activations=False)


def _other(described: Path, identity: Mapping[str, Any]) -> list[str]:
    """The names of what the training in a folder has otherwise. **Raises** `InputError` if it cannot be read."""
    try:
        old = json.loads(described.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(described, str(error)) from error
    if not isinstance(old, dict):
        raise _damaged(described, "it describes no training")
    return sorted(key for key in {*old, *identity} if old.get(key) != identity.get(key))


def _read(folder: Path) -> dict[str, Any] | None:
    """The checkpoint in a folder, if there is one. **Raises** `InputError` if it is damaged or of another training."""
    path = folder / LAST
    if not path.is_file():
        return None
    try:
        if not _is_whole(path):
            raise _damaged(path, "its checksum is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # torch raises whatever comes of the bytes
        raise _damaged(path, str(error).splitlines()[0] if str(error) else repr(error)) from error
    if not isinstance(state, dict) or state.pop("training", None) != _training(folder):
        raise _damaged(path, f"it is no checkpoint of the training that {DESCRIPTION} describes")
    return state


class _Hashing:
    """A stream that hashes what is written to it, one byte after the other. `torch.load` does not mind what is after
    the end of its archive, and does not look at the checksums inside."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.digest = stream, xxhash.xxh3_128()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.stream.write(data)

    def flush(self) -> None:
        self.stream.flush()


def _is_whole(path: Path) -> bool:
    """Whether a checkpoint has the bytes that were written."""
    digest, left = xxhash.xxh3_128(), path.stat().st_size - HASH
    with path.open("rb") as stream:
        while left > 0 and (block := stream.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
        return left == 0 and stream.read() == digest.digest()


def _training(folder: Path) -> str:
    """Which training is in the folder: a hash of its description."""
    try:
        return hashlib.sha256((folder / DESCRIPTION).read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{folder / DESCRIPTION} cannot be read: {error.strerror or error}") from error


def _damaged(path: Path, why: str) -> InputError:
    return InputError(
        f"{path} is damaged ({why[:200]}): put a copy of it in its place, or begin the training again in another folder"
    )


def _shorten(log: Path, size: int) -> None:
    """Take away what was logged after the checkpoint: it will be logged again."""
    with _writing(log):
        if log.is_file() and log.stat().st_size > size:
            os.truncate(log, size)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # a ValueError: no name for a file
        raise OutputError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from error


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    with _writing(folder):
        return SummaryWriter(str(folder))
