"""The quantizer of bit planes: they are trained while the precision is learned; then it is fixed."""

import math
from typing import Any

import torch
from torch import Tensor

from ...core.grid import Uniform
from ...core.levels import Integers
from ...core.model import QTensor
from ...quantizers.project import LARGEST, SMALLEST, stored_scale
from ...quantizers.quantizer import ParamGroup, Quantizer
from ...quantizers.weight import least_squares_clip

PLANES = 8  # of each sign
HIGHEST = 2.0  # value of a plane's element: above 1, so that a carry can ask for one more plane
FARTHEST = 2.0**16  # that a step goes from where it began: almost empty tensors would leap to infinity
PIECE = 1 << 12  # weights whose planes are worked on together, in the cache
# What the authors' recipe takes from the norm of a plane in the whole training, for alpha = 1 and a reweighing of 1:
# the sum of its learning rates (0.1 for 250 epochs, 0.01 for 100, 391 steps each) over 1 - momentum. On their
# ResNet-20 it is 196 times the root of the number of weights, which makes it a measure for networks of any size.
SHRINK = 391 * (0.1 * 250 + 0.01 * 100) / (1 - 0.9) / math.sqrt(268_336)


class _Rounded(torch.autograd.Function):
    """`step * clip(round(w / step))`, the clip at `+-top`.

    Backward, while planes are trained: straight through rounding and clip; for the step `sum(g q) / sum(q^2)`, with
    which the weight moves along itself as fast as in other directions. With `fixed` precision: LSQ's formulas, with
    the factor `1 / (sqrt(numel) top)` in place of its root of `top`, too fast for many levels. The step's gradient is
    multiplied by `pace`, that of the weight against the learning rate.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, step: Tensor, top: Tensor, pace: Tensor, fixed: bool) -> Tensor:
        x = weight / step
        q = x.round().clamp_(-top, top)
        ctx.save_for_backward(x if fixed else None, q, top, pace)
        return q * step

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, q, top, pace = ctx.saved_tensors
        g = grads[0]
        if x is None:
            return g, pace * (g * q).sum() / q.square().sum().clamp(min=1), None, None, None
        inside = x.abs() <= top
        damped = pace / (math.sqrt(q.numel()) * top.clamp(min=1))
        return g * inside, damped * (g * torch.where(inside, q - x, q)).sum(), None, None, None


def summed(planes: Tensor, places: Tensor) -> Tensor:
    """`sum over b of places_b (p_b - n_b)`. **Shapes**: `[2, b, n]`, `[b]` -> `[n]`."""
    total: Tensor = places @ planes[0] - places @ planes[1]
    return total


def digits(codes: Tensor) -> Tensor:
    """The planes of integers of at most 8 bits and a sign. **Shapes**: `shape` -> `[2, 8, *shape]`."""
    place = torch.arange(PLANES, device=codes.device).view(PLANES, *[1] * codes.dim())
    bits = (codes.abs().to(torch.int32) >> place & 1).to(torch.float32)
    return torch.stack((bits * (codes > 0), bits * (codes < 0)))


def halvings(codes: Tensor, step: Tensor) -> int:
    """How often all `codes` can be halved, and their step doubled (as far as fp16 holds it)."""
    integers, most = codes.abs().to(torch.int32), math.floor(math.log2(LARGEST / float(step)))
    return next((k for k in range(PLANES) if k >= most or bool((integers >> k & 1).any())), 0)


def ramp(progress: Tensor) -> Tensor:
    """The share of all learning-rate steps of a cosine that lies before `progress`."""
    return progress + torch.sin(math.pi * progress) / math.pi


class BitPlanes(Quantizer):
    """A weight as `step * round(sum over b of places_b (p_b - n_b))`, `places_b` being 2^b, or 0 where a plane is dead.

    The latent is the weight before it is rounded. SGD on planes gives each of them the same change but for a factor
    `+-2^b`, so the optimizer moves the weight, and `after_step` gives every plane its part, clips it and takes the
    penalty's part from it: the same planes, with a sixteenth of the gradients and of the optimizer's state. `strength`
    is alpha; with `reweighs` the penalty is in proportion to the tensor's share of all weights (`total`) and to its
    planes. `pinned`: no penalty, no adjustment.
    """

    places: Tensor  # [8]
    planes: Tensor  # [2, 8, *shape]: positive and negative
    codes: Tensor  # of the last adjustment
    norms: Tensor  # of planes
    held: Tensor  # the step when planes were written
    shrunk: Tensor  # the progress up to which the penalty has taken its part
    spared: Tensor  # whether it takes nothing (any more)
    pace: Tensor  # of the weight once the precision is fixed, against the learning rate; before, 0

    def __init__(self, weight: Tensor, count: int, strength: float, *, reweighs: bool, pinned: bool) -> None:
        super().__init__()
        self.strength, self.reweighs, self.pinned, self.dtype = strength, reweighs, pinned, weight.dtype
        self.total, self.power = weight.numel(), float(weight.float().square().mean())
        self.fixed = False
        top = 2.0**count - 1
        step = (weight.float().abs().max() / top).clamp(min=1e-30)
        self.fp16 = bool(2 * SMALLEST < step < LARGEST / 2**PLANES)
        self.step = torch.nn.Parameter(step)
        with torch.no_grad():
            held = stored_scale(self.step, 1.0, 1.0, self.fp16)
        codes = (weight.float() / held).round().clamp(-top, top).to(torch.int32)
        # The rate of planes for which the weight moves as at the learning rate, 1 / sum of (2^b step)^2.
        self.speed, self.first = 3 / (4**count - 1), float(held)
        alive = torch.arange(PLANES) < (count if bool(codes.any()) else 0)
        self.register_buffer("places", 2.0 ** torch.arange(PLANES) * alive)
        self.register_buffer("planes", digits(codes))
        self.register_buffer("codes", codes)
        self.register_buffer("norms", torch.linalg.vector_norm(self.planes.flatten(2), dim=(0, 2)))
        self.register_buffer("held", held)
        self.register_buffer("shrunk", torch.zeros(()))
        self.register_buffer("spared", torch.tensor(pinned))
        self.register_buffer("pace", torch.zeros(()))

    @property
    def count(self) -> int:
        """How many planes live: those from 2^0 on."""
        return int((self.places > 0).sum())

    @property
    def bits(self) -> float:  # type: ignore[override]
        """The width of a code: the planes and a sign; 0 without planes."""
        return float(self.count + 1 if self.count else 0)

    def latents(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The codes times the step."""
        return (self.codes * self.held,)

    def forward(self, weight: Tensor) -> Tensor:  # type: ignore[override]
        """The quantised weight, in fp32 values that its original dtype holds."""
        pace = self.pace if self.fixed else self._pace()
        value: Tensor = _Rounded.apply(weight, self._step(), self.places.sum(), pace, self.fixed)  # type: ignore[no-untyped-call]
        return value if self.dtype == torch.float32 else value.to(self.dtype).to(torch.float32)

    @torch.no_grad()
    def freeze(self, weight: Tensor) -> QTensor:  # type: ignore[override]
        """Codes as narrow as they can be: planes below all of them are in the step."""
        step, top = self._step(), self.places.sum()
        q = (weight / step).round_().clamp_(-top, top)
        zeros = halvings(q, step)
        codes = (q / 2**zeros).to(torch.int32)
        codes = codes.to(torch.int8) if int(codes.abs().max()) <= 127 else codes
        scale = (step * 2**zeros).to("cpu", torch.float16 if self.fp16 else torch.float32)
        return QTensor(codes.cpu(), Uniform(scale), self.dtype)

    def penalty(self, weight: Tensor) -> Tensor:  # type: ignore[override]
        """The group penalty as of the last step. It has no gradient: `after_step` makes its proximal step."""
        return self._weighing() * self.norms.sum()

    def after_step(self, weight: Tensor) -> None:  # type: ignore[override]
        """Give the planes what the optimizer did to the weight and take the penalty's part; the weight follows."""
        if self.fixed or not (count := self.count) or not weight.requires_grad:
            return
        share = (ramp(self.progress) - ramp(self.shrunk)).clamp(min=0)
        self.shrunk.copy_(self.progress)
        lost = SHRINK * math.sqrt(self.total) * share * self._weighing()
        keep = (1 - lost / self.norms[:count].clamp(min=1e-30)).clamp(min=0).view(count, 1)
        self.step.clamp_(-FARTHEST * self.first, FARTHEST * self.first)
        places, step = self.places[:count], self._step()
        pull = (places * (self.held / self.first) * (self.speed / self.first)).view(count, 1)
        squares = torch.zeros_like(places)
        planes, flat = self.planes.view(2, PLANES, -1)[:, :count], weight.view(-1)
        for start in range(0, flat.numel(), PIECE):
            part, values = planes[:, :, start : start + PIECE], flat[start : start + PIECE]
            moved = values - summed(part, places) * self.held
            part.mul_(keep)
            part[0].addcmul_(pull, moved)
            part[1].addcmul_(pull, moved, value=-1)
            part.clamp_(0, HIGHEST)
            squares += torch.linalg.vector_norm(part, dim=(0, 2)).square_()
            torch.mul(summed(part, places), step, out=values)
        self.norms[:count] = squares.sqrt_()
        self.held.copy_(step)

    def param_groups(self, latents: tuple[Tensor, ...], lr: float, weight_decay: float) -> list[ParamGroup]:
        """The step does not decay. When the precision is fixed, the weight learns at its `pace`."""
        groups: list[ParamGroup] = [{"params": [self.step], "lr": lr, "weight_decay": 0.0}]
        if self.fixed:
            pace = float(self.pace)
            groups.append({"params": list(latents), "lr": lr * pace, "weight_decay": weight_decay / pace})
        return groups

    @torch.no_grad()
    def adjust(self, weight: Tensor) -> bool:
        """Write the planes anew as exact digits, with those that are needed alive; whether the last one died.

        Planes above all codes die, planes below all codes do and the step doubles, and where codes have grown out of
        their planes a new one lives (at most 8): no code changes its value.
        """
        if self.pinned or not self.count:
            return False
        codes = (weight / self._step()).round_().clamp_(1 - 2**PLANES, 2**PLANES - 1)
        if not bool(codes.any()):
            return True
        zeros = halvings(codes, self._step())
        self.step.mul_(2.0**zeros)
        self.write(weight, (codes / 2**zeros).to(torch.int32))
        return False

    @torch.no_grad()
    def write(self, weight: Tensor, codes: Tensor) -> None:
        """Make `codes` the state: their digits, and as many planes as the largest needs."""
        self.codes.copy_(codes)
        place = torch.arange(PLANES, device=codes.device)
        self.places.copy_(2.0**place * (place < int(codes.abs().max()).bit_length()))
        self.planes.copy_(digits(codes))
        self.norms.copy_(torch.linalg.vector_norm(self.planes.flatten(2), dim=(0, 2)))
        self.held.copy_(self._step())
        weight.copy_(self.codes * self.held)

    @torch.no_grad()
    def spare(self, weight: Tensor, codes: Tensor) -> None:
        """Go on with `codes` rounded to one plane (least squared error), which no penalty takes anything from."""
        one = Integers(-1, 1)
        clip = least_squares_clip(codes.float().reshape(1, -1), one)
        self.step.mul_(clip.squeeze())
        self.write(weight, one.nearest(codes / clip).to(torch.int32))
        self.spared.fill_(True)

    @torch.no_grad()
    def fix(self, weight: Tensor) -> None:
        """From now on the precision stays, and the weight is trained itself: at a rate in proportion to its mean square
        against that at the start, because the gradient of a weight before a batch norm is in proportion to 1 / |w|."""
        self.fixed = True
        if not self.pace:
            self.pace.copy_(weight.square().mean() / self.power if self.count else torch.ones_like(self.pace))

    def _step(self) -> Tensor:
        """The step as it is stored."""
        return stored_scale(self.step, 1.0, 1.0, self.fp16)

    def _pace(self) -> Tensor:
        """How fast the planes that live move the weight, against the learning rate."""
        pace: Tensor = self.speed * (self.held / self.first) ** 2 * self.places.square().sum()
        return pace

    def _weighing(self) -> Tensor:
        """Alpha, times the reweighing by the planes that live now."""
        share = (self.places > 0).sum() * (self.codes.numel() / self.total) if self.reweighs else 1.0
        return self.strength * share * ~self.spared
