"""VLCQ: data-free quantisation for variable-length codes. Uniform grids without clipping, then entropy coding.

No fixed code width, no clipping, no data; the step decides the rate (VLCQ, Future Generation Computer Systems 2025, doi
10.1016/j.future.2024.107654). Only its abstract was available to us, so the algorithm is ours:

* One number rules all tensors. Where errors count alike, the optimal step is the same everywhere (a bit buys 6 dB
  wherever it is spent); `target_bits` or `max_bytes` is met by bisection on estimated rates and a few real encodes.
* From the weights alone, errors are compensated along each row with a prior of what inputs look like.
* With the network's code (`--model`), inputs are synthesised from the batch-norm statistics; the step of a layer
  follows its measured sensitivity, rows are scaled by theirs (free of charge where the following batch norm is written
  as a pair), and errors are compensated in GPTQ order on the inputs that the quantised network itself sees.

Dead zones (rate-distortion-optimised rounding), dependent quantisation and batch norm re-fitted to its old statistics
were measured and lost: see docs/design/0006. Needs nothing but the weights; `--calibrate` uses the task's calibration
split instead of synthesis, and tunes batch norm and biases to the outputs of the original (docs/design/0007).
"""

import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.method import Method, RunFolder, TensorSource
from ..core.model import CompressedModel, Entry, KeptTensor, Piece
from ..core.samples import Samples
from ..core.task import Task
from ..errors import BudgetError, UsageError
from ..files.terse import measure
from ..steps.budget import CLOSE, fill
from ..steps.calibrate import calibration
from ..steps.compensate import DAMPING
from ..steps.network import NetworkQuantizer, RowScale
from ..steps.plan import Plan
from ..steps.sides import PairedSource, left_out, prepare_batch_norm, why_kept
from ..steps.synthesize import guess_shape, not_synthesised, synthesize
from ..steps.tune import tuned

DEFAULT_BITS = 4.0
ROUNDS = 4  # of filling a budget and tuning
REAL_DAMPING = 0.03  # of moments of real inputs: better below 1 bit, equal above (docs/design/0007)


@dataclass(frozen=True)
class Vlcq(Method):
    """Entropy-coded uniform quantisation to `target_bits` per weight (default 4) or to a file of `max_bytes`.

    `nominal_bits` are those of rounding without compensation, which takes more at low rates: no trials, so a search
    over rates steps through these.
    `input_shape` ("3x32x32", "1024") is guessed if absent; `images` inputs are synthesised in `synthesis_steps` steps.
    On real inputs (`calibrate`) batch norm and biases are tuned for `tune` epochs.
    """

    needs: ClassVar[str] = "nothing"
    reference: ClassVar[str] = ""
    rate: ClassVar[str] = "nominal_bits"
    rates: ClassVar[tuple[float, ...]] = tuple(float(f"{8 * 0.97**k:.3g}") for k in range(220))

    target_bits: float | None = None
    nominal_bits: float | None = None
    max_bytes: int | None = None
    calibrate: bool = False
    images: int = 128
    synthesis_steps: int = 150
    tune: int = 8
    input_shape: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.target_bits, self.nominal_bits, self.max_bytes)) > 1:
            raise UsageError("give one of --target-bits, --nominal-bits and --max-bytes")
        for name, bits in (("target_bits", self.target_bits), ("nominal_bits", self.nominal_bits)):
            if bits is not None and not 0 < bits <= 16:
                raise UsageError(f"{name} is {bits}; it must be above 0 and at most 16")
        if min(self.images, self.synthesis_steps) < 1 or self.tune < 0 or not 0 <= self.seed < 1 << 63:
            raise UsageError("images and synthesis_steps must be at least 1, tune at least 0, seed 0 to 2^63 - 1")

    def at(self, rate: float) -> Method:
        """At another rate, and to no number of bytes."""
        return replace(self, nominal_bits=rate, target_bits=None, max_bytes=None)

    def work(self, task: Task | None) -> float:
        """Inputs are synthesised or tuned on, and seen by every layer three times."""
        return self.images * (100.0 + 3 * (self.tune if self.calibrate else self.synthesis_steps))

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
        """Inputs, sensitivities and units of steps, measured once for all rates."""
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

        def pieces(method: Method) -> Iterator[Piece]:
            assert isinstance(method, Vlcq)
            return method._filled(plan, method.model(original, ()), task)

        return pieces

    def _filled(self, plan: Plan, around: CompressedModel, task: Task | None) -> Iterator[Piece]:
        """The tensors of `plan` at the step that the rate or the budget wants."""
        if not plan.units:
            rest = measure(plan.kept_entries(), around)
            if self.max_bytes is not None and rest > self.max_bytes:
                raise BudgetError(f"{self.max_bytes:,} bytes cannot be met: nothing to quantise, {rest:,} bytes", rest)
            yield from plan.kept_entries()
        elif plan.network is None:
            yield from plan.entries(self._step(plan, plan.entries, around, 0))
        else:
            yield from self._of_network(plan, around, task).items()

    def _of_network(self, plan: Plan, around: CompressedModel, task: Task | None) -> dict[str, Entry]:
        """The tensors of a network that could be run, tuned where there is something to tune on."""
        made: dict[float, dict[str, Entry]] = {}

        def entries(c: float) -> Iterator[tuple[str, Entry]]:
            if c not in made:
                made.clear()  # only the last is held
                made[c] = dict(plan.entries(c))
            return iter(made[c].items())

        best: dict[str, Entry] = {}
        most = more = 0  # bytes: of the best, and that tuned numbers take more than the others
        for _ in range(ROUNDS):
            try:
                plain = dict(entries(self._step(plan, entries, around, more)))
            except BudgetError:
                if best:
                    break
                raise
            if task is None or not (self.calibrate and self.tune):
                return plain
            assert plan.network is not None
            found = self._tuned(plan.network, plain, around)
            if self.max_bytes is None:
                return found
            best, size = best or plain, measure(iter(found.items()), around)
            if most < size <= self.max_bytes:
                best, most = found, size
            more = size - measure(iter(plain.items()), around)
            if more == 0 or CLOSE * self.max_bytes <= size <= self.max_bytes:
                break
        return best

    def _step(
        self, plan: Plan, entries: Callable[[float], Iterator[tuple[str, Entry]]], around: CompressedModel, less: int
    ) -> float:
        """The common step: at the nominal rate, or the smallest that fills the budget, `less` so many bytes."""
        if self.nominal_bits is not None:
            return plan.nominal(self.nominal_bits)
        rest = measure(plan.kept_entries(), around)
        bits = self.target_bits or DEFAULT_BITS
        goal, what = rest + int(bits * plan.weights / 8), f"{bits} bits per weight"
        if self.max_bytes is not None:
            goal, what = self.max_bytes - less, f"a file of {self.max_bytes:,} bytes"
        return fill(plan.estimate, lambda c: measure(entries(c), around), goal, what, rest)

    def _tuned(self, network: NetworkQuantizer, found: dict[str, Entry], around: CompressedModel) -> dict[str, Entry]:
        """`found` with batch norm and biases tuned on the calibration samples."""
        vectors = [
            name
            for name, entry in found.items()
            if isinstance(entry, KeptTensor) and len(entry.shape) < 2 and left_out(name, self) is None
        ]
        model = replace(around, tensors=found)
        return found | tuned(network.module, model, network.inputs, vectors, self.tune, self.seed)

    def _inputs(self, module: nn.Module, task: Task | None) -> Samples | None:
        """Inputs to compensate errors on: calibration data if asked for, else synthesised; None if impossible."""
        if self.calibrate:
            assert task is not None
            return Samples(calibration(task, self.images))
        if why := not_synthesised(module):
            warnings.warn(
                f"{type(module).__name__} {why}, so no inputs can be synthesised: errors are "
                "compensated with a prior instead; for better results give --calibrate and a --task",
                stacklevel=3,
            )
            return None
        shape = guess_shape(module) if self.input_shape is None else parse_shape(self.input_shape)
        return Samples([Batch(synthesize(module, self.images, shape, self.synthesis_steps, self.seed))])

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
    """The shape of one input: `"3x32x32"` is `(3, 32, 32)`, `"1024"` is `(1024,)`. **Raises** `UsageError`."""
    parts = text.lower().split("x")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(
            f"input shape {text!r}: expected the sizes of one input without the batch, each above 0 and joined by x: "
            "3x32x32 for an image, 1024 for a vector, 160x40 for a sequence of vectors"
        )
    return tuple(map(int, parts))
