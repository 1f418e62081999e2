"""Tensors that look as trained weights do, however they were treated since: cases of benchmarks/tables.py."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import init


def smooth(length: int, width: int) -> Tensor:
    """Sinusoids, as trained positions resemble them. **Shapes**: `[length, width]`."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)


def spread(*shape: int) -> Tensor:
    """What trained weights may look like: rows of different sizes, correlated columns, heavy tails."""
    found = torch.randn(*shape) * torch.rand(shape[0], *[1] * (len(shape) - 1)).exp()
    return (found + 0.5 * found.roll(1, -1)) * (1 + torch.randn(*shape) ** 2) * 0.02


def rounded(weight: Tensor, bits: int) -> Tensor:
    """A weight that was quantised before."""
    step = weight.abs().max() / max(1, 2 ** (bits - 1) - 1)
    return (weight / step).round() * step if bits > 1 else weight.sign() * weight.abs().mean()


def pruned(weight: Tensor, share: float) -> Tensor:
    """A weight without its smallest elements."""
    return weight * (weight.abs() > weight.abs().flatten().kthvalue(int(share * weight.numel())).values)


def rows_out(weight: Tensor, every: int) -> Tensor:
    """A weight of which one row of `every` is left."""
    return weight * (torch.arange(len(weight)) % every == 0)[:, None]


def made(fill: Callable[..., Tensor], *shape: int) -> Callable[[], Tensor]:
    """A tensor of a shape, filled in place."""
    return lambda: fill(torch.empty(*shape))


WEIGHTS: dict[str, Callable[[], Tensor]] = {
    "normal 0.02, 768 x 768": lambda: init.normal_(torch.empty(768, 768), std=0.02),
    "normal 0.02, 30522 x 128": lambda: init.normal_(torch.empty(30522, 128), std=0.02),
    "embedding with a zero row": lambda: torch.cat([torch.zeros(1, 128), torch.randn(5000, 128)]),
    "embedding, the last quarter one row": lambda: torch.cat(
        [torch.randn(3000, 64), torch.randn(1, 64).expand(1000, 64)]
    ),
    "embedding, three quarters one row": lambda: torch.cat(
        [torch.randn(1000, 64), torch.randn(1, 64).expand(3000, 64)]
    ),
    "truncated normal, 1 x 197 x 768": made(init.trunc_normal_, 1, 197, 768),
    "Xavier, 64 x 64": made(init.xavier_uniform_, 64, 64),
    "Kaiming, 64 x 3 x 7 x 7": made(init.kaiming_normal_, 64, 3, 7, 7),
    "Kaiming, 128 x 1 x 512": made(init.kaiming_uniform_, 128, 1, 512),
    "orthogonal, 256 x 256": made(init.orthogonal_, 256, 256),
    "16 x 16": made(init.kaiming_uniform_, 16, 16),
    "sparse init, 90 %": lambda: init.sparse_(torch.empty(256, 256), 0.9),
    "smooth kernels 64 x 1 x 512": lambda: torch.randn(64, 1, 512).cumsum(2).cumsum(2) * torch.hann_window(512),
    "smooth kernels 64 x 1 x 512, bf16": lambda: (
        torch.randn(64, 1, 512).cumsum(2).cumsum(2) * torch.hann_window(512)
    ).bfloat16(),
    "smooth positions 512 x 64, bf16": lambda: (smooth(512, 64) + 0.03 * torch.randn(512, 64)).bfloat16(),
    "smooth positions 512 x 64": lambda: smooth(512, 64) + 0.01 * torch.randn(512, 64),
    "inflated 64 x 3 x 5 x 7 x 7": lambda: torch.randn(64, 3, 1, 7, 7).expand(64, 3, 5, 7, 7).contiguous() / 5,
    "grey filters 64 x 3 x 7 x 7": lambda: torch.randn(64, 1, 7, 7).expand(64, 3, 7, 7).contiguous(),
    "heads repeated 4 times": lambda: torch.randn(2, 1, 64, 512).expand(2, 4, 64, 512).reshape(512, 512),
    "padded 64 x 8 x 3 x 3": lambda: torch.cat([torch.randn(64, 3, 3, 3), torch.zeros(64, 5, 3, 3)], 1),
    "padded 64 x 64 of 64 x 3": lambda: torch.cat([torch.randn(64, 3), torch.zeros(64, 61)], 1),
    "block diagonal, 8 blocks": lambda: torch.block_diag(*torch.randn(8, 32, 32)),
    "triangular (masked layers)": lambda: torch.randn(256, 256).tril(),
    "first differences of positions": lambda: smooth(64, 64).diff(dim=0) + 1e-2 * torch.randn(63, 64),
    **{f"spread, {bits} bits": (lambda bits=bits: rounded(spread(256, 288), bits)) for bits in (1, 2, 3, 4, 8)},
    **{
        f"spread 64 x 3 x 7 x 7, {bits} bits": (lambda bits=bits: rounded(spread(64, 3, 7, 7), bits))
        for bits in (1, 2, 3)
    },
    **{f"spread 16 x 16, {bits} bits": (lambda bits=bits: rounded(spread(16, 16), bits)) for bits in (1, 2, 3)},
    **{
        f"spread, {share:.1%} pruned": (lambda share=share: pruned(spread(256, 288), share))
        for share in (0.5, 0.9, 0.99, 0.999)
    },
    "spread, 90 % pruned, 2 bits": lambda: rounded(pruned(spread(256, 288), 0.9), 2),
    "spread, one row of 10 left": lambda: rows_out(spread(256, 288), 10),
    "spread, one row of 10 left, 1 bit": lambda: rows_out(rounded(spread(256, 288), 1), 10),
    "spread, 2 of 4": lambda: spread(256, 288) * (torch.rand(256, 72, 4).argsort(2) < 2).reshape(256, 288),
    "spread, fp16": lambda: spread(512, 512).half(),
    "spread, bf16": lambda: spread(512, 512).bfloat16(),
    "spread, fp8 in bf16": lambda: spread(512, 512).to(torch.float8_e4m3fn).bfloat16(),
    "codes of 8 bits as floats": lambda: torch.randint(-128, 128, (256, 256)).float(),
    "huge (1e20)": lambda: torch.randn(64, 64) * 1e20,
    "with a NaN": lambda: torch.randn(64, 64).index_fill(0, torch.tensor([3]), math.nan),
    "bias of 512": lambda: torch.randn(512),
    "norm near ones, 768": lambda: 1 + 1e-4 * torch.randn(768),
    "norm near ones, 768, bf16": lambda: (1 + 4e-3 * torch.randn(768)).bfloat16(),
    "scales near 1, 1 x 1 x 256, bf16": lambda: (1 + 4e-3 * torch.randn(1, 1, 256)).bfloat16(),
    "norm of ones, 768": lambda: torch.ones(768),
}

FRESH: dict[str, Callable[[], Tensor]] = {
    "zeros 768 x 8 (LoRA)": lambda: torch.zeros(768, 8),
    "ones 1 x 1 x 768": lambda: torch.ones(1, 1, 768),
    "constant 0.02": lambda: torch.full((64, 64), 0.02),
    "identity 64 x 64": lambda: init.eye_(torch.empty(64, 64)),
    "Dirac 64 x 64 x 3 x 3": made(init.dirac_, 64, 64, 3, 3),
    "zeros but for one row": lambda: torch.zeros(64, 64).index_copy(0, torch.tensor([5]), torch.randn(1, 64)),
}
