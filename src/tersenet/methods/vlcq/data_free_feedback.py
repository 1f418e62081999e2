"""Error compensation without data: what almost every network's inputs have in common, as a Hessian in closed form.

Inputs of a layer are mostly what a ReLU or a pooling left: their mean is not zero, and neighbours inside a convolution
kernel look alike. So the expected squared output error of a row of weight errors e is close to

    e^T H e,   H = I + a * sum over kernels k of (1_k 1_k^T) + b * 1 1^T

(1_k: the positions of one kernel; for matrices only the last term). Quantising a row from left to right, the best place
for the next weight given the errors so far (GPTQ's feedback, the exact conditional minimum of the quadratic form) is

    w_j + alpha_j * A + beta_j * S,   A, S = sum of the errors so far in this kernel, in this row

with coefficients that depend on the position only: linear time, no matrices. The special case of whole sums driven to
zero is the idea of SQuant (Guo et al. 2022, arXiv 2202.07471). The values of a and b are ours: see docs/design/0006.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...codec.native import native
from ...errors import WeightError

KERNEL_CORRELATION = 1.0
MEAN_INPUT = 0.3
Floats = npt.NDArray[np.float32]


def feedback(columns: int, kernel: int, a: float = KERNEL_CORRELATION, b: float = MEAN_INPUT) -> tuple[Floats, Floats]:
    """The coefficients alpha, beta of every column. **Shapes**: `[columns]` twice; `kernel` divides `columns`.

    >>> feedback(2, 1, 0.0, 1.0)[1].tolist()
    [0.3333333432674408, 0.5]
    """
    a = a if kernel > 1 else 0.0
    place = np.arange(columns)
    left = kernel - place % kernel  # of this kernel, this column included
    later = columns - place - left  # in kernels after it
    own = 1 + a * left
    rest = 1 + b * (left / own + later / (1 + a * kernel))
    alpha = a * (1 - b * left / (own * rest)) / own
    return alpha.astype(np.float32), (b / (rest * own)).astype(np.float32)


def round_with_feedback(weight: Tensor, scale: float, kernel: int) -> Tensor:
    """Codes of `weight` on the grid of step `scale`, each rounded after the feedback of the errors before it.

    **Shapes**: `weight` `[rows, columns]` (any float dtype) -> int32 `[rows, columns]`; a kernel is `kernel`
    consecutive columns.

    **Raises** `WeightError` if a code does not fit 32 bits.
    """
    rows, columns = weight.shape
    alpha, beta = feedback(columns, kernel)
    codes = np.empty((rows, columns), np.int32)
    step = max(1, (1 << 20) // columns)
    for start in range(0, rows, step):
        block = weight[start : start + step].to(torch.float32).contiguous().numpy()
        module = native()
        try:
            if module is None:
                codes[start : start + step] = _reference(block, np.float32(scale), kernel, alpha, beta)
            else:
                module.round_with_feedback(block, scale, kernel, alpha, beta, codes[start : start + step])
        except ValueError as error:
            far = float(np.abs(block).max())
            raise WeightError(f"a weight of {far:g} on a grid of step {scale:g}: {error}; scale the weights") from error
    return torch.from_numpy(codes)


def _reference(block: Floats, scale: np.float32, kernel: int, alpha: Floats, beta: Floats) -> npt.NDArray[np.int32]:
    codes = np.empty(block.shape, np.int32)
    in_kernel, in_row = np.zeros(len(block), np.float32), np.zeros(len(block), np.float32)
    for j in range(block.shape[1]):
        if j % kernel == 0:
            in_kernel[:] = 0
        code = np.rint((block[:, j] + alpha[j] * in_kernel + beta[j] * in_row) / scale)
        if not (np.abs(code) < 2.0**31).all():
            raise ValueError("a code beyond 32 bits")
        error = block[:, j] - code * scale
        in_kernel += error
        in_row += error
        codes[:, j] = code
    return codes


def relative_step(weight: Tensor) -> float:
    """The step of a tensor relative to others at one slope: `std(w)^(1/4)`, of a sample.

    A step shared by all tensors is optimal where errors count alike; the mild dependence on the spread keeps tensors of
    a very different size (embeddings) from taking all bits. 1 for a constant tensor.
    """
    sample = sampled(weight)
    deviation = float(sample.double().std()) if sample.numel() > 1 else 0.0
    return deviation**0.25 if deviation > 0 else 1.0


def sampled(weight: Tensor, most: int = 1 << 16) -> Tensor:
    """At most `most` evenly spaced weights, fp32."""
    flat = weight.reshape(-1)
    return flat[:: -(-flat.numel() // most)].to(torch.float32)
