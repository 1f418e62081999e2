"""VLCQ: data-free quantisation for variable-length codes. Uniform grids without clipping, then entropy coding.

No fixed code width, no clipping, no data; the step decides the rate (VLCQ, Future Generation Computer Systems 2025, doi
10.1016/j.future.2024.107654). Only its abstract was available to us, so the algorithm is ours:

* One number rules all tensors. Where errors count alike, the optimal step is the same everywhere (a bit buys 6 dB
  wherever it is spent); `target_bits` or `max_bytes` is met by bisection on estimated rates and a few real encodes.
* From the weights alone, errors are compensated along each row with a prior of what inputs look like.
* With the network's code (`--model`), inputs are synthesised from the batch-norm statistics; the step of a layer
  follows its measured sensitivity, rows are scaled by theirs (free of charge where the following batch norm is written
  as a pair), and errors are compensated in GPTQ order on the inputs that the quantised network itself sees.

Dead zones (rate-distortion-optimised rounding), dependent quantisation and re-fitted batch norms were measured and
lost: see docs/design/0006. Needs nothing but the weights; `--calibrate` uses the task's calibration split instead of
synthesis.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..core.grid import Uniform
from ..core.method import Method, RunFolder, TensorSource
from ..core.model import CompressedModel, Entry, Piece, QTensor
from ..core.task import Task
from ..errors import BudgetError, UsageError
from ..files.terse import measure
from ..progress import progress
from ..steps.budget import fill
from ..steps.calibrate import calibration
from ..steps.compensate import DAMPING
from ..steps.network import NetworkQuantizer, RowScale
from ..steps.prior import relative_step, round_with_feedback, sampled
from ..steps.rate import rounded_entropy
from ..steps.sides import LARGEST, PairedSource, check_finite, keep, prepare_batch_norm, why_kept
from ..steps.synthesize import guess_shape, has_statistics, synthesize

DEFAULT_BITS = 4.0
SAMPLE = 1 << 14  # weights per tensor that rates are estimated on
MOST = 2.0**22  # magnitude of a code
REAL_DAMPING = 0.03  # of moments of real inputs: better below 1 bit, equal above (docs/design/0007)
TABLE_BYTES = 14  # what a tensor's frequency table takes, for estimates


def on_grid(codes: Tensor, step: float, dtype: torch.dtype) -> QTensor:
    """Codes in the narrowest integers that hold them, on a grid with one fp32 step."""
    low, high = int(codes.min()), int(codes.max())
    kinds = (torch.int8, torch.int16, torch.int32)
    kind = next(k for k in kinds if torch.iinfo(k).min <= low and high <= torch.iinfo(k).max)
    return QTensor(codes.to(kind), Uniform(torch.tensor(step, dtype=torch.float32)), dtype)


def round_weight(weight: Tensor, axis: int, step: float) -> Tensor:
    """Codes of a weight, in its shape, with the feedback of `steps.prior`; its channels (on `axis`) are the rows."""
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


class Plan:
    """A checkpoint prepared for quantisation with any common step `c`: samples for estimates, units of the steps.

    **Raises** `WeightError` for a NaN or an infinity in a weight to be quantised.
    """

    def __init__(self, source: TensorSource, kept: Mapping[str, str], side: str) -> None:
        self.source, self.kept, self.side = source, kept, side
        self.network: NetworkQuantizer | None = None
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

    def use(self, network: NetworkQuantizer) -> None:
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

    def follow(self, bits: Mapping[str, int]) -> None:
        """Make the rates of the tensors in `bits` differ as their bits do (step ~ spread / 2^bits); their mean
        stays."""
        wanted = {name: math.log2(float(self.samples[name].std()) or 1.0) - width for name, width in bits.items()}
        shift = sum(math.log2(self.units[name]) - wanted[name] for name in wanted) / max(1, len(wanted))
        self.units.update({name: 2.0 ** (exponent + shift) for name, exponent in wanted.items()})

    def step(self, name: str, c: float) -> float:
        """The step of a tensor at the common step `c`, in fp32; not so small that codes outgrow fp32's integers."""
        return float(torch.tensor(max(c * self.units[name], self.extremes[name] / MOST), dtype=torch.float32))

    def estimate(self, c: float) -> float:
        """Estimated bytes of the quantised tensors."""
        return sum(
            TABLE_BYTES + self.source.specs[name].shape.numel() * rounded_entropy(sample, self.step(name, c)) / 8
            for name, sample in self.samples.items()
        )

    def kept_entries(self) -> Iterator[tuple[str, Entry]]:
        """The tensors that are not quantised."""
        for name, reason in self.kept.items():
            tensor = self.replaced[name] if name in self.replaced else self.source.read(name)
            yield name, keep(tensor, reason, self.side)

    def entries(self, c: float) -> Iterator[tuple[str, Entry]]:
        """Every tensor of the checkpoint, in order."""
        kept = dict(self.kept_entries())
        made = (
            {}
            if self.network is None
            else {name: (codes, step) for name, codes, step in self.network.codes(lambda name: self.step(name, c))}
        )
        for done, (name, spec) in enumerate(self.source.specs.items()):
            if name in made:
                yield name, on_grid(*made[name], spec.dtype)
            elif name in self.units:
                step = self.step(name, c)
                yield name, on_grid(round_weight(self.source.read(name), spec.axis, step), step, spec.dtype)
            else:
                yield name, kept[name]
            progress("quantising", done + 1, len(self.source.specs))


@dataclass(frozen=True)
class Vlcq(Method):
    """Entropy-coded uniform quantisation to `target_bits` per weight (default 4) or to a file of `max_bytes`.

    `input_shape` ("3x32x32") is guessed if absent; `images` inputs are synthesised in `synthesis_steps` steps.
    """

    needs: ClassVar[str] = "nothing"
    reference: ClassVar[str] = ""
    rate: ClassVar[str] = "target_bits"
    rates: ClassVar[tuple[float, ...]] = tuple(round(8 * 0.95**k, 3) for k in range(72))

    target_bits: float | None = None
    max_bytes: int | None = None
    calibrate: bool = False
    images: int = 128
    synthesis_steps: int = 150
    input_shape: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.target_bits is not None and self.max_bytes is not None:
            raise UsageError("give --target-bits or --max-bytes, not both")
        if self.target_bits is not None and not 0 < self.target_bits <= 16:
            raise UsageError(f"target_bits is {self.target_bits}; it must be above 0 and at most 16")
        if self.images < 1 or self.synthesis_steps < 1 or not 0 <= self.seed < 1 << 63:
            raise UsageError("images and synthesis_steps must be at least 1, seed 0 to 2^63 - 1")

    def at(self, rate: float) -> Method:
        """At another rate, and to no number of bytes."""
        return replace(self, target_bits=rate, max_bytes=None)

    def work(self, task: Task | None) -> float:
        """Inputs are synthesised, and seen by every layer three times."""
        return self.images * (100.0 if self.calibrate else 100.0 + 3 * self.synthesis_steps)

    def compress(
        self,
        source: TensorSource,
        module: nn.Module | None = None,
        task: Task | None = None,
        run: RunFolder | None = None,
    ) -> Iterator[Piece]:
        """Every tensor, quantised to the budget or kept. **Raises** `BudgetError` if the budget cannot be met."""
        yield from self.prepared(source, module, task)(self)

    def prepared(
        self, source: TensorSource, module: nn.Module | None, task: Task | None
    ) -> Callable[[Method], Iterator[Piece]]:
        """Inputs, sensitivities and units of steps, measured once for all rates; sizes that were tried are known."""
        if self.calibrate and (task is None or module is None):
            raise UsageError("--calibrate needs --model and --task (task=...) with a calibration split")
        original, source = source, prepare_batch_norm(source, self.bn, module)
        reasons = {name: why_kept(name, spec, self) for name, spec in source.specs.items()}
        plan = Plan(source, {name: reason for name, reason in reasons.items() if reason is not None}, self.side)
        network = None if module is None or not plan.units else deepcopy(module).float().eval()
        inputs = None if network is None else self._inputs(network, task)
        if network is not None and inputs is not None:
            rows, damping = self._row_scale(source), REAL_DAMPING if self.calibrate else DAMPING
            wanted = plan.units.__contains__
            plan.use(NetworkQuantizer(network, inputs, wanted, rows, self.seed, damping))
        if self.layer_bits:
            given = {name: self.bits_of(name, 0) for name in plan.units}
            plan.follow({name: bits for name, bits in given.items() if bits})
        tried: list[tuple[float, int]] = []

        def pieces(method: Method) -> Iterator[Piece]:
            assert isinstance(method, Vlcq)
            return method._filled(plan, method.model(original, ()), tried)

        return pieces

    def _filled(self, plan: Plan, around: CompressedModel, tried: list[tuple[float, int]]) -> Iterator[Piece]:
        """The tensors of `plan` at the step that fills the budget; `tried` are steps and bytes of the codes."""
        rest = measure(plan.kept_entries(), around)
        if not plan.units:
            if self.max_bytes is not None and rest > self.max_bytes:
                raise BudgetError(f"{self.max_bytes:,} bytes cannot be met: nothing to quantise, {rest:,} bytes", rest)
            yield from plan.kept_entries()
            return
        made: dict[float, dict[str, Entry]] = {}  # only a network's result is held: bare tensors are made again

        def entries(c: float) -> Iterator[tuple[str, Entry]]:
            if plan.network is None:
                return plan.entries(c)
            if c not in made:
                made.clear()
                made[c] = dict(plan.entries(c))
            return iter(made[c].items())

        weights = sum(plan.source.specs[name].shape.numel() for name in plan.units)
        bits = self.target_bits or DEFAULT_BITS
        goal, what = rest + int(bits * weights / 8), f"{bits} bits per weight"
        if self.max_bytes is not None:
            goal, what = self.max_bytes, f"a file of {self.max_bytes:,} bytes"
        yield from entries(fill(plan.estimate, lambda c: measure(entries(c), around), goal, what, rest, tried))

    def _inputs(self, module: nn.Module, task: Task | None) -> Tensor | None:
        """Inputs to compensate errors on: calibration data if asked for, else synthesised; None if impossible."""
        if self.calibrate:
            assert task is not None
            return torch.cat([inputs for inputs, _ in calibration(task, self.images)])
        if not has_statistics(module):
            warnings.warn(
                f"{type(module).__name__} has no batch-norm statistics, so no inputs can be synthesised: errors are "
                "compensated with a prior instead; for better results give --calibrate and a --task",
                stacklevel=3,
            )
            return None
        shape = guess_shape(module) if self.input_shape is None else parse_shape(self.input_shape)
        return synthesize(module, self.images, shape, self.synthesis_steps, self.seed)

    def _row_scale(self, source: TensorSource) -> RowScale:
        """What rows are multiplied with where a batch norm undoes it: their sensitivity, or its scale to fold it."""

        def chosen(norm: str, sensitivity: Tensor) -> Tensor | None:
            if not isinstance(source, PairedSource) or norm not in source.eps:
                return None
            if self.bn == "pair":
                return sensitivity.sqrt().clamp(2**-6, 2**6)
            scale = source.read(f"{norm}.weight").to(torch.float32)
            return torch.where(scale == 0, torch.ones_like(scale), scale)

        return chosen


def parse_shape(text: str) -> tuple[int, ...]:
    """`"3x32x32"` as `(3, 32, 32)`. **Raises** `UsageError`."""
    try:
        return tuple(int(part) for part in text.split("x"))
    except ValueError:
        raise UsageError(f"input shape {text!r}: expected sizes joined by x, such as 3x32x32") from None
