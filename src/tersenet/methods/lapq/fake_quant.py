"""A network whose weights and layer inputs are rounded with clips that can be changed: what calibration searches
over."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from ...core.activation import Activation
from ...core.batch import Batch
from ...core.grid import Uniform
from ...core.levels import Integers
from ...core.model import QTensor
from ...network.calibrate import mean_loss
from ...quantizers.activation import Sign
from ...quantizers.project import some_of

SAMPLES = 1 << 15  # values of a tensor that a norm is measured on


@dataclass(frozen=True)
class WeightGrid:
    """How a weight of `bits` bits is rounded for a clip: with a zero level, or the paper's levels without one.

    With zero: codes `-2^(b-1) .. 2^(b-1) - 1` in steps of `c / 2^(b-1)`. Without: `2^b` levels from -c to c. With
    `restore`, the mean of every output channel (on `axis`) is put back by an offset of its own. Values are rounded to
    `dtype`, that of the checkpoint.
    """

    bits: int
    zero_level: bool
    axis: int
    restore: bool = True
    dtype: torch.dtype = torch.float32

    def quantised(self, weight: Tensor, clip: float) -> QTensor:
        """`weight` on its grid; scale and offsets in fp16 (fp32 where that would lose them)."""
        half = 2 ** (self.bits - 1)
        step = clip / half if self.zero_level else 2 * clip / (2 * half - 1)
        kind = torch.float16 if 2**-14 <= step <= 2**8 else torch.float32
        scale = torch.tensor(step, dtype=kind)
        shift = torch.zeros(()) if self.zero_level else -scale.float() * (2 * half - 1) / 2
        low = -half if self.zero_level else 0
        codes = ((weight.float() - shift) / scale.float()).round().clamp_(low, low + 2 * half - 1)
        plain = codes * scale.float() + shift
        other = [axis for axis in range(weight.dim()) if axis != self.axis]
        drift = (weight.float() - plain).mean(other)
        offset = (shift + (drift if self.restore else torch.zeros_like(drift))).to(kind)
        codes = codes.to(torch.int8 if self.bits < 8 or self.zero_level else torch.int16)
        return QTensor(codes, Uniform(scale, offset=offset, axis=self.axis), self.dtype)


def input_rounding(clip: float, bits: int, signed: bool) -> Activation:
    """Levels `0 .. 2^b - 1`, or two's complement, up to `clip`; the scale as fp16 holds it."""
    levels = Integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else Integers(0, 2**bits - 1)
    scale = float(np.clip(np.float16(clip / levels.high), np.float16(2**-14), np.float16(2**15)))
    return Activation(levels, scale)


def norm_clip(values: Tensor, p: float, rounded: Callable[[Tensor, float], Tensor]) -> float:
    """The clip c that makes `mean |rounded(values, c) - values|^p` smallest, by bounded scalar search.

    p = infinity is the largest magnitude: nothing is clipped.
    """
    if math.isinf(p):
        return float(values.detach().abs().max()) or 1.0
    flat = some_of(values, SAMPLES)
    top = float(flat.abs().max())
    if not top > 0:
        return 1.0

    def error(clip: float) -> float:
        return float((rounded(flat, clip) - flat).abs().pow(p).mean())

    found = minimize_scalar(error, bounds=(top / 64, top), method="bounded", options={"xatol": top / 256})
    return float(found.x)


class FakeQuantNetwork:
    """A network to be searched: `weights` (by name) and `inputs` (layer paths, in forward order) are rounded by clips.

    `set(clips)` rounds with one clip for each of `names` (weights, then inputs); `loss()` is that of the network as
    it is on the calibration batches.
    """

    def __init__(
        self,
        module: nn.Module,
        batches: list[Batch],
        weights: Mapping[str, WeightGrid],
        inputs: Sequence[str],
        act_bits: int,
        sign: Sign = "seen",
    ) -> None:
        self.module, self.batches = module, batches
        self.grids, self.act_bits = dict(weights), act_bits
        self.names = [*weights, *inputs]
        self.paths = list(inputs)
        self.parameters = {name: module.get_parameter(name) for name in weights}
        self.originals = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.signed: dict[str, bool] = {}
        self._rounding: dict[str, Callable[[Tensor], Tensor]] = {}
        for path in inputs:
            module.get_submodule(path).register_forward_pre_hook(self._hook(path))
        self._find_signs(sign)

    def _find_signs(self, sign: Sign) -> None:
        """Note which inputs get levels with a sign: where "seen", those that are ever negative, on all calibration
        batches and in every call."""
        if sign != "seen":
            self.signed = dict.fromkeys(self.paths, sign == "signed")
            return

        def seen(path: str) -> Callable[[Tensor], Tensor]:
            def look(given: Tensor) -> Tensor:
                self.signed[path] = self.signed.get(path, False) or bool((given < 0).any())
                return given

            return look

        self._rounding = {path: seen(path) for path in self.paths}
        with torch.no_grad():
            for batch in self.batches:
                batch.run(self.module)
        self._rounding = {}

    def _hook(self, path: str) -> Callable[..., Any]:
        def hook(part: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            rounding = self._rounding.get(path)
            return given if rounding is None else (rounding(given[0]), *given[1:])

        return hook

    def set(self, clips: Sequence[float]) -> None:
        """Round every weight and input with its clip."""
        for name, clip in zip(self.names, clips, strict=True):
            if name in self.grids:
                self._set_weight(name, clip)
            else:
                self._rounding[name] = self.activation(name, clip)

    def _set_weight(self, name: str, clip: float) -> None:
        with torch.no_grad():
            self.parameters[name].copy_(self.quantised(name, clip).dequantize())

    def quantised(self, name: str, clip: float) -> QTensor:
        """A weight as it is stored."""
        return self.grids[name].quantised(self.originals[name], clip)

    def activation(self, path: str, clip: float) -> Activation:
        """The rounding of an input as it is stored."""
        return input_rounding(clip, self.act_bits, self.signed[path])

    def norm_clips(self, p: float) -> list[float]:
        """The clips that minimise Lp norms: of weights one by one, then of inputs in forward order on the first batch,
        each after what is already rounded. Sets them."""
        clip_of: dict[str, float] = {}
        for name, grid in self.grids.items():
            plain = WeightGrid(grid.bits, grid.zero_level, 0)
            weight = self.originals[name]
            clip_of[name] = norm_clip(weight, p, lambda x, c, plain=plain: rounded_plainly(x, c, plain))  # type: ignore[misc]
            self._set_weight(name, clip_of[name])

        def observed(path: str) -> Callable[[Tensor], Tensor]:
            def rounding(values: Tensor) -> Tensor:
                clip_of[path] = norm_clip(
                    values, p, lambda x, c: input_rounding(c, self.act_bits, self.signed[path])(x)
                )
                self._rounding[path] = self.activation(path, clip_of[path])
                return self._rounding[path](values)

            return rounding

        self._rounding = {path: observed(path) for path in self.paths}
        with torch.no_grad():
            self.batches[0].run(self.module)
        clips = [clip_of[name] for name in self.names]
        self.set(clips)
        return clips

    def loss(self) -> float:
        """The mean loss over all calibration batches."""
        return mean_loss(self.module, self.batches)


def rounded_plainly(values: Tensor, clip: float, grid: WeightGrid) -> Tensor:
    """Values on the levels of a grid, without the offsets of channels."""
    half = 2 ** (grid.bits - 1)
    step, shift, low = (clip / half, 0.0, -half) if grid.zero_level else (2 * clip / (2 * half - 1), clip, 0)
    codes: Tensor = ((values + shift) / step).round().clamp_(low, low + 2 * half - 1)
    found: Tensor = codes * step - shift
    return found
