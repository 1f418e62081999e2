"""A checkpoint prepared for quantisation at any number of bits: one common step sets the steps of all tensors."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ...core.grid import Uniform, narrowest
from ...core.method import TensorSource
from ...core.model import Entry, QTensor
from ...network.kept import LARGEST, check_finite, keep
from ...progress import progress
from .data_free_feedback import relative_step, round_with_feedback, sampled
from .entropy import rounded_entropy, solve_step
from .sequential import SequentialGptq

SAMPLE = 1 << 14  # weights per tensor that entropies are estimated on
MOST = 2.0**22  # magnitude of a code
TABLE_BYTES = 14  # what a tensor's frequency table takes, for estimates


def on_grid(codes: Tensor, step: float, dtype: torch.dtype) -> QTensor:
    """Codes in the narrowest integers that hold them, on a grid with one fp32 step."""
    return QTensor(narrowest(codes), Uniform(torch.tensor(step, dtype=torch.float32)), dtype)


def round_weight(weight: Tensor, axis: int, step: float) -> Tensor:
    """Codes of a weight, in its shape, with data-free feedback; its channels (on `axis`) are the rows."""
    turned = weight.transpose(0, axis)
    codes = round_with_feedback(turned.flatten(1), step, turned.shape[2:].numel())
    return codes.reshape(turned.shape).transpose(0, axis).contiguous()


def spread_units(units: dict[str, float]) -> None:
    """Make tensors whose spread is 1000 times that of the middle one, or a thousandth, take their part of the bits.

    A step that follows the spread so little would leave nothing of them, or give them all bits; their scale is likely
    to be undone elsewhere in the network. Changes `units` (spread^(1/4), see `relative_step`).
    """
    middle = sorted(units.values())[len(units) // 2] if units else 1.0
    for name, unit in units.items():
        ratio = (unit / middle) ** 4
        if not 1e-3 <= ratio <= 1e3:
            units[name] = middle * ratio


class StepPlan:
    """A checkpoint prepared for quantisation with any common step `c`: samples for estimates, units of the steps.

    **Raises** `WeightError` for a NaN or an infinity in a weight to be quantised.
    """

    def __init__(self, source: TensorSource, kept: Mapping[str, str], kept_dtype: str) -> None:
        self.source, self.kept, self.kept_dtype = source, kept, kept_dtype
        self.network: SequentialGptq | None = None
        self.samples: dict[str, Tensor] = {}
        self.extremes: dict[str, float] = {}
        self.units: dict[str, float] = {}
        self.replaced: dict[str, Tensor] = {}  # batch norm that undoes the scales of rows
        for done, name in enumerate(source.specs):
            if name not in kept:
                weight = source.read(name)
                extreme = max(-float(weight.amin()), float(weight.amax()))
                if not extreme <= LARGEST:
                    check_finite(name, weight)
                self.extremes[name] = extreme
                self.samples[name], self.units[name] = sampled(weight, SAMPLE), relative_step(weight)
            progress("reading weights", done + 1, len(source.specs))
        spread_units(self.units)

    def use(self, network: SequentialGptq) -> None:
        """Quantise the layers of `network` with it; tensors it does not run (embeddings) keep their relative step."""
        self.network = network
        ratios = sorted(unit / self.units[name] for name, unit in network.units.items())
        middle = ratios[len(ratios) // 2] if ratios else 1.0
        self.units = {name: network.units.get(name, unit * middle) for name, unit in self.units.items()}
        for name, scale in network.scales.items():
            self.samples[name] = self.samples[name] * float(scale.abs().log().mean().exp())
            self.extremes[name] *= float(scale.abs().max())
            norm, bias = f"{network.norms[name]}.weight", f"{name.removesuffix('weight')}bias"
            self.replaced[norm] = self.source.read(norm) / scale.to(self.source.specs[norm].dtype)
            if bias in self.source.specs:  # it is added before the batch norm, so it is scaled like the rows
                self.replaced[bias] = self.source.read(bias) * scale.to(self.source.specs[bias].dtype)

    def match_widths(self, bits: Mapping[str, int]) -> None:
        """Let the tensors in `bits` take bits per weight that differ from each other as the given widths do (a step is
        proportional to spread / 2^bits); the mean of the logarithms of their steps stays."""
        exponents = {name: math.log2(float(self.samples[name].std()) or 1.0) - width for name, width in bits.items()}
        shift = sum(math.log2(self.units[name]) - exponents[name] for name in exponents) / max(1, len(exponents))
        self.units.update({name: 2.0 ** (exponent + shift) for name, exponent in exponents.items()})

    def step(self, name: str, c: float) -> float:
        """The step of a tensor at the common step `c`, in fp32; not so small that codes outgrow fp32's integers."""
        return float(torch.tensor(max(c * self.units[name], self.extremes[name] / MOST), dtype=torch.float32))

    @property
    def weights(self) -> int:
        """How many are quantised."""
        return sum(self.source.specs[name].shape.numel() for name in self.units)

    def estimate(self, c: float) -> float:
        """Estimated bytes of the quantised tensors."""
        return TABLE_BYTES * len(self.samples) + sum(
            self.source.specs[name].shape.numel() * rounded_entropy(sample, self.step(name, c)) / 8
            for name, sample in self.samples.items()
        )

    def nominal(self, bits: float) -> float:
        """The common step at which plain rounding takes so many bits per weight."""
        return solve_step(self.estimate, TABLE_BYTES * len(self.samples) + bits * self.weights / 8)

    def kept_entries(self) -> Iterator[tuple[str, Entry]]:
        """The tensors that are not quantised."""
        for name, reason in self.kept.items():
            tensor = self.replaced[name] if name in self.replaced else self.source.read(name)
            yield name, keep(tensor, reason, self.kept_dtype)

    def entries(self, c: float) -> Iterator[tuple[str, Entry]]:
        """Every tensor of the checkpoint, in order."""
        kept = dict(self.kept_entries())
        compensated = (
            {}
            if self.network is None
            else {name: (codes, step) for name, codes, step in self.network.codes(lambda name: self.step(name, c))}
        )
        for done, (name, spec) in enumerate(self.source.specs.items()):
            if name in compensated:
                yield name, on_grid(*compensated[name], spec.dtype)
            elif name in self.units:
                step = self.step(name, c)
                yield name, on_grid(round_weight(self.source.read(name), spec.axis, step), step, spec.dtype)
            else:
                yield name, kept[name]
            progress("quantising", done + 1, len(self.source.specs))
