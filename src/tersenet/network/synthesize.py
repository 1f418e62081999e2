"""Inputs made from a network alone: images on which its batch-norm layers see the statistics they have stored.

Minimises, over the inputs x, the mean over batch-norm layers of

    mean((mean(x_l) - running_mean)^2 / running_var) + 1/4 mean(log(var(x_l) / running_var)^2)

with Adam from Gaussian noise (the idea of ZeroQ, Cai et al. 2020, arXiv 2001.00281).
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..core.batch import run
from ..errors import InputError
from ..progress import progress
from .layers import BATCH_NORMS, differentiable, eval_without_grad

SIZES = (32, 224, 28, 64, 8)  # sides of square images tried


def has_statistics(module: nn.Module) -> bool:
    """Whether inputs can be synthesised: some batch norm has running statistics."""
    return any(isinstance(part, BATCH_NORMS) and part.running_var is not None for part in module.modules())


def not_synthesised(module: nn.Module) -> str | None:
    """Why inputs cannot be synthesised, as the end of a sentence; None if they can be."""
    if not has_statistics(module):
        return "has no batch-norm statistics"
    if any(isinstance(part, nn.Embedding | nn.EmbeddingBag) for part in module.modules()):
        return "takes integers (it has an embedding), which cannot be improved by gradients"
    return None


def guess_shape(module: nn.Module) -> tuple[int, ...]:
    """The shape of one input: channels of a layer (the first that fits), a square side the network accepts.

    **Raises** `InputError` if no side is accepted.
    """
    shapes: dict[tuple[int, ...], None] = {}
    for part in module.modules():
        if isinstance(part, nn.Linear):
            shapes[(part.in_features,)] = None
        elif isinstance(part, nn.RNNBase):
            shapes[(32, part.input_size)] = None
        elif isinstance(part, nn.Conv1d):
            shapes |= {(part.in_channels, side): None for side in (1024, 16_000, 128)}
        elif isinstance(part, nn.Conv2d):
            large = part.kernel_size[0] >= 7 and part.stride[0] > 1
            shapes |= {(part.in_channels, side, side): None for side in ((224, *SIZES) if large else SIZES)}
    for shape in shapes:
        try:
            with eval_without_grad(module), torch.no_grad():
                run(module, torch.zeros(2, *shape))
        except (RuntimeError, ValueError, AssertionError, TypeError, IndexError):
            continue
        return shape
    raise InputError(
        f"{type(module).__name__} accepts none of the shapes tried ({list(shapes)[:6]}): give input_shape= (such as "
        "'3x32x32', '1024' or '160x40')"
    )


def check_shape(module: nn.Module, shape: tuple[int, ...]) -> None:
    """**Raises** `InputError` if `module` does not run on inputs of this shape."""
    try:
        with eval_without_grad(module), torch.no_grad():
            run(module, torch.zeros(2, *shape))
    except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
        raise InputError(
            f"{type(module).__name__} does not run on inputs of shape {'x'.join(map(str, shape))} ({error}): "
            "give another input_shape="
        ) from error


def synthesize(module: nn.Module, count: int, shape: tuple[int, ...], steps: int = 150, seed: int = 0) -> Tensor:
    """`count` inputs of `shape`; the same seed gives the same inputs on the same machine.

    **Raises** `InputError` if `module` has no batch norm with running statistics.
    """
    if why := not_synthesised(module):
        raise InputError(f"{type(module).__name__} {why}, so inputs cannot be synthesised")
    check_shape(module, shape)
    x = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    losses: list[Tensor] = []

    def hook(part: Any, given: Any) -> None:
        y, mean, var = given[0], part.running_mean, part.running_var + part.eps
        axes = [axis for axis in range(y.dim()) if axis != 1]
        shift = ((y.mean(axes) - mean) ** 2 / var).mean()
        losses.append(shift + ((y.var(axes) + 1e-8) / var).log().square().mean() / 4)

    norms = [p for p in module.modules() if isinstance(p, BATCH_NORMS) and p.running_var is not None]
    optimizer = torch.optim.Adam([x], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    handles = [part.register_forward_pre_hook(hook) for part in norms]
    try:
        with eval_without_grad(module), differentiable(module):
            for step in range(steps):
                losses.clear()
                run(module, x)
                optimizer.zero_grad()
                torch.stack(losses).mean().backward()
                optimizer.step()
                schedule.step()
                progress("synthesising inputs", step + 1, steps)
    finally:
        for handle in handles:
            handle.remove()
    return x.detach()
