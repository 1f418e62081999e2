"""A small network and its checkpoint through a `.terse` file, for the tests of reading and writing checkpoints."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import tersenet
from tersenet import Checkpoint
from tersenet.api import compress_file
from tersenet.files.checkpoint_write import write_checkpoint
from tersenet.methods.rtn import Rtn

State = dict[str, Tensor]


class Net(nn.Module):
    """A convolution, a batch norm and a linear layer, with a mask and indices as buffers."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))
        self.fc = nn.Linear(8, 64)
        self.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))
        self.register_buffer("steps", torch.arange(5))


def round_trip(path: Path, back: Path, **options: Any) -> Any:
    """The checkpoint through a `.terse` file that keeps every value, as torch.load gives it."""
    small = path.with_name(path.name + ".terse")
    compress_file(Checkpoint(path, **options), small, Rtn(include=("fc.weight",), exclude=("*",), kept_dtype="exact"))
    write_checkpoint(tersenet.load(small), back)
    return torch.load(back, weights_only=True) if back.suffix != ".safetensors" else load_file(back)


def same(a: Any, b: Any) -> bool:
    """Whether two contents are equal, types included."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and set(a) == set(b) and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and repr(a) == repr(b)


def front(prefix: str, state: State) -> State:
    """`state` with a prefix before every name."""
    return {prefix + name: value for name, value in state.items()}
