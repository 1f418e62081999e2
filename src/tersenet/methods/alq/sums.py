"""The quantizer of ALQ: a weight that is nothing but its bases and coordinates."""

import torch
from torch import Tensor

from ...core.grid import BinaryBases
from ...core.model import QTensor
from ...quantizers.project import project_to
from ...quantizers.quantizer import ParamGroup, Quantizer
from .bases import Bases, fitted, nearest, packed, positive, rounded, sketched, summed


class SumOfBases(Quantizer):
    """`value = sum over bases of coordinate * sign`, for groups of `size` weights every `stride` of a row.

    There is no full-precision weight: the latent is where gradients arrive, and holds the value itself. What changes it
    are `move` and `shift`, which the optimizer calls; after a step of another optimizer the value goes to the nearest
    sum. Coordinates are kept in fp32 and used as they are stored, with `mantissa` bits.
    """

    codes: Tensor
    coordinates: Tensor
    alive: Tensor

    def __init__(self, weight: Tensor, size: int, stride: int, most: int, mantissa: int, pinned: bool) -> None:
        super().__init__()
        self.size, self.stride, self.mantissa = size, stride, mantissa
        self.dtype, self.shape, self.pinned = weight.dtype, weight.shape, pinned
        for name, field in sketched(self.grouped(weight.float()), most)._asdict().items():
            self.register_buffer(name, field)

    @property
    def bits(self) -> float:  # type: ignore[override]
        """Bases of a group, on average."""
        return float(self.alive.sum()) / len(self.alive)

    @property
    def bases(self) -> Bases:
        """Signs and coordinates as they are stored."""
        return Bases(self.codes, rounded(self.coordinates, self.alive, self.mantissa), self.alive)

    def grouped(self, weight: Tensor) -> Tensor:
        """A tensor in the weight's shape -> `[groups, size]`."""
        return weight.reshape(-1, self.size, self.stride).transpose(1, 2).reshape(-1, self.size)

    def value(self) -> Tensor:
        """The weight, in fp32 values that its dtype holds."""
        values = summed(self.bases).reshape(-1, self.stride, self.size).transpose(1, 2).reshape(self.shape)
        values = values.contiguous()  # a view in another order would be convolved with other roundings
        return values if self.dtype == torch.float32 else values.to(self.dtype).float()

    def latents(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The value, in place of the weight."""
        return (self.value(),)

    def forward(self, latent: Tensor) -> Tensor:  # type: ignore[override]
        """The value, whose gradient is the latent's."""
        with torch.no_grad():
            value = self.value()
        return project_to(latent, value)

    def after_step(self, *latents: Tensor) -> None:
        """Take the step of an optimizer that knows nothing of bases."""
        if not torch.equal(latents[0], self.value()):
            self.codes.copy_(nearest(self.bases.coordinates, self.grouped(latents[0])))
            latents[0].copy_(self.value())

    def param_groups(self, latents: tuple[Tensor, ...], lr: float, weight_decay: float) -> list[ParamGroup]:
        """The latent, without weight decay: there is nothing that could decay."""
        return [{"params": list(latents), "lr": lr, "weight_decay": 0.0}]

    def move(self, target: Tensor, curvature: Tensor) -> None:
        """The basis step and the speed-up: bring `f = 1/2 sum of curvature (value - target)^2` down, first by the
        signs, then by the coordinates, where these are no worse once they are rounded. **Shapes**: `[groups, size]`."""
        own = self.alive.any(1).nonzero().squeeze(1)  # empty groups, which may be most, stay empty
        target, curvature, alive = target[own], curvature[own], self.alive[own]
        now = Bases(*(field[own] for field in self.bases))
        now = now._replace(codes=nearest(now.coordinates, target))
        better = positive(now._replace(coordinates=fitted(now, target, curvature)))
        stored = better._replace(coordinates=rounded(better.coordinates, alive, self.mantissa))
        before, after = ((curvature * (summed(each) - target).square()).sum(1) for each in (now, stored))
        taken = (after <= before).unsqueeze(1)
        self.codes[own] = torch.where(taken, better.codes, now.codes)
        self.coordinates[own] = torch.where(taken, better.coordinates, self.coordinates[own])

    def shift(self, by: Tensor) -> Tensor:
        """The coordinate step: add `by`; where a coordinate falls below 0, it and its basis turn. Returns which do."""
        changed = (self.coordinates + by) * self.alive
        found = positive(Bases(self.codes, changed, self.alive))
        self.codes.copy_(found.codes)
        self.coordinates.copy_(found.coordinates)
        return changed < 0

    def kill(self, dead: Tensor) -> None:
        """Take bases away. **Shapes**: mask `[groups, bases]`."""
        self.alive &= ~dead
        self.coordinates.mul_(self.alive)

    def across(self, gradient: Tensor) -> Tensor:
        """`B' g`: the gradient of the coordinates for that of the weights. **Shapes**: `[groups, size]` ->
        `[groups, bases]`."""
        columns = [
            torch.where((self.codes >> i & 1).bool(), gradient, -gradient).sum(1) for i in range(self.alive.shape[1])
        ]
        return torch.stack(columns, 1) * self.alive

    def freeze(self, latent: Tensor) -> QTensor:  # type: ignore[override]
        """Codes, counts and the leading bits of coordinates."""
        with torch.no_grad():
            ordered = packed(Bases(*(field.cpu() for field in self.bases)))
            codes = ordered.codes.reshape(-1, self.stride, self.size).transpose(1, 2).reshape(self.shape)
            counts = ordered.alive.sum(1).to(torch.int8).reshape(self.shape[0], -1)
            numbers = ordered.coordinates[ordered.alive].view(torch.int32) >> (23 - self.mantissa)
            kind = torch.int8 if int(counts.max()) < 8 else torch.int16
            grid = BinaryBases(counts, numbers, self.mantissa, self.size, self.stride)
            return QTensor(codes.contiguous().to(kind), grid, self.dtype)
