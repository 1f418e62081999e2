"""MNIST and CIFAR-10 as tasks, read from a folder: the published files, or the npz archives of the same images.

`TERSENET_DATA` names the folder (or `folder=`). MNIST: `mnist.npz` or the four idx files (also .gz). CIFAR-10:
`cifar10_jpeg.npz`, or the python pickles in `cifar-10-batches-py`. The last tenth of the training images is the
validation split; calibration images are the first ones of the training split.
"""

import gzip
import io
import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.task import Task
from ..errors import InputError, UsageError

CALIBRATION = 4096
Arrays = tuple[Tensor, Tensor]  # uint8 images [n, channels, height, width], labels [n]


@dataclass(frozen=True)
class Normalisation:
    """Bytes of pixels as floats: divided by 255, minus the mean of their channel, over its deviation."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: Tensor) -> Tensor:
        """**Shapes**: `[n, channels, height, width]`, kept."""
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std


CIFAR10 = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MNIST = Normalisation((0.1307,), (0.3081,))
UNIT = Normalisation((0.0,), (1.0,))  # in [0, 1]


class Images:
    """Batches of images as normalised floats; with `shift`, shuffled, shifted by up to that many pixels, and flipped
    if `flip`, anew in every round, by torch's global generator. Nothing is read before the first round."""

    def __init__(
        self,
        read: Callable[[], Arrays],
        part: slice,
        batch: int,
        normalised: Normalisation,
        shuffle: bool = False,
        shift: int = 0,
        flip: bool = False,
    ) -> None:
        self.read, self.part, self.batch, self.normalised = read, part, batch, normalised
        self.shuffle, self.shift, self.flip = shuffle, shift, flip

    def __len__(self) -> int:
        return -(-len(self.read()[1][self.part]) // self.batch)

    def __iter__(self) -> Iterator[Arrays]:
        images, labels = (part[self.part] for part in self.read())
        order = torch.randperm(len(labels)) if self.shuffle else torch.arange(len(labels))
        for index in order.split(self.batch):
            chosen = images[index]
            if self.shift:
                chosen = shifted(chosen, self.shift)
            if self.flip:
                chosen = torch.where(torch.rand(len(index), 1, 1, 1) < 0.5, chosen.flip(3), chosen)
            yield self.normalised(chosen), labels[index]


def shifted(images: Tensor, most: int) -> Tensor:
    """Every image shifted by up to `most` pixels each way, black where nothing was. **Shapes**: `[n, c, h, w]`,
    kept."""
    n, _, height, width = images.shape
    wide = torch.nn.functional.pad(images, (most,) * 4)
    rows = torch.randint(0, 2 * most + 1, (n, 1)) + torch.arange(height)
    columns = torch.randint(0, 2 * most + 1, (n, 1)) + torch.arange(width)
    return wide[torch.arange(n).view(n, 1, 1), :, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)


def cifar10(folder: str | None = None, batch: int = 128, augment: bool = True) -> Task:
    """CIFAR-10: 45,000 training images (shifted by up to 4 pixels and flipped), 5,000 for validation, 10,000 for test.

    **Raises** `UsageError` without a folder, `InputError` if it has no CIFAR-10 in it.
    """
    place = data_folder(folder)
    return _task(partial(read_cifar10, place), 45_000, batch, CIFAR10, {"shift": 4, "flip": True} if augment else {})


def mnist(folder: str | None = None, batch: int = 128, normalise: bool = True, shift: int = 0) -> Task:
    """MNIST: 54,000 training images, shifted by up to `shift` pixels, 6,000 for validation, 10,000 for test; pixels in
    [0, 1] if not normalised."""
    place = data_folder(folder)
    return _task(partial(read_mnist, place), 54_000, batch, MNIST if normalise else UNIT, {"shift": shift})


def _task(
    read: Callable[[str], Arrays], first: int, batch: int, normalised: Normalisation, changes: dict[str, Any]
) -> Task:
    train, test = partial(read, "train"), partial(read, "test")
    return Task(
        train=Images(train, slice(0, first), batch, normalised, shuffle=True, **changes),
        calibration=Images(train, slice(0, CALIBRATION), batch, normalised),
        validation=Images(train, slice(first, None), 500, normalised),
        test=Images(test, slice(None), 500, normalised),
    )


def data_folder(given: str | None) -> Path:
    """The folder with the data. **Raises** `UsageError` if none is named or there is none."""
    name = given or os.environ.get("TERSENET_DATA")
    if not name or not Path(name).is_dir():
        raise UsageError(
            f"no data folder ({name or 'none given'}): set TERSENET_DATA, or give --task-arg folder=FOLDER; "
            "CIFAR-10 comes from https://www.cs.toronto.edu/~kriz/cifar.html (python version), "
            "MNIST from https://ossci-datasets.s3.amazonaws.com/mnist"
        )
    return Path(name)


@lru_cache(maxsize=4)
def read_cifar10(folder: Path, split: str) -> Arrays:
    """uint8 images and labels of a split ("train", "test"). **Raises** `InputError` if they are not there."""
    pickles, archive = folder / "cifar-10-batches-py", folder / "cifar10_jpeg.npz"
    if pickles.is_dir():
        names = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
        parts = [_numbers_only((pickles / name).read_bytes()) for name in names]
        images = np.concatenate([part[b"data"] for part in parts]).reshape(-1, 3, 32, 32)
        labels = np.concatenate([part[b"labels"] for part in parts])
    elif archive.is_file():
        images, labels = _jpegs(archive, split)
    else:
        raise InputError(f"{folder} has neither cifar-10-batches-py nor cifar10_jpeg.npz: put CIFAR-10 there")
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))


def _jpegs(archive: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError("the JPEG archive needs Pillow: pip install pillow") from error
    with np.load(archive) as data:
        header, scan = data["header"].tobytes(), data[f"{split}_scan"].tobytes()
        ends, labels = data[f"{split}_offset"].tolist(), data[f"{split}_label"]
    files = (header + scan[a:b] for a, b in pairwise(ends))
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), labels


class _Numbers(pickle.Unpickler):
    """An unpickler that knows numpy arrays and nothing else, so that a data file cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"):
            return super().find_class(module, name)
        raise InputError(f"a data file asks for {module}.{name}: it is not CIFAR-10's")


def _numbers_only(data: bytes) -> Any:
    return _Numbers(io.BytesIO(data), encoding="bytes").load()


@lru_cache(maxsize=4)
def read_mnist(folder: Path, split: str) -> Arrays:
    """uint8 images `[n, 1, 28, 28]` and labels of a split. **Raises** `InputError` if they are not there."""
    archive, prefix = folder / "mnist.npz", "train" if split == "train" else "t10k"
    if archive.is_file():
        with np.load(archive) as data:
            images, labels = data[f"x_{split}"], data[f"y_{split}"]
    else:
        images, labels = (_idx(folder, f"{prefix}-{kind}") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    return torch.from_numpy(images.copy()).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))


def _idx(folder: Path, name: str) -> np.ndarray:
    found = [path for path in (folder / name, folder / f"{name}.gz", folder / "MNIST" / "raw" / name) if path.is_file()]
    if not found:
        raise InputError(f"{folder} has neither mnist.npz nor {name}: put MNIST there")
    data = gzip.decompress(found[0].read_bytes()) if found[0].suffix == ".gz" else found[0].read_bytes()
    if data[:3] != b"\0\0\x08":
        raise InputError(f"{found[0]} is no idx file of bytes")
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(data[3])]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
