"""Error compensation with data: every column of a weight matrix is rounded, its error moved into those after it.

For inputs X with second moment H = X^T X + damping, rounding column j of W with error e_j costs least if

    W[:, j+1:] -= e_j / U[j, j] * U[j, j+1:],   U = upper Cholesky factor of H^-1

(GPTQ, Frantar et al. 2023, arXiv 2210.17323; the order of columns is left as it is).
"""

import torch
from torch import Tensor

DAMPING = 0.01


def inverse_factor(moment: Tensor, damping: float = DAMPING) -> Tensor:
    """U with `U^T U = (H + damping * mean(diag H) * I)^-1`. **Shapes**: `[columns, columns]`, fp64 inside, fp32 out."""
    moment = moment.to(torch.float64)
    ridge = float(moment.diagonal().mean()) * damping or 1.0
    identity = torch.eye(len(moment), dtype=torch.float64)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moment + ridge * identity))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True).to(torch.float32)
    return factor


def error_cost(factor: Tensor) -> float:
    """The geometric mean of `1 / U[j, j]^2`: how much a unit rounding error per weight costs after compensation."""
    return float((-2 * factor.diagonal().to(torch.float64).log()).mean().exp())


def round_compensated(weight: Tensor, factor: Tensor, scale: float) -> Tensor:
    """Codes of `weight` on the grid of step `scale`, errors compensated from left to right.

    **Shapes**: `weight` `[rows, columns]`, `factor` `[columns, columns]` -> int32 `[rows, columns]`.
    """
    target = weight.to(torch.float32).clone()
    codes = torch.empty(weight.shape, dtype=torch.int32)
    for j in range(weight.shape[1]):
        code = torch.round(target[:, j] / scale)
        codes[:, j] = code.to(torch.int32)
        error = (target[:, j] - code * scale) / factor[j, j]
        target[:, j + 1 :].addr_(error, factor[j, j + 1 :], alpha=-1)
    return codes


def match_outputs(weight: Tensor, moment: Tensor, drift: Tensor, damping: float = DAMPING) -> Tensor:
    """The weight that gives on inputs X' (of the quantised network) what `weight` gave on X (of the original).

    `W + W (X - X')^T X' (X'^T X' + damping)^-1`, with `moment = X'^T X'` and `drift = (X - X')^T X'`.

    **Shapes**: `[rows, columns]`, `[columns, columns]` twice -> `[rows, columns]`.
    """
    moment = moment.to(torch.float64)
    ridge = float(moment.diagonal().mean()) * damping or 1.0
    regular = moment + ridge * torch.eye(len(moment), dtype=torch.float64)
    change: Tensor = torch.linalg.solve(regular, (weight.to(torch.float64) @ drift.to(torch.float64)).T).T
    return weight.to(torch.float32) + change.to(torch.float32)
