"""Blocks of other tools, as these make them, bit for bit (ggml-quants of llama.cpp; NF4 of bitsandbytes).

| format | weights in a block | scale | code |
|---|---|---|---|
| q8_0 | 32 | fp16 of `d = max|w| / 127` | `round(w / d)`, halves away from zero |
| q4_0 | 32 | fp16 of `d = m / -8`, m the weight of the largest magnitude | `trunc(w / d + 8.5)`, at most 15, minus 8 |
| q4_1 | 32 | fp16 of `d = (max - min) / 15`, and fp16 of min | `trunc((w - min) / d + 0.5)` |
| nf4 | 64 | fp32 of `d = max|w|` | the level of NF4 nearest to `w / d` |

`w / d` is `w * (1 / d)` in the first three, in fp32, before d is rounded. Blocks follow each other along the last axis;
where it is no multiple of a block (which those tools then leave alone), they run over all of a row, whose last one may
be short.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ...core.blocks import NF4, Blocks, bits
from ...core.model import QTensor
from ...errors import WeightError
from ...network.kept import check_finite

Made = tuple[Tensor, Tensor, Tensor | None]  # codes, scale, offset of blocks [blocks, size]
PIECE = 1 << 20  # weights that are rounded at a time


def in_blocks(name: str, tensor: Tensor, kind: str) -> QTensor:
    """`tensor` (called `name` in errors) in the blocks of a format. **Raises** `WeightError` for a NaN, an infinity or
    a weight whose scale fp16 cannot hold."""
    check_finite(name, tensor)
    size, make = FORMATS[kind]
    rows = tensor.flatten(1)
    count, row = rows.shape
    short = -row % size
    step = max(1, PIECE // row)
    found: list[Made] = []
    for start in range(0, count, step):
        part = rows[start : start + step].float()
        if short:  # the last block repeats its last weight, which changes neither extremes nor codes
            part = torch.cat([part, part[:, -1:].expand(-1, short)], 1)
        codes, scale, offset = make(part.reshape(-1, size))
        codes = codes.to(torch.int8).reshape(len(part), -1)[:, :row]
        shape = len(part), -1
        found.append((codes, scale.reshape(shape), None if offset is None else offset.reshape(shape)))
    codes, scale = (torch.cat([each[i] for each in found]) for i in (0, 1))  # type: ignore[misc]
    offset = None if found[0][2] is None else torch.cat([each[2] for each in found if each[2] is not None])
    if not all(bool(field.isfinite().all()) for field in (scale, offset) if field is not None):
        raise WeightError(f"tensor {name} has weights up to {tensor.abs().max():.3g}, too large for the fp16 of {kind}")
    grid = Blocks(bits(scale), None if offset is None else bits(offset), size, int(kind == "nf4"))
    return QTensor(codes.reshape(tensor.shape), grid, tensor.dtype)


def q8_0(blocks: Tensor) -> Made:
    """Eight bits, symmetric."""
    d = blocks.abs().amax(1, keepdim=True) / 127
    scaled = blocks * _inverse(d)
    size = scaled.abs()
    whole = size.floor()
    rounded = whole + torch.floor(2 * (size - whole))
    return scaled.sign() * rounded, d.half(), None


def q4_0(blocks: Tensor) -> Made:
    """Four bits, from -8 to 7; the weight of the largest magnitude is -8 steps, so a step may be negative."""
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    d = largest / -8
    codes = torch.trunc(blocks * _inverse(d) + 8.5).nan_to_num().clamp(0, 15) - 8
    return codes, d.half(), None


def q4_1(blocks: Tensor) -> Made:
    """Four bits between the least and the greatest."""
    low, high = blocks.amin(1, keepdim=True), blocks.amax(1, keepdim=True)
    d = (high - low) / 15
    codes = torch.trunc((blocks - low) * _inverse(d) + 0.5).nan_to_num().clamp(0, 15)
    return codes, d.half(), low.half()


def nf4(blocks: Tensor) -> Made:
    """Sixteen levels that are quantiles of a normal distribution."""
    levels = torch.tensor(NF4)
    largest = blocks.abs().amax(1, keepdim=True)
    scaled = (blocks / largest).nan_to_num()  # a block of zeros
    return torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2), largest, None


def _inverse(d: Tensor) -> Tensor:
    return torch.where(d == 0, torch.zeros_like(d), 1 / d)


FORMATS: dict[str, tuple[int, Callable[[Tensor], Made]]] = {
    "q8_0": (32, q8_0),
    "q4_1": (32, q4_1),
    "nf4": (64, nf4),
    "q4_0": (32, q4_0),
}
