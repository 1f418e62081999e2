"""The folder of a training: its checkpoint, its log, its scalars. Without a folder nothing is kept."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..core.method import Job, Method
from ..errors import UsageError
from ..files.atomic import replacing_file

EVERY = 120.0  # seconds between checkpoints


class Run:
    """A training's folder. `identity` (JSON) says which training it is: another one may not go on in the folder.

    **Raises** `UsageError` if the folder holds a training and `resume` is not set, or holds none and it is, or holds
    another one.
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, Any], resume: bool) -> None:
        self.folder = Path(folder)
        described = self.folder / "run.json"
        text = json.dumps(identity, indent=1, sort_keys=True, default=str)
        if resume != described.is_file():
            raise UsageError(
                f"{folder} holds no training to resume: give --run to begin one"
                if resume
                else f"{folder} already holds a training: go on with --resume {folder}, or give another folder"
            )
        if resume:
            old, new = json.loads(described.read_text()), json.loads(text)
            other = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
            if other:
                raise UsageError(f"{folder} holds a training with other {', '.join(other)}: resume it as it was begun")
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            described.write_text(text)
        self._saved = time.monotonic()
        self._board = _board(self.folder)

    @property
    def state(self) -> dict[str, Any] | None:
        """What was saved last, if anything."""
        path = self.folder / "last.pt"
        found: dict[str, Any] | None = torch.load(path, weights_only=True) if path.is_file() else None
        return found

    @staticmethod
    def finished(folder: Path) -> dict[str, Any]:
        """The latent weights at the end of the training in another folder. **Raises** `UsageError` if it has no end."""
        path = folder / "last.pt"
        state = torch.load(path, weights_only=True) if path.is_file() else {}
        if "finished" not in state:
            raise UsageError(f"{folder} holds no finished training: give a folder that --run filled, or a .terse file")
        latent: dict[str, Any] = state["finished"]
        return latent

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is minutes old."""
        return time.monotonic() - self._saved > EVERY

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint, so that a kill at any moment leaves the old one or the new one."""
        with replacing_file(self.folder / "last.pt", force=True) as stream:
            torch.save(dict(state), stream)
        self._saved = time.monotonic()

    def log(self, step: int, **scalars: float) -> None:
        """Append a line to log.jsonl, and scalars for TensorBoard where it is installed."""
        with (self.folder / "log.jsonl").open("a") as stream:
            stream.write(json.dumps({"step": step, **{key: round(value, 6) for key, value in scalars.items()}}) + "\n")
        if self._board is not None:
            for key, value in scalars.items():
                self._board.add_scalar(key, value, step)
            self._board.flush()


def run_of(method: Method, job: Job) -> Run | None:
    """The folder of a method's training on a checkpoint; None if nothing is to be kept. **Raises** `UsageError`."""
    given = job.run
    if given is None:
        return None
    if given.start is not None and not given.start.exists():
        raise UsageError(f"--from {given.start}: there is nothing")
    identity = {"method": method.name, **asdict(method), "input": job.source.digest(), "start": str(given.start)}
    return None if given.folder is None else Run(given.folder, identity, given.resume)


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
