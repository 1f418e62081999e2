"""The categorical distribution over levels, its mode, and the multi-class straight-through gradient, in closed form.

In units of the step: `u = x / step`, `t = step / sigma`. Logistic noise of scale sigma around x falls into the cell of
code k with the probability `pi_k = S(t (k + 1/2 - u)) - S(t (k - 1/2 - u))`, S the sigmoid. The codes lie in nested
ranges, the ring between two of them has a mask: `r_k = M(k) pi_k / sum_j M(j) pi_j`. Sums over a range telescope, so
no number is ever held for every level: `sum over a range of pi = S(t (high + 1/2 - u)) - S(t (low - 1/2 - u))`.

Differences of sigmoids are computed as products, `S(a) - S(b) = S(a) S(-b) (1 - e^(b - a))`, which lose no digits.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ...codec.native import isa, native

Range = tuple[int, int]
Jacobian = Literal["winner", "full", "straight"]
PIECE = 1 << 13  # elements that are worked on together: what a cache holds of a dozen buffers
FAR = 30.0  # e^-30 is nothing: further outside of the range than this (in units of sigma) all gradients are 0


class Categorical(NamedTuple):
    """The distribution: nested `ranges` of codes from the inmost to the outmost, and the mask of each ring.

    **Shapes**: `step`, `sigma` `[]`; `masks` `[ranges]`, not increasing, the first is 1.
    """

    step: Tensor
    sigma: Tensor
    masks: Tensor
    ranges: tuple[Range, ...]


def round_to_mode(values: Tensor, by: Categorical, jacobian: Jacobian = "winner") -> Tensor:
    """`step * k`, k the code with the largest r_k of each of the `values`.

    Backward, multi-class STE: the gradient of the one-hot mode goes to its own r_k and to no other ("full": to all of
    them, which is nearly the ordinary straight-through estimator). Gradients reach values, step, sigma and masks.
    "straight": as "winner", but values inside the range get their gradient unchanged.
    """
    ends = [end for codes in by.ranges for end in codes]
    result: Tensor = _rounded(values, by.step, by.sigma, by.masks, ends, jacobian)
    return result


# Operators of torch, so that compiling a network does not look into them.
@torch.library.custom_op("tersenet::round_to_mode", mutates_args=())
def _rounded(values: Tensor, step: Tensor, sigma: Tensor, masks: Tensor, ends: list[int], jacobian: str) -> Tensor:
    values, ranges = values.contiguous(), _ranges(ends)
    result, module = torch.empty_like(values), _module(values, jacobian)
    if module is not None:
        given = float(step), float(step / sigma), masks.tolist(), ends
        module.round_to_mode(values.view(-1).numpy(), *given, result.view(-1).numpy(), isa())
        return result
    for piece, out in _pieces(values, result):
        torch.mul(mode(piece / step, step / sigma, masks, ranges), step, out=out)
    return result


@torch.library.custom_op("tersenet::round_to_mode_backward", mutates_args=())
def _backward(
    grad: Tensor, values: Tensor, step: Tensor, sigma: Tensor, masks: Tensor, ends: list[int], jacobian: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    values, grad, t, ranges = values.contiguous(), grad.contiguous(), step / sigma, _ranges(ends)
    by_value, module = torch.empty_like(values), _module(values, jacobian)
    if module is not None:
        flat = [each.view(-1).numpy() for each in (values, grad, by_value)]
        distribution = float(step), float(t), masks.tolist(), ends
        straight = jacobian == "straight"
        by_code, by_log_t, by_u, by_each = module.mode_gradient(*flat[:2], *distribution, straight, flat[2], isa())
        by_t = step.new_tensor(by_log_t)
        return by_value, by_t + (by_code - by_u), -t * by_t, step * masks.new_tensor(by_each)
    low, high = (end * step for end in ranges[-1])
    by_step, by_t, by_masks = torch.zeros_like(step), torch.zeros_like(step), torch.zeros_like(masks)
    for given, g, out in _pieces(values, grad, by_value):
        u = given / step
        k = mode(u, t, masks, ranges)
        by_step += torch.dot(g, k)
        u = _near(u, t, masks, ranges)
        by_u, by_log_t, by_mask = (_of_all if jacobian == "full" else _of_mode)(u, k, g, t, masks, ranges)
        inside = (given >= low) & (given <= high)
        out.copy_(g * inside if jacobian == "straight" else by_u)
        by_step += by_log_t.sum() - torch.dot(by_u, u)
        by_t += by_log_t.sum()
        by_masks += by_mask
    return by_value, by_step, -t * by_t, step * by_masks


def _module(values: Tensor, jacobian: str) -> Any:
    """The native module, where it has what is needed: the mode's gradient, in fp32 on a CPU."""
    return native() if jacobian != "full" and values.device.type == "cpu" and values.dtype == torch.float32 else None


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.ends, ctx.jacobian = inputs
    ctx.save_for_backward(*tensors)


def _given_back(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_backward(grad, *ctx.saved_tensors, ctx.ends, ctx.jacobian), None, None)


_rounded.register_autograd(_given_back, setup_context=_keep)
_rounded.register_fake(lambda values, *rest: torch.empty_like(values))
_backward.register_fake(lambda grad, *given: tuple(torch.empty_like(each) for each in given[:4]))


def _ranges(ends: list[int]) -> tuple[Range, ...]:
    return tuple(zip(ends[::2], ends[1::2], strict=True))


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.view(-1).split(PIECE) for tensor in tensors), strict=True)


def mode(u: Tensor, t: Tensor, masks: Tensor, ranges: tuple[Range, ...]) -> Tensor:
    """The code with the largest r_k. pi falls with the distance, so every ring has one candidate: its nearest code."""
    nearest = u.round()
    best = nearest.clamp(*ranges[0])
    if len(ranges) > 1:
        likely = _log_likely(best - u, t)
        for (low, high), mask in zip(ranges[1:], masks[1:].log(), strict=True):
            other = nearest.clamp(low, high)  # the best so far once more, if it is no code of this ring
            likely_other = _log_likely(other - u, t) + mask
            better = likely_other > likely
            best, likely = torch.where(better, other, best), torch.where(better, likely_other, likely)
    return best


def _log_likely(distance: Tensor, t: Tensor) -> Tensor:
    """`log pi` without what all codes share: `-log(cosh(t d) + cosh(t / 2))`."""
    size = (distance * t).abs_()
    small = (-size).exp_()
    return (small * small / 2 + small * torch.cosh(t / 2) + 0.5).log_().add_(size).neg_()


def _near(u: Tensor, t: Tensor, masks: Tensor, ranges: tuple[Range, ...]) -> Tensor:
    """`u` no further from the outmost range that has a mask above 0 than where all gradients are 0."""
    alive = masks > 0
    low = torch.where(alive, torch.tensor([low for low, _ in ranges], device=u.device), 0).amin()
    high = torch.where(alive, torch.tensor([high for _, high in ranges], device=u.device), -1).amax()
    return torch.minimum(torch.maximum(u, low - FAR / t), high + FAR / t)


def _of_mode(
    u: Tensor, k: Tensor, g: Tensor, t: Tensor, masks: Tensor, ranges: tuple[Range, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """`g k` times the derivatives of the mode's r by u and by log t, and (summed) by the masks."""
    r, by_u, by_log_t = _cell(u, k, k, t)
    before, rings = torch.zeros_like(u), []
    total, total_u, total_t = before, before, before
    steps = masks - torch.cat([masks[1:], masks.new_zeros(1)])
    for (low, high), part in zip(ranges, steps, strict=True):
        inside, inside_u, inside_t = _cell(u, low, high, t)
        rings.append(inside - before)
        before = inside
        share = part * inside
        total = total + share
        total_u, total_t = total_u + share * inside_u, total_t + share * inside_t
    outside = [(k < low) | (k > high) for low, high in ranges]
    mask = masks[0].expand_as(u)
    for out, other in zip(outside, masks[1:], strict=False):
        mask = torch.where(out, other, mask)
    h = g * k * (r * mask / total)
    by_masks = [-(h * ring / total).sum() for ring in rings]
    for i, out in enumerate(outside[:-1]):
        there = (h * (out & ~outside[i + 1])).sum()
        by_masks[i + 1] = by_masks[i + 1] + torch.where(masks[i + 1] > 0, there / masks[i + 1], 0.0)
    by_masks[0] = by_masks[0] + (h * ~outside[0]).sum()
    return h * (by_u - total_u / total), h * (by_log_t - total_t / total), torch.stack(by_masks)


def _cell(u: Tensor, low: Tensor | int, high: Tensor | int, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The probability of the codes from `low` to `high`, and the derivatives of its logarithm by u and by log t."""
    a, b = (high + 0.5 - u) * t, (low - 0.5 - u) * t
    width = (high - low + 1) * t
    below, above = torch.sigmoid(a), torch.sigmoid(-b)
    inside = below * above * -torch.expm1(-width)
    return inside, t * (below - above), a * (1 - below) - b * (1 - above) + width / torch.expm1(width)


def _of_all(
    u: Tensor, k: Tensor, g: Tensor, t: Tensor, masks: Tensor, ranges: tuple[Range, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """`g` times the derivatives of `sum_k k r_k` by u and by log t, and (summed) by the masks: level after level."""
    zero = torch.zeros_like(u)
    total, mean, sums = zero, zero, [zero] * 4
    rings = [[zero, zero] for _ in ranges]
    for code in range(ranges[-1][0], ranges[-1][1] + 1):
        ring = next(i for i, (low, high) in enumerate(ranges) if low <= code <= high)
        inside, by_u, by_log_t = _cell(u, code, code, t)
        rings[ring] = [rings[ring][0] + inside, rings[ring][1] + code * inside]
        share = masks[ring] * inside
        total, mean = total + share, mean + code * share
        terms = (share * by_u, code * share * by_u, share * by_log_t, code * share * by_log_t)
        sums = [old + new for old, new in zip(sums, terms, strict=True)]
    mean = mean / total
    by_masks = [(g * (first - mean * part) / total).sum() for part, first in rings]
    return g * (sums[1] - mean * sums[0]) / total, g * (sums[3] - mean * sums[2]) / total, torch.stack(by_masks)
