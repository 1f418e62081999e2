"""Pictures in a folder by class, as a task: `FOLDER/CLASS/*.png`, or `FOLDER/{train,validation,test}/CLASS/*.png`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.task import Task
from ..errors import InputError, UsageError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
NAMES = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}
CALIBRATION = 512
Labelled = list[tuple[Path, int]]


@dataclass(frozen=True)
class Pictures:
    """Batches of pictures, read when they are asked for: the shorter side scaled to `size`, its middle cut out, bytes
    divided by 255, minus `mean`, over `std`."""

    files: Labelled
    size: int
    batch: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return -(-len(self.files) // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.files), self.batch):
            part = self.files[start : start + self.batch]
            yield torch.stack([self._read(path) for path, _ in part]), torch.tensor([label for _, label in part])

    def _read(self, path: Path) -> Tensor:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(path) as opened:
                picture = opened.convert("L" if len(self.mean) == 1 else "RGB")
        except (OSError, UnidentifiedImageError) as error:
            raise InputError(f"{path} cannot be read as a picture ({error}): move it out of the folder") from error
        scale = self.size / min(picture.size)
        width, height = (max(self.size, round(side * scale)) for side in picture.size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        picture = picture.resize((width, height)).crop((left, top, left + self.size, top + self.size))
        pixels = torch.from_numpy(np.array(picture)).reshape(self.size, self.size, -1).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std


def images(
    folder: str,
    size: int = 224,
    batch: int = 32,
    mean: str = "0.485,0.456,0.406",
    std: str = "0.229,0.224,0.225",
    seed: int = 0,
) -> Task:
    """Pictures in folders by class; the classes are numbered in the order of their names. One number in `mean` and
    `std` makes grey pictures.

    Without folders for the splits, half of the pictures are for training, a quarter each for validation and test, drawn
    by `seed`. Calibration pictures are the first ones of the training split.

    **Raises** `InputError` for a folder that is not laid out so, `UsageError` without Pillow.
    """
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise UsageError("pictures need Pillow: pip install 'tersenet[lab]'") from error
    place = Path(folder)
    if not place.is_dir():
        raise InputError(f"{folder} is no folder: give one with a folder of pictures for every class")
    found: dict[str, Any]
    given = {split: next((place / n for n in names if (place / n).is_dir()), None) for split, names in NAMES.items()}
    if given["train"] is not None and given["validation"] is not None:
        found = {split: _labelled(path, seed) for split, path in given.items() if path is not None}
    else:
        files = _labelled(place, seed)
        half, most = len(files) // 2, len(files) * 3 // 4
        found = {"train": files[:half], "validation": files[half:most], "test": files[most:]}
    found["calibration"] = found["train"][:CALIBRATION]
    levels, widths = (tuple(float(part) for part in str(text).split(",")) for text in (mean, std))
    splits: dict[str, Any] = {split: Pictures(files, size, batch, levels, widths) for split, files in found.items()}
    return Task(**splits, seed=seed)


def _labelled(place: Path, seed: int) -> Labelled:
    """Every picture with the number of its class, in an order drawn by `seed`. **Raises** `InputError`."""
    classes = sorted(path for path in place.iterdir() if path.is_dir())
    found = [
        (path, number)
        for number, folder in enumerate(classes)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in ENDINGS
    ]
    if len(classes) < 2 or len(found) < 8:
        raise InputError(
            f"{place} has {len(classes)} folders with {len(found)} pictures: expected a folder for every class, with "
            f"{', '.join(ENDINGS)} in it"
        )
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
    return [found[i] for i in order.tolist()]
