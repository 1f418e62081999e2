"""Decoding codes in pieces, so that a large tensor takes little memory beside its values."""

import torch
from torch import Tensor

from .grid import Grid

PIECE = 1 << 22  # elements that are decoded at a time


def decode_to(grid: Grid, codes: Tensor, dtype: torch.dtype) -> Tensor:
    """`grid.decode(codes)` rounded to `dtype`, with no more than a few million fp32 values beside the result.

    >>> from .grid import FixedPoint
    >>> decode_to(FixedPoint(-3), torch.tensor([-4, 1]), torch.float16)
    tensor([-0.5000,  0.1250], dtype=torch.float16)
    """
    if codes.numel() <= PIECE:
        return grid.decode(codes).to(dtype)
    out = torch.empty(codes.shape, dtype=dtype)
    _fill(grid, codes, out)
    return out


def _fill(grid: Grid, codes: Tensor, out: Tensor) -> None:
    """Decode `codes` into `out`, cut along their first dimension that is not 1 until the pieces are small."""
    if codes.numel() <= PIECE:
        out.copy_(grid.decode(codes))
        return
    dim = next(i for i, size in enumerate(codes.shape) if size > 1)
    if dim and grid.run is not None:
        _fill_row(grid, grid.run, codes.reshape(1, -1), out.view(1, -1))
        return
    size = codes.shape[dim]
    step = max(1, PIECE * size // codes.numel())
    for start in range(0, size, step):
        length = min(step, size - start)
        _fill(grid.part(dim, start, length), codes.narrow(dim, start, length), out.narrow(dim, start, length))


def _fill_row(grid: Grid, run: int, codes: Tensor, out: Tensor) -> None:
    """Decode one row, cut where runs end, or inside of one run."""
    start, row = 0, codes.shape[1]
    while start < row:
        whole = (start + PIECE) // run * run  # the last end of a run that is near enough
        aligned = whole > start and start % run == 0
        stop = min(row, whole if aligned else min(start + PIECE, (start // run + 1) * run))
        out[:, start:stop] = grid.part(1, start, stop - start).decode(codes[:, start:stop])
        start = stop
