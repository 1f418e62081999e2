"""CIFAR-10 as a tersenet task, from `cifar10_jpeg.npz` in the folder named by TERSENET_DATA.

The file holds 60,000 JPEGs that share one header (`header`; per split `SPLIT_scan`, `SPLIT_offset`, `SPLIT_label`).
Calibration images are the first 512 of the training split, validation images its last 5,000.
"""

import io
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tersenet import Task

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def images(file: Path, split: str, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised images and labels. **Shapes**: `[n, 3, 32, 32]`, `[n]`."""
    with np.load(file) as data:
        header, scan = data["header"].tobytes(), data[f"{split}_scan"]
        offset, label = data[f"{split}_offset"], data[f"{split}_label"]
    pixels = np.stack(
        [
            np.asarray(Image.open(io.BytesIO(header + scan[offset[i] : offset[i + 1]].tobytes())).convert("RGB"))
            for i in range(start, stop)
        ]
    )
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    return x.contiguous(), torch.from_numpy(label[start:stop].astype(np.int64))


class Split:
    """Batches of one split, decoded when they are first asked for."""

    def __init__(self, file: Path, split: str, start: int, stop: int) -> None:
        self.where = (file, split, start, stop)

    def __iter__(self):
        if not hasattr(self, "held"):
            self.held = images(*self.where)
        return iter(zip(self.held[0].split(250), self.held[1].split(250), strict=True))


def make_task() -> Task:
    """The task of the benchmarks. Needs TERSENET_DATA."""
    file = Path(os.environ["TERSENET_DATA"]) / "cifar10_jpeg.npz"
    return Task(
        test=Split(file, "test", 0, 10_000),
        validation=Split(file, "train", 45_000, 50_000),
        calibration=Split(file, "train", 0, 512),
    )
