"""Frames of wav files as a task without labels: a network is judged by how near its outputs are to the original's."""

import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.task import Task
from ..errors import InputError

QUIET = 0.02  # of the loudest sample of a file: frames that stay below it are left out
KINDS = {1: ("u1", 128.0, 128.0), 2: ("<i2", 0.0, 32768.0), 4: ("<i4", 0.0, 2147483648.0)}  # by bytes of a sample


def audio(
    folder: str, frame: int = 1024, hop: int = 512, n: int = 1000, batch: int = 100, normalise: bool = True
) -> Task:
    """Frames of `frame` samples, a new one after every `hop`, of the .wav files in a folder and in the folders there:
    at most `n` in every split, spread over its files. `normalise` makes every frame one of mean 0 and deviation 1.

    Files, in the order of their names, go to the splits in turn, so there must be four. Agreement, and what a drop is
    counted in, is one minus the relative squared error of the outputs.

    **Raises** `InputError` for fewer files, or for one that is no PCM of 8, 16 or 32 bits.
    """
    files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() == ".wav")
    if len(files) < 4:
        raise InputError(f"{folder} has {len(files)} .wav files: expected four or more, one for every split")
    splits: dict[str, Any] = {}
    for number, split in enumerate(("calibration", "train", "validation", "test")):
        frames = torch.cat([_frames(path, frame, hop) for path in files[number::4]])
        frames = frames[:: max(1, len(frames) // n)][:n]
        if len(frames) < 4:
            raise InputError(f"the files of the {split} split have {len(frames)} frames of {frame} samples: give more")
        if normalise:
            frames = frames - frames.mean(1, keepdim=True)
            frames = frames / frames.std(1, keepdim=True).clamp(min=1e-8)
        splits[split] = [(part,) for part in frames.split(batch)]
    return Task(**splits, agreement="relative", unit="points of 1 - relative error")


def samples(path: Path) -> Tensor:
    """What a wav file holds, its channels averaged, in [-1, 1]. **Raises** `InputError`."""
    try:
        with wave.open(str(path), "rb") as opened:
            kind, zero, most = KINDS[opened.getsampwidth()]
            raw = np.frombuffer(opened.readframes(opened.getnframes()), kind)
            channels = opened.getnchannels()
    except (wave.Error, EOFError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path} cannot be read as PCM of 8, 16 or 32 bits ({error!r}): convert it") from error
    whole = raw[: len(raw) // channels * channels].reshape(-1, channels).astype(np.float32)
    return torch.from_numpy((whole.mean(1) - zero) / most)


def _frames(path: Path, frame: int, hop: int) -> Tensor:
    """Those that are not quiet. **Shapes**: -> `[frames, frame]`."""
    wave_form = samples(path)
    if len(wave_form) < frame:
        return torch.empty(0, frame)
    frames = wave_form.unfold(0, frame, hop)
    return frames[frames.abs().amax(1) > QUIET * wave_form.abs().max()]
