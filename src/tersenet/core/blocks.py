"""Blocks of consecutive weights with a scale each: what other tools call Q8_0, Q4_0, Q4_1 and NF4."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .grid import Grid, _by_group

# The 16 levels of NF4, as QLoRA (Dettmers et al. 2023) and bitsandbytes publish them.
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
FLOAT = {torch.int16: torch.float16, torch.int32: torch.float32}


@dataclass(frozen=True)
class Blocks(Grid):
    """`value = level * scale + offset`, in fp32 and rounded after every operation, one scale for every `group_size`
    consecutive weights of a row; `level` is the code itself (`levels` 0) or the code-th level of NF4 (`levels` 1).

    Scales and offsets are stored as integers, which the codec takes: the bits of fp16 (int16) or fp32 (int32) numbers.
    They may be negative or 0, as in the tools that write such blocks.

    **Shapes**: `scale` and `offset`, which may be absent, `[shape[0], ceil(row / group_size)]`, where a row is
    everything after axis 0 in C order.

    >>> Blocks(bits(torch.tensor([[0.5]]))).decode(torch.tensor([[-1, 2]]))
    tensor([[-0.5000,  1.0000]])
    """

    scale: Tensor
    offset: Tensor | None = None
    group_size: int = 32
    levels: int = 0

    def decode(self, codes: Tensor) -> Tensor:
        """fp32 values of integer `codes`, same shape."""
        values = torch.tensor(NF4)[codes.to(torch.int64)] if self.levels else codes.to(torch.float32)
        values.mul_(_by_group(numbers(self.scale), codes.shape, self.group_size))
        if self.offset is not None:
            values.add_(_by_group(numbers(self.offset), codes.shape, self.group_size))
        return values

    def part(self, dim: int, start: int, length: int) -> Grid:
        """The grid of some rows, or of some groups of a row."""
        if dim == 0:
            rows, groups = slice(start, start + length), slice(None)
        else:
            rows, groups = slice(None), slice(start // self.group_size, -(-(start + length) // self.group_size))
        offset = None if self.offset is None else self.offset[rows, groups]
        return replace(self, scale=self.scale[rows, groups], offset=offset)

    @property
    def run(self) -> int:
        """The elements of a group."""
        return self.group_size


def bits(values: Tensor) -> Tensor:
    """fp16 or fp32 numbers as integers of the same bits."""
    return values.contiguous().view(next(kind for kind, of in FLOAT.items() if of == values.dtype))


def numbers(integers: Tensor) -> Tensor:
    """The numbers of these bits, in fp32."""
    return integers.contiguous().view(FLOAT[integers.dtype]).to(torch.float32)
