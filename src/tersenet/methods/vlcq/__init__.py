"""VLCQ: data-free quantisation for variable-length codes. Uniform grids without clipping, then entropy coding.

No fixed code width, no clipping, no data; the step decides the rate (VLCQ, Future Generation Computer Systems 2025, doi
10.1016/j.future.2024.107654). Only its abstract was available to us, so the algorithm is ours:

* One number rules all tensors. Where errors count alike, the optimal step is the same everywhere (a bit buys 6 dB
  wherever it is spent); `target_bits` or `max_bytes` is met by bisection on estimated rates and a few real encodes.
* From the weights alone, errors are compensated along each row with a prior of what inputs look like. In networks
  without batch norm (and in recurrent layers of all) the step of a row and of a column follows the magnitude of its
  weights, which says how much it matters; embeddings, queries, keys and values are told by their names (`rules`).
* With the network's code (`module=`), inputs are synthesised from the batch-norm statistics; the step of a layer
  follows its measured sensitivity, rows are scaled by theirs (free of charge where the following batch norm is written
  as a pair), and errors are compensated in GPTQ order on the inputs that the quantised network itself sees.

Dead zones (rate-distortion-optimised rounding), dependent quantisation and batch norm re-fitted to its old statistics
were measured and lost: see docs/design/0006 and 0018. Needs nothing but the weights; `calibrate=True` uses a
calibration split instead of synthesis, and tunes batch norm and biases to the outputs of the original (0007).

Use it with a checkpoint alone, or with a network and no time to train: it is what `compress` does by default. Not
when fixed code widths are what you need (it has none), or below some 2 bits, where training pays. It costs seconds
for a bare checkpoint; minutes with the network's code, which synthesises inputs and goes layer by layer.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from ...core.batch import Batch
from ...core.fields import Seed, Within
from ...core.method import Job, Knob, Method, TensorSource
from ...core.model import CompressedModel, Entry, Item, KeptTensor
from ...core.samples import Samples
from ...core.task import Task
from ...errors import BudgetError, UsageError
from ...files.terse import measure
from ...network.calibrate import calibration
from ...network.gptq import DAMPING
from ...network.kept import COMPUTED, ScaleShiftSource, left_out, prepare_batch_norm, smallest_batch_norm, why_kept
from ...network.synthesize import guess_shape, not_synthesised, synthesize
from .budget import CLOSE, fill
from .plan import StepPlan
from .sequential import RowScale, SequentialGptq, holdable
from .tune import tuned

DEFAULT_BITS = 4.0
ROUNDS = 4  # of filling a budget and tuning
REAL_DAMPING = 0.03  # of moments of real inputs: better below 1 bit, equal above (docs/design/0007)
RATES = tuple(float(f"{8 * 0.97**k:.3g}") for k in range(220))  # from 8 bits to 0.01
MOST_IMAGES = 4096  # that auto calibrates on


@dataclass(frozen=True)
class Vlcq(Method):
    """Entropy-coded uniform quantisation to `target_bits` per weight (default 4) or to a file of `max_bytes`.

    `nominal_bits` are those of rounding without compensation, which takes more at low rates: no trials, so a search
    over rates steps through these.
    `input_shape` ("3x32x32", "1024") is guessed if absent; `images` inputs are synthesised in `synthesis_steps` steps.
    On real inputs (`calibrate`) batch norm and biases are tuned for `tune` epochs.
    """

    needs: ClassVar[str] = "nothing"
    reference: ClassVar[str] = """@article{vlcq2025,
  title = {{VLCQ}}, journal = {Future Generation Computer Systems}, year = {2025},
  doi = {10.1016/j.future.2024.107654}
}
@inproceedings{frantar2023gptq,
  title = {{GPTQ}: Accurate Post-Training Quantization for Generative Pre-trained Transformers},
  author = {Frantar, Elias and Ashkboos, Saleh and Hoefler, Torsten and Alistarh, Dan},
  booktitle = {ICLR}, year = {2023}, eprint = {2210.17323}
}"""
    QUICK: ClassVar[Mapping[str, Any]] = {"images": 16, "synthesis_steps": 10}

    target_bits: Annotated[float, Within(above=0, most=16)] | None = None
    """Bits per quantised weight, tables and scales counted (4 if nothing is given)."""
    nominal_bits: Annotated[float, Within(above=0, most=16)] | None = None
    """A rate that takes one encode: the entropy of plain rounding; searches use it."""
    max_bytes: Annotated[int, Within(least=1)] | None = None
    """The size of the file, in bytes, in place of a rate."""
    calibrate: bool = False
    """Compensate on calibration inputs of the task instead of synthesised ones."""
    images: Annotated[int, Within(least=1)] = 128
    """Inputs to compensate on."""
    synthesis_steps: Annotated[int, Within(least=1)] = 150
    """Steps of making inputs from batch-norm statistics."""
    tune: Annotated[int, Within(least=0)] = 8
    """Epochs of tuning batch norm and biases on the calibration inputs."""
    input_shape: str | None = None
    """Shape of one input, such as 3x32x32; guessed if absent."""
    seed: Seed = 0
    """Seed of synthesised inputs and of tuning."""

    def check(self) -> None:
        """One rate or budget; a shape that can be read."""
        if sum(given is not None for given in (self.target_bits, self.nominal_bits, self.max_bytes)) > 1:
            raise UsageError("give one of target_bits=, nominal_bits= and max_bytes=")
        if self.input_shape is not None:
            parse_shape(self.input_shape)

    @property
    def knob(self) -> Knob:
        """Nominal rates, which take one encode each."""
        return Knob("nominal_bits", RATES)

    def at(self, value: float) -> Method:
        """At another nominal rate, and to no number of bytes."""
        return replace(self, nominal_bits=value, target_bits=None, max_bytes=None)

    def filling(self, max_bytes: int) -> Method:
        """To a number of bytes."""
        return replace(self, max_bytes=max_bytes)

    @classmethod
    def auto_points(cls, job: Job) -> tuple[Method, ...]:
        """Without data, and on as many calibration inputs as the inputs of all layers can be held of."""
        plain = cls(bn=smallest_batch_norm(job.source))
        if job.module is None or job.task is None or job.task.calibration is None:
            return (plain,)
        images = max(1, min(MOST_IMAGES, holdable(job.module, calibration(job.task, 2)[0])))
        return plain, replace(plain, calibrate=True, images=1 << images.bit_length() - 1)

    def sample_passes(self, task: Task | None) -> float:
        """Inputs are synthesised or tuned on, and seen by every layer three times."""
        return self.images * (100.0 + 3 * (self.tune if self.calibrate else self.synthesis_steps))

    def compress(self, job: Job) -> Iterator[Item]:
        """Every tensor, quantised to the budget or kept. **Raises** `BudgetError` if the budget cannot be met."""
        yield from self.prepare(job)(self)

    def prepare(self, job: Job) -> Callable[[Method], Iterator[Item]]:
        """Inputs, sensitivities and units of steps, measured once for all rates."""
        source, module, task = job.source, job.module, job.task
        if self.calibrate and (task is None or module is None):
            raise UsageError("calibrate=True needs the network's code (module=) and a calibration split (task=)")
        original, source = source, prepare_batch_norm(source, self.bn, module)
        reasons = {name: why_kept(name, spec, self) for name, spec in source.specs.items()}
        plan = StepPlan(
            source, {name: reason for name, reason in reasons.items() if reason is not None}, self.kept_dtype
        )
        network = None if module is None or not plan.units else deepcopy(module).float().eval()
        inputs = None if network is None else self._inputs(network, task)
        if network is not None and inputs is not None:
            rows, damping = self._row_scale(source), REAL_DAMPING if self.calibrate else DAMPING
            is_quantised = plan.units.__contains__
            plan.use(SequentialGptq(network, inputs, is_quantised, rows, self.seed, damping))
        if self.layer_bits:
            widths = {name: self.bits_of(name, 0) for name in plan.units}
            plan.match_widths({name: bits for name, bits in widths.items() if bits})

        def pieces(method: Method) -> Iterator[Item]:
            assert isinstance(method, Vlcq)
            return method._filled(plan, method.model(original, ()), task)

        return pieces

    def _filled(self, plan: StepPlan, envelope: CompressedModel, task: Task | None) -> Iterator[Item]:
        """The tensors of `plan` at the step that the rate or the budget wants."""
        if not plan.units:
            rest = measure(plan.kept_entries(), envelope)
            if self.max_bytes is not None and rest > self.max_bytes:
                raise BudgetError(f"{self.max_bytes:,} bytes cannot be met: nothing to quantise, {rest:,} bytes", rest)
            yield from plan.kept_entries()
        elif plan.network is None:
            yield from plan.entries(self._step(plan, plan.entries, envelope, 0))
        else:
            yield from self._of_network(plan, envelope, task).items()

    def _of_network(self, plan: StepPlan, envelope: CompressedModel, task: Task | None) -> dict[str, Entry]:
        """The tensors of a network that could be run, tuned where there is something to tune on."""
        encoded: dict[float, dict[str, Entry]] = {}

        def entries(c: float) -> Iterator[tuple[str, Entry]]:
            if c not in encoded:
                encoded.clear()  # only the last is held
                encoded[c] = dict(plan.entries(c))
            return iter(encoded[c].items())

        best: dict[str, Entry] = {}
        most = more = 0  # bytes: of the best, and that tuned numbers take more than the others
        for _ in range(ROUNDS):
            try:
                plain = dict(entries(self._step(plan, entries, envelope, more)))
            except BudgetError:
                if best:
                    break
                raise
            if task is None or not (self.calibrate and self.tune):
                return plain
            assert plan.network is not None
            tuned = self._tuned(plan.network, plain, envelope)
            if self.max_bytes is None:
                return tuned
            best, size = best or plain, measure(iter(tuned.items()), envelope)
            if most < size <= self.max_bytes:
                best, most = tuned, size
            more = size - measure(iter(plain.items()), envelope)
            if more == 0 or CLOSE * self.max_bytes <= size <= self.max_bytes:
                break
        return best

    def _step(
        self,
        plan: StepPlan,
        entries: Callable[[float], Iterator[tuple[str, Entry]]],
        envelope: CompressedModel,
        less: int,
    ) -> float:
        """The common step: at the nominal rate, or the smallest that fills the budget, `less` so many bytes."""
        if self.nominal_bits is not None:
            return plan.nominal(self.nominal_bits)
        rest = measure(plan.kept_entries(), envelope)
        bits = self.target_bits or DEFAULT_BITS
        goal, what = rest + int(bits * plan.weights / 8), f"{bits} bits per weight"
        if self.max_bytes is not None:
            goal, what = self.max_bytes - less, f"a file of {self.max_bytes:,} bytes"
        return fill(plan.estimate, lambda c: measure(entries(c), envelope), goal, what, rest)

    def _tuned(self, network: SequentialGptq, found: dict[str, Entry], envelope: CompressedModel) -> dict[str, Entry]:
        """`found` with batch norm and biases tuned on the calibration samples."""
        vectors = [
            name
            for name, entry in found.items()
            if isinstance(entry, KeptTensor)
            and len(entry.shape) < 2
            and entry.reason not in COMPUTED
            and left_out(name, self) is None
        ]
        model = replace(envelope, tensors=found)
        return found | tuned(network.module, model, network.inputs, vectors, self.tune, self.seed)

    def _inputs(self, module: nn.Module, task: Task | None) -> Samples | None:
        """Inputs to compensate errors on: calibration data if asked for, else synthesised; None if impossible."""
        if self.calibrate:
            assert task is not None
            return Samples(calibration(task, self.images))
        if why := not_synthesised(module):
            warnings.warn(
                f"{type(module).__name__} {why}, so no inputs can be synthesised: errors are "
                "compensated with a prior instead"
                + ("" if task is not None else "; for better results give calibrate=True and task="),
                stacklevel=3,
            )
            return None
        shape = guess_shape(module) if self.input_shape is None else parse_shape(self.input_shape)
        return Samples([Batch(synthesize(module, self.images, shape, self.synthesis_steps, self.seed))])

    def _row_scale(self, source: TensorSource) -> RowScale:
        """What rows are multiplied with where a batch norm undoes it: their sensitivity, or its scale to fold it."""

        def chosen(norm: str, sensitivity: Tensor) -> Tensor | None:
            if not isinstance(source, ScaleShiftSource) or norm not in source.eps:
                return None
            if self.bn == "scale-shift":
                return sensitivity.sqrt().clamp(2**-6, 2**6)
            scale = source.read(f"{norm}.weight").to(torch.float32)
            return torch.where(scale == 0, torch.ones_like(scale), scale)

        return chosen


def parse_shape(text: str) -> tuple[int, ...]:
    """The shape of one input: `"3x32x32"` is `(3, 32, 32)`, `"1024"` is `(1024,)`. **Raises** `UsageError`."""
    sizes = text.split("x")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise UsageError(
            f"input_shape={text!r}: expected the sizes of one input without the batch, joined by x, such as 3x32x32 "
            "for an image, 1024 for a vector, 160x40 for a sequence of vectors"
        )
    return tuple(map(int, sizes))
