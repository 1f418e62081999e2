"""The quantizer of bit planes: planes are trained while precision is learned, then a float weight on what is left."""

import math
from typing import Any

import torch
from torch import Tensor

from ...core.grid import Uniform
from ...core.levels import Integers
from ...core.model import QTensor
from ...quantizers.estimators import clipped
from ...quantizers.project import LARGEST, SMALLEST, project, stored_scale
from ...quantizers.quantizer import ParamGroup, Quantizer
from ...quantizers.weight import least_squares_clip

PLANES = 8  # of a sign each
HIGHEST = 2.0  # value of a plane's element: above 1, so that a carry can ask for one more plane
# What the authors' recipe takes from the norm of a plane in the whole training, for alpha = 1 and a reweighing of 1:
# the sum of its learning rates (0.1 for 250 epochs, 0.01 for 100, 391 steps each) over 1 - momentum. On their
# ResNet-20 it is 196 times the root of the number of weights, which makes it a measure for networks of any size.
SHRINK = 391 * (0.1 * 250 + 0.01 * 100) / (1 - 0.9) / math.sqrt(268_336)


class _Composed(torch.autograd.Function):
    """`step * clip(round(sum over b of 2^b (p_b - n_b)))`, straight through rounding and clip.

    The gradient of every plane is the same tensor times `+-2^b step`: one weighted sum forward, one outer product back.
    That of the step is divided by `sum(codes^2)`, so that the weight moves along itself as fast as in other directions.
    """

    @staticmethod
    def forward(ctx: Any, planes: Tensor, step: Tensor, places: Tensor) -> Tensor:
        q = whole(planes, places)
        ctx.save_for_backward(q, step, places)
        return q * step

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, step, places = ctx.saved_tensors
        flat, codes = grads[0].reshape(-1), q.reshape(-1)
        by_planes = torch.outer(torch.cat((places, -places)) * step, flat).view(2, PLANES, *q.shape)
        return by_planes, torch.dot(flat, codes) / torch.dot(codes, codes).clamp(min=1), None


def summed(planes: Tensor, places: Tensor) -> Tensor:
    """`sum over b of places_b (p_b - n_b)`. **Shapes**: `[2, 8, *shape]`, `[8]` -> `shape`."""
    total: Tensor = torch.cat((places, -places)) @ planes.reshape(2 * PLANES, -1)
    return total.view(planes.shape[2:])


def whole(planes: Tensor, places: Tensor) -> Tensor:
    """`summed`, rounded and clipped to what the living planes can hold: the codes, as floats."""
    top = places.sum()
    return summed(planes, places).round_().clamp_(-top, top)


def digits(codes: Tensor) -> Tensor:
    """The planes of integers of at most 8 bits and a sign. **Shapes**: `shape` -> `[2, 8, *shape]`."""
    place = torch.arange(PLANES, device=codes.device).view(PLANES, *[1] * codes.dim())
    bits = (codes.abs().to(torch.int32) >> place & 1).to(torch.float32)
    return torch.stack((bits * (codes > 0), bits * (codes < 0)))


def halvings(codes: Tensor, step: Tensor) -> int:
    """How often all `codes` can be halved, and their step doubled (as far as fp16 holds it)."""
    integers, most = codes.abs().to(torch.int32), math.floor(math.log2(LARGEST / float(step)))
    return next((k for k in range(PLANES) if k >= most or bool((integers >> k & 1).any())), 0)


def _norms(planes: Tensor) -> Tensor:
    """The norm of each plane, both signs together. **Shapes**: `[2, 8, *shape]` -> `[8]`."""
    return torch.linalg.vector_norm(planes.view(2, PLANES, -1), dim=(0, 2))


def ramp(progress: Tensor) -> Tensor:
    """The share of all learning-rate steps of a cosine that lies before `progress`."""
    return progress + torch.sin(math.pi * progress) / math.pi


class BitPlanes(Quantizer):
    """A weight as 8 positive and 8 negative planes of `places` 2^b (0: the plane is dead), times a learned step.

    `latents`: the planes `[2, 8, *shape]`, in [0, 2], which begin as the digits of `round(|w| / step)`; and a float
    weight, which `settle` puts in their place when the precision is found. `strength` is alpha; with `reweighs` a
    tensor's penalty is in proportion to its share of all weights (`total`) and its planes. `pinned` keeps its planes.
    """

    places: Tensor
    codes: Tensor
    shrunk: Tensor
    norms: Tensor
    spared: Tensor

    def __init__(self, weight: Tensor, planes: int, strength: float, *, reweighs: bool, pinned: bool) -> None:
        super().__init__()
        self.strength, self.reweighs, self.pinned, self.dtype = strength, reweighs, pinned, weight.dtype
        self.total = weight.numel()
        self.levels: Integers | None = None  # those of the float weight, once the precision is found
        top = 2.0**planes - 1
        step = (weight.float().abs().max() / top).clamp(min=1e-30)
        self.fp16 = bool(2 * SMALLEST < step < LARGEST / 2**PLANES)
        self.step = torch.nn.Parameter(step)
        with torch.no_grad():
            stored = self._step()
            codes = (weight.float() / stored).round().clamp(-top, top)
        # A weight moves as fast as if it were trained itself: sum of (2^b step)^2 times the rate is 1.
        self.speed = 3 / (float(stored) ** 2 * (4**planes - 1))
        self.register_buffer("places", 2.0 ** torch.arange(PLANES) * (torch.arange(PLANES) < planes))
        self.register_buffer("codes", codes.to(torch.int16))
        self.register_buffer("shrunk", torch.zeros(()))
        self.register_buffer("norms", torch.zeros(PLANES), persistent=False)
        self.register_buffer("spared", torch.tensor(pinned))

    @property
    def planes(self) -> int:
        """The planes that live."""
        return int((self.places > 0).sum())

    @property
    def bits(self) -> float:  # type: ignore[override]
        """The width of a code: the planes and a sign; 0 without planes."""
        return float(self.planes + 1 if self.planes else 0)

    def latents(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The digits of the codes, and the weight."""
        planes = digits(self.codes)
        self.norms.copy_(_norms(planes))
        return planes, weight

    def to_weight(self, planes: Tensor, weight: Tensor) -> Tensor:  # type: ignore[override]
        """What is rounded: the sum of the planes, or the float weight."""
        return weight if self.levels is not None else summed(planes, self.places) * self._step()

    def forward(self, planes: Tensor, weight: Tensor) -> Tensor:  # type: ignore[override]
        """The quantised weight, in fp32 values that its original dtype holds."""
        value: Tensor
        if self.levels is not None:
            value = project(weight, self._step(), self.levels, clipped, self.progress, self.rate)
        else:
            value = _Composed.apply(planes, self._step(), self.places)  # type: ignore[no-untyped-call]
        return value if self.dtype == torch.float32 else value.to(self.dtype).to(torch.float32)

    @torch.no_grad()
    def freeze(self, planes: Tensor, weight: Tensor) -> QTensor:  # type: ignore[override]
        """Codes as narrow as they can be: planes below all of them are in the step."""
        step = self._step()
        q = whole(planes, self.places) if self.levels is None else self.levels.nearest(weight / step)
        zeros = halvings(q, step)
        codes = q.to(torch.int16) // 2**zeros
        codes = codes.to(torch.int8) if int(codes.abs().max()) <= 127 else codes
        scale = (step * 2**zeros).to("cpu", torch.float16 if self.fp16 else torch.float32)
        return QTensor(codes.cpu(), Uniform(scale), self.dtype)

    def penalty(self, planes: Tensor, weight: Tensor) -> Tensor:  # type: ignore[override]
        """The group penalty as of the last step. It has no gradient: `after_step` makes its proximal step."""
        return (self._weighing() * self.norms.sum()).detach()

    def after_step(self, planes: Tensor, weight: Tensor) -> None:  # type: ignore[override]
        """Clip the planes, and take from the norm of each what the penalty takes since the last step."""
        if self.levels is not None:
            return
        planes.clamp_(0, HIGHEST)
        if self.strength == 0 or bool(self.spared):
            return
        share = (ramp(self.progress) - ramp(self.shrunk)).clamp(min=0)
        self.shrunk.copy_(self.progress)
        norms = _norms(planes)
        less = (norms - SHRINK * math.sqrt(self.total) * share * self._weighing()).clamp_(min=0)
        planes.mul_((less / norms.clamp(min=1e-30)).view(1, PLANES, *[1] * weight.dim()))
        self.norms.copy_(less)

    def _weighing(self) -> Tensor:
        """Alpha, times the reweighing by the planes that live now."""
        share = (self.places > 0).sum() * (self.codes.numel() / self.total) if self.reweighs else 1.0
        return self.strength * share * ~self.spared

    def param_groups(self, latents: tuple[Tensor, ...], lr: float, weight_decay: float) -> list[ParamGroup]:
        """The step does not decay. Planes learn so fast that the weight moves as at `lr`, and decay as at `lr`."""
        planes = {"params": [latents[0]], "lr": lr * self.speed, "weight_decay": weight_decay / self.speed}
        return [planes, {"params": [self.step], "lr": lr, "weight_decay": 0.0}]

    @torch.no_grad()
    def adjust(self, planes: Tensor) -> bool:
        """Write the planes anew as exact digits, with those that are needed alive; whether the last ones died.

        Planes above all codes die, planes below all codes do and the step doubles, and where codes have grown out of
        their planes a new one lives (at most 8): no code changes its value.
        """
        if self.pinned or not self.planes:
            return False
        codes = summed(planes, self.places).round_().clamp_(1 - 2**PLANES, 2**PLANES - 1)
        if not bool(codes.any()):
            return True
        zeros = halvings(codes, self._step())
        self.write(planes, (codes / 2**zeros).to(torch.int16))
        self.step.mul_(2.0**zeros)
        return False

    @torch.no_grad()
    def write(self, planes: Tensor, codes: Tensor) -> None:
        """Make `codes` the state: their digits, and as many planes as the largest needs."""
        self.codes.copy_(codes)
        count = int(codes.abs().max()).bit_length()
        self.places.copy_(2.0 ** torch.arange(PLANES) * (torch.arange(PLANES) < count))
        planes.copy_(digits(codes))
        self.norms.copy_(_norms(planes))

    @torch.no_grad()
    def spare(self, planes: Tensor, codes: Tensor) -> None:
        """Go on with `codes` rounded to one plane (squared error), which nothing is taken from any more."""
        one = Integers(-1, 1)
        scale = least_squares_clip(codes.float().reshape(1, -1), one)
        self.write(planes, one.nearest(codes / scale).to(torch.int16))
        self.step.mul_(scale.squeeze())
        self.spared.fill_(True)

    @torch.no_grad()
    def settle(self, planes: Tensor, weight: Tensor) -> None:
        """From now on a float weight is trained, on the levels that the planes have found."""
        top = int(self.places.sum())
        weight.copy_(whole(planes, self.places) * self._step())
        self.levels = Integers(-top, top)
        weight.requires_grad_(planes.requires_grad)
        planes.requires_grad_(False)

    def _step(self) -> Tensor:
        """The step as it is stored."""
        factor = 1.0 if self.levels is None else 1 / (math.sqrt(self.codes.numel()) * max(1, self.levels.high))
        return stored_scale(self.step, 1.0, factor, self.fp16)
