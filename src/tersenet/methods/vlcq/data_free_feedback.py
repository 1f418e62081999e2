"""Error compensation without data: what almost every network's inputs have in common, as a Hessian in closed form.

Inputs of a layer are mostly what a ReLU or a pooling left: their mean is not zero, and neighbours inside a convolution
kernel look alike. So the expected squared output error of a row of weight errors e is close to

    e^T H e,   H = I + a * sum over kernels k of R_k + b * 1 1^T

(R_k[i, j] = decay^|i - j| inside kernel k, 0 outside; for matrices only the last term). Quantising a row from left to
right, the best place for the next weight given the errors so far (GPTQ's feedback, the exact conditional minimum of the
quadratic form) is

    w_j + alpha_j * A + beta_j * S,   A = sum of decay^(j - i) e_i so far in this kernel, S = that of e_i in the row

with coefficients that depend on the position only: what later weights cost at best is a quadratic form of (A, S), found
from the last one backwards. Linear time, no matrices. The special case of whole sums driven to zero is the idea of
SQuant (Guo et al. 2022, arXiv 2202.07471). The values of a, b and decay are ours: see docs/design/0006 and 0018.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...codec.native import native
from ...errors import WeightError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Prior:
    """What inputs are taken to have in common: `kernel` is a, `mean` is b."""

    kernel: float = 1.0
    decay: float = 1.0
    mean: float = 0.3


POSITIVE = Prior()  # what a ReLU or a pooling leaves


@lru_cache(maxsize=64)
def feedback(columns: int, kernel: int, prior: Prior = POSITIVE) -> tuple[Floats, Floats]:
    """The coefficients alpha, beta of every column. **Shapes**: `[columns]` twice; `kernel` divides `columns`.

    >>> feedback(2, 1, Prior(0.0, 1.0, 1.0))[1].tolist()
    [0.3333333432674408, 0.5]
    """
    a, b = prior.kernel if kernel > 1 else 0.0, prior.mean
    alpha, beta = np.empty(columns, np.float32), np.empty(columns, np.float32)
    aa = both = ss = 0.0  # the least cost of what comes later is aa A^2 + 2 both A S + ss S^2
    for j in reversed(range(columns)):
        decay = 0.0 if j % kernel == kernel - 1 else prior.decay
        by_kernel = a + decay * (decay * aa + both)
        by_row = b + decay * both + ss
        own = 1 + a + b + decay * (decay * aa + 2 * both) + ss
        alpha[j], beta[j] = by_kernel / own, by_row / own
        aa = decay * decay * aa - by_kernel * by_kernel / own
        both = decay * both - by_kernel * by_row / own
        ss -= by_row * by_row / own
    return alpha, beta


def round_with_feedback(weight: Tensor, scale: float, kernel: int, prior: Prior = POSITIVE) -> Tensor:
    """Codes of `weight` on the grid of step `scale`, each rounded after the feedback of the errors before it.

    **Shapes**: `weight` `[rows, columns]` (any float dtype) -> int32 `[rows, columns]`; a kernel is `kernel`
    consecutive columns.

    **Raises** `WeightError` if a code does not fit 32 bits.
    """
    rows, columns = weight.shape
    alpha, beta = feedback(columns, kernel, prior)
    codes = np.empty((rows, columns), np.int32)
    step = max(1, (1 << 20) // columns)
    for start in range(0, rows, step):
        block = weight[start : start + step].to(torch.float32).contiguous().numpy()
        module = native()
        try:
            if module is None:
                codes[start : start + step] = _reference(block, scale, kernel, prior.decay, alpha, beta)
            else:
                module.round_with_feedback(block, scale, kernel, prior.decay, alpha, beta, codes[start : start + step])
        except ValueError as error:
            far = float(np.abs(block).max())
            raise WeightError(f"a weight of {far:g} on a grid of step {scale:g}: {error}; scale the weights") from error
    return torch.from_numpy(codes)


def _reference(
    block: Floats, scale: float, kernel: int, decay: float, alpha: Floats, beta: Floats
) -> npt.NDArray[np.int32]:
    codes, step = np.empty(block.shape, np.int32), np.float32(scale)
    in_kernel, in_row = np.zeros(len(block), np.float32), np.zeros(len(block), np.float32)
    for j in range(block.shape[1]):
        if j % kernel == 0:
            in_kernel[:] = 0
        code = np.rint((block[:, j] + alpha[j] * in_kernel + beta[j] * in_row) / step)
        if not (np.abs(code) < 2.0**31).all():
            raise ValueError("a code beyond 32 bits")
        error = block[:, j] - code * step
        in_kernel = (in_kernel + error) * np.float32(decay)
        in_row += error
        codes[:, j] = code
    return codes
