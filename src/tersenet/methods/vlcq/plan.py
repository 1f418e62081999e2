"""A checkpoint prepared for quantisation at any number of bits: one common step sets the steps of all tensors."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from ...core.grid import Grid, Outer, Uniform, narrowest
from ...core.method import TensorSource
from ...core.model import Entry, QTensor
from ...network.kept import LARGEST, check_finite, keep
from ...progress import progress
from .data_free_feedback import round_with_feedback
from .entropy import entropy, rounded_entropy, solve_step
from .rules import EVEN, rules
from .sequential import SequentialGptq
from .steps import MANTISSA, Weight, divided, measured

MOST = 2.0**22  # magnitude of a code
TABLE_BYTES = 14  # what a tensor's frequency table takes, for estimates


def on_grid(codes: Tensor, step: float, known: Weight, dtype: torch.dtype) -> QTensor:
    """Codes in the narrowest integers that hold them, on a grid with one fp32 step and the factors of a weight."""
    scale, (rows, columns) = torch.tensor(step, dtype=torch.float32), known.by_dimension
    one = rows is None and columns is None
    grid: Grid = Uniform(scale) if one else Outer(scale, rows, columns, MANTISSA)
    return QTensor(narrowest(codes), grid, dtype)


def round_weight(weight: Tensor, known: Weight, step: float) -> Tensor:
    """Codes of a weight, in its shape, with data-free feedback; its channels are the rows."""
    turned = weight.transpose(0, known.axis)
    codes = torch.empty(turned.shape, dtype=torch.int8)
    for where, block in divided(weight, known):
        part = round_with_feedback(block, step, turned.shape[2:].numel(), known.rule.prior)
        kind = torch.promote_types(codes.dtype, narrowest(part).dtype)
        codes = codes.to(kind)
        codes[where] = part.reshape(codes[where].shape).to(kind)
    return codes.transpose(0, known.axis).contiguous()


def relative_units(known: Mapping[str, Weight]) -> dict[str, float]:
    """The steps of weights relative to each other, see `Rule`: at a spread as in the middle of all, the same.

    Where a step follows the spread so little that weights 1000 times as large as those of the middle one, or a
    thousandth, would get all bits or none, it is proportional to it: their scale is likely to be undone elsewhere.
    """
    spreads = {name: weight.spread or 1.0 for name, weight in known.items()}
    middle = math.exp(sum(map(math.log, spreads.values())) / max(1, len(spreads)))
    units = {}
    for name, weight in known.items():
        rule = weight.rule
        units[name] = rule.unit * spreads[name] ** rule.tensor * middle ** (EVEN.tensor - rule.tensor)
    normed = [units[name] for name, weight in known.items() if weight.rule.tensor == EVEN.tensor]
    usual = sorted(normed)[len(normed) // 2] if normed else 1.0
    for name, weight in known.items():
        ratio = (units[name] / usual) ** 4
        if weight.rule.tensor == EVEN.tensor and not 1e-3 <= ratio <= 1e3:
            units[name] = usual * ratio
    return units


class StepPlan:
    """A checkpoint prepared for quantisation with any common step `c`: what is known of weights, units of the steps.

    **Raises** `WeightError` for a NaN or an infinity in a weight to be quantised.
    """

    def __init__(self, source: TensorSource, kept: Mapping[str, str], kept_dtype: str) -> None:
        self.source, self.kept, self.kept_dtype = source, kept, kept_dtype
        self.network: SequentialGptq | None = None
        self.known: dict[str, Weight] = {}
        self.replaced: dict[str, Tensor] = {}  # batch norm that undoes the scales of rows
        rule_of = rules(source.specs, source.aliases, [name for name in source.specs if name not in kept])
        for done, (name, spec) in enumerate(source.specs.items()):
            if name in rule_of:
                weight = source.read(name)
                if not max(-float(weight.amin()), float(weight.amax())) <= LARGEST:
                    check_finite(name, weight)
                self.known[name] = measured(weight, spec.axis, rule_of[name])
            progress("reading weights", done + 1, len(source.specs))
        self.units = relative_units(self.known)

    def use(self, network: SequentialGptq) -> None:
        """Quantise the layers of `network` with it; tensors it does not run (embeddings) keep their relative step."""
        self.network = network
        ratios = sorted(unit / self.units[name] for name, unit in network.units.items())
        middle = ratios[len(ratios) // 2] if ratios else 1.0
        self.units = {name: network.units.get(name, unit * middle) for name, unit in self.units.items()}
        for name in network.units:
            if self.known[name].rule.tensor != EVEN.tensor:
                self.known[name] = measured(self.source.read(name), self.known[name].axis, EVEN)
        for name, scale in network.scales.items():
            old = self.known[name]
            sample = old.sample * float(scale.abs().log().mean().exp())
            self.known[name] = replace(old, sample=sample, extreme=old.extreme * float(scale.abs().max()))
            norm, bias = f"{network.norms[name]}.weight", f"{name.removesuffix('weight')}bias"
            self.replaced[norm] = self.source.read(norm) / scale.to(self.source.specs[norm].dtype)
            if bias in self.source.specs:  # it is added before the batch norm, so it is scaled like the rows
                self.replaced[bias] = self.source.read(bias) * scale.to(self.source.specs[bias].dtype)

    def match_widths(self, bits: Mapping[str, int]) -> None:
        """Let the tensors in `bits` take bits per weight that differ from each other as the given widths do (a step is
        proportional to spread / 2^bits); the mean of the logarithms of their steps stays."""
        exponents = {
            name: math.log2(float(self.known[name].sample.std()) or 1.0) - width for name, width in bits.items()
        }
        shift = sum(math.log2(self.units[name]) - exponents[name] for name in exponents) / max(1, len(exponents))
        self.units.update({name: 2.0 ** (exponent + shift) for name, exponent in exponents.items()})

    def step(self, name: str, c: float) -> float:
        """The step of a tensor at the common step `c`, in fp32; not so small that codes outgrow fp32's integers."""
        return float(torch.tensor(max(c * self.units[name], self.known[name].extreme / MOST), dtype=torch.float32))

    @property
    def weights(self) -> int:
        """How many are quantised."""
        return sum(self.source.specs[name].shape.numel() for name in self.units)

    @cached_property
    def beside(self) -> float:
        """Estimated bytes of tables and factors."""
        numbers = [part for known in self.known.values() for part in (known.rows, known.columns) if part is not None]
        return TABLE_BYTES * (len(self.known) + 2 * len(numbers)) + sum(len(n) * entropy(n) / 8 for n in numbers)

    def estimate(self, c: float) -> float:
        """Estimated bytes of the quantised tensors."""
        return self.beside + sum(
            self.source.specs[name].shape.numel() * rounded_entropy(known.sample, self.step(name, c)) / 8
            for name, known in self.known.items()
        )

    def nominal(self, bits: float) -> float:
        """The common step at which plain rounding takes so many bits per weight."""
        return solve_step(self.estimate, self.beside + bits * self.weights / 8)

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
                yield name, on_grid(*compensated[name], self.known[name], spec.dtype)
            elif name in self.units:
                step = self.step(name, c)
                known = self.known[name]
                yield name, on_grid(round_weight(self.source.read(name), known, step), step, known, spec.dtype)
            else:
                yield name, kept[name]
            progress("quantising", done + 1, len(self.source.specs))
