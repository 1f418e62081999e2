"""scikit-learn's handwritten digits: the data set that needs no download, and a network trained on it in seconds."""

import torch
from torch import Tensor, nn

from ..core.task import Batches, Task
from ..errors import UsageError


def load() -> tuple[Tensor, Tensor]:
    """1,797 images in a fixed shuffled order and their labels. **Shapes**: `[1797, 1, 8, 8]` in [-1, 1], `[1797]`."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UsageError("the digits need scikit-learn: pip install scikit-learn") from error
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(data.images, dtype=torch.float32)[order].unsqueeze(1) / 8 - 1
    return images, torch.tensor(data.target)[order]


def make_task(batch: int = 128) -> Task:
    """The digits as a task: 1,000 training, 100 calibration, 197 validation and 500 test images, disjoint."""
    images, labels = load()

    def part(start: int, stop: int) -> Batches:
        return list(zip(images[start:stop].split(batch), labels[start:stop].split(batch), strict=True))

    return Task(train=part(0, 1000), calibration=part(1000, 1100), validation=part(1100, 1297), test=part(1297, 1797))


def train(module: nn.Module, task: Task, epochs: int = 12, seed: int = 0) -> nn.Module:
    """Train `module` on the training split: AdamW with a one-cycle schedule, images shifted by up to a pixel."""
    batches = list(task.split("train"))
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=1e-2)
    steps = epochs * -(-len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    module.train()
    for _ in range(epochs):
        for index in torch.randperm(len(images), generator=generator).split(64):
            shift = torch.randint(-1, 2, (2,), generator=generator).tolist()
            loss = task.loss(module(torch.roll(images[index], shift, (2, 3))), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return module.eval()
