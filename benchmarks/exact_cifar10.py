"""The part of CIFAR-10 with exact pixels as a tersenet task: 3,000 images to calibrate on, 1,000 to validate,
1,000 to test on.

From `cifar10_lossless.npz` in the folder named by TERSENET_DATA: PNG sheets, an image in every row (`train_png_0` to
`train_png_3`, `test_png`), and `train_label`, `test_label`. The last 1,000 training images are the validation split.
"""

import io
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tersenet import Task
from tersenet.lab.images import CIFAR10


def batches(sheets: list[np.ndarray], labels: np.ndarray) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of 250 normalised images and their labels. **Shapes**: `[250, 3, 32, 32]`, `[250]`."""
    pixels = [np.asarray(Image.open(io.BytesIO(sheet.tobytes())).convert("RGB")) for sheet in sheets]
    x = torch.from_numpy(np.concatenate(pixels).reshape(-1, 32, 32, 3)).permute(0, 3, 1, 2)
    return list(zip(CIFAR10(x).split(250), torch.from_numpy(labels.astype(np.int64)).split(250), strict=True))


def make_task() -> Task:
    """The task. Needs TERSENET_DATA."""
    with np.load(Path(os.environ["TERSENET_DATA"]) / "cifar10_lossless.npz") as data:
        train = batches([data[f"train_png_{k}"] for k in range(4)], data["train_label"])
        test = batches([data["test_png"]], data["test_label"])
    return Task(calibration=train[:12], validation=train[12:], test=test)
