"""Entropies: how many bits codes will take, and the step that takes a given number of bits."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

LARGEST = 2.0**120  # step
MOST = 2.0**40  # magnitude of a code, in estimates


def entropy(codes: Tensor) -> float:
    """Order-0 entropy of integer `codes` in bits per code.

    >>> entropy(torch.tensor([0, 1, 0, 1]))
    1.0
    """
    values = codes.reshape(-1).to(torch.int64)
    span = int(values.max() - values.min()) + 1
    counts = torch.bincount(values - values.min()) if span < 1 << 22 else torch.unique(values, return_counts=True)[1]
    p = counts[counts > 0].to(torch.float64) / values.numel()
    return max(0.0, -float((p * p.log2()).sum()))


def rounded_entropy(sample: Tensor, step: float) -> float:
    """Entropy of `round(weights / step)` in bits per weight, estimated from a sample of the weights.

    Below a 32nd of the spread a sample has too few values per level; there, every halving of the step costs one bit.
    """
    coarse = float(sample.std()) / 32 if sample.numel() > 1 else 0.0
    if step >= coarse or not coarse > 0:
        return entropy(torch.round(sample / step).clamp(-MOST, MOST))
    return entropy(torch.round(sample / coarse)) + math.log2(coarse / step)


def solve_step(bits: Callable[[float], float], goal: float) -> float:
    """The smallest step c (2^-140 to 2^120, bisected) with `bits(c) <= goal`; `bits` falls with c.

    **Returns** `inf` if even the largest step takes more.
    """
    low, high = -140.0, math.log2(LARGEST)
    if bits(2.0**high) > goal:
        return math.inf
    for _ in range(28):
        middle = (low + high) / 2
        low, high = (low, middle) if bits(2.0**middle) <= goal else (middle, high)
    return float(np.float32(2.0**high))
