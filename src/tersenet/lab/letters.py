"""A small transformer that predicts the next character of Python's standard library: text that is there already."""

import sysconfig
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.task import Batches, Task
from ..errors import InputError
from ..progress import progress

LENGTH = 64  # characters of a window
CHARACTERS = 128  # ASCII; others become spaces
TRAIN = ("argparse", "ast", "difflib", "doctest", "functools", "inspect", "optparse", "pickle", "shutil", "subprocess")
CALIBRATION, VALIDATION, TEST = ("tempfile", "threading"), ("pdb", "tokenize"), ("pydoc", "smtplib", "statistics")


class Block(nn.Module):
    """Causal attention and a perceptron, each on the norm of what it is added to."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        y = self.norm1(x)
        split = (n, length, self.heads, width // self.heads)
        query, key, value = (part(y).view(split).transpose(1, 2) for part in (self.query, self.key, self.value))
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(n, length, width))
        found: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return found


class Letters(nn.Module):
    """The transformer. **Shapes**: characters `[n, length]` -> logits of the next ones `[n, length, 128]`."""

    def __init__(self, width: int = 64, blocks: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CHARACTERS, width)
        self.position = nn.Embedding(LENGTH, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CHARACTERS)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1], device=x.device)
        logits: Tensor = self.head(self.norm(self.blocks(self.embedding(x) + self.position(places))))
        return logits


def windows(modules: tuple[str, ...], most: int) -> Tensor:
    """At most `most` windows from all over the sources of modules. **Shapes**: `[n, LENGTH + 1]`.

    **Raises** `InputError` where Python has no sources.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    try:
        text = "".join((folder / f"{name}.py").read_text("utf-8") for name in modules)
    except OSError as error:
        raise InputError(f"the text is the source of Python's standard library, which is not there: {error}") from error
    codes = torch.tensor(list(text.encode("ascii", "replace")))
    found = codes[: len(codes) // (LENGTH + 1) * (LENGTH + 1)].view(-1, LENGTH + 1)
    return found[:: max(1, len(found) // most)][:most]


def make_task(batch: int = 32) -> Task:
    """Windows of modules, other modules in every split; the score is the share of characters that are predicted."""

    def part(modules: tuple[str, ...], most: int) -> Batches:
        return [(each[:, :-1], each[:, 1:]) for each in windows(modules, most).split(batch)]

    return Task(
        train=part(TRAIN, 8192),
        calibration=part(CALIBRATION, 128),
        validation=part(VALIDATION, 512),
        test=part(TEST, 512),
        loss=_loss,
        agreement="classes",
    )


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.mT, targets)


def train(module: nn.Module, task: Task, steps: int = 300, seed: int = 0) -> nn.Module:
    """Train `module` on windows of the training split: AdamW with a one-cycle schedule, 16 windows a step."""
    inputs, targets = (torch.cat(parts) for parts in zip(*task.split("train"), strict=True))
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(module.parameters(), lr=4e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    module.train()
    for step in range(steps):
        index = torch.randint(len(inputs), (16,), generator=generator)
        loss = task.loss(module(inputs[index]), targets[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress("training on text", step + 1, steps)
    return module.eval()
