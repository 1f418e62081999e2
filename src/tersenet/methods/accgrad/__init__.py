"""Accumulated-gradient quantization: the gradients that a weight saw in training decide its bits, or that it goes.

The signal of a weight is `A = sum over batches of |dL/dw|`, recorded while the network trains on (weights and biases of
convolutions and linear layers, all in one pool). Large A is important. Three modes (Gaopande 2020):

* `post`: A is recorded, then its values are clustered in one dimension and every cluster gets a width that rises with
  its mean A, once, without training afterwards. Width 0 prunes.
* `in`: from the end of the warm-up on, where an epoch begins, all A are sorted and split in two; the larger group,
  `share` of all weights with the lowest A, goes to the grid of `low_bits`, the others stay (16 bits). Nothing is
  frozen: updates move the weights of both groups, the forward rounds them, and A goes on, so that membership settles.
* `combined`: `in`, then the clustering of `post` on what `in` left.

Grid: signed fixed point <b, i>, step `2^(i-b)`, sign and integer bits i from the largest weight of the tensor, halves
away from zero, clamped to two's complement. A weight that rounds to 0 is pruned. `target_ratio` chooses `share` (and
prunes what is left over) so that the CSR accounting of `report.size` is met.

Tensors in `layer_bits` keep that width; they are in no group and not in the ratio. The thesis was available to us as
its abstract only: the reading is ours, and so are `ramp` (the share grows over this part of the epochs), `refine`,
`target_ratio`, `tune` and the signals `magnitude` and `grad-magnitude` (|w|, A |w|), which prune better. Needs the
network's code and training data; inputs in [0, 1] (a mean that is subtracted gives dead pixels a gradient).

Use it when most weights may become zero: fully connected layers, 50 times smaller and more. Not when the network is
small and convolutional, or cannot be trained for long: pruning needs epochs to recover. It costs a training; the
groups are formed anew in every epoch, which sorts all weights.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ...analysis.evaluate import evaluate
from ...core.fields import Within, check_widths
from ...core.method import Job, Knob, Method
from ...core.model import TensorSpec
from ...errors import BudgetError, InputError, UsageError
from ...network.kept import computed, left_out, smallest_batch_norm
from ...network.layers import Layer
from ...progress import progress
from ...quantizers.quantizer import Quantizer
from ...training.method import Target, TrainedMethod
from ...training.phases import Phase, finish
from ...training.randomness import seeded
from .fixed_point import WIDEST, MixedFixedPoint
from .signal import Part, clusters, give, lowest, parts, record, scores
from .widths import Unquantised, affordable, needed, nonzeros, prune_to, ratio

TUNED = (0, 2, 3, 4, 5, 6, 8)  # widths that `tune` tries
CANDIDATES = 12  # bit tuples that `tune` evaluates


@dataclass(frozen=True)
class AccGrad(TrainedMethod):
    """Widths from accumulated gradients, in `mode` post, in or combined; `bits` of clusters, from low to high.

    `epochs` regroup every time (after `warmup` of them), `refine` more train on with the last groups or clusters.
    """

    reference: ClassVar[str] = """@mastersthesis{gaopande2020,
  title = {Exploration of Accumulated Gradient for Neural Network Compression},
  author = {Gaopande, Meghana Laxmidhar}, school = {Virginia Tech}, year = {2020}
}"""
    QUICK: ClassVar[Mapping[str, Any]] = {"share": 0.55, "epochs": 3, "warmup": 1, "refine": 1, "bits": (6,)}

    mode: Literal["post", "in", "combined"] = "combined"
    """post (widths once, after training), in (groups while it trains), or combined."""
    signal: Literal["grad", "magnitude", "grad-magnitude"] = "grad"
    """Importance of a weight: accumulated gradient A, magnitude |w|, or A |w|."""
    epochs: Annotated[int, Within(least=1)] = 20
    """Epochs that record gradients and regroup."""
    warmup: Annotated[int, Within(least=0)] = 2
    """Epochs before the first grouping."""
    refine: Annotated[int, Within(least=0)] = 0
    """Epochs that train on with the last groups or clusters."""
    share: Annotated[float, Within(above=0.5, below=1)] = 0.9
    """Share of the weights in the low group."""
    ramp: Annotated[float, Within(0, 1)] = 0.5
    """Part of the epochs over which the share grows."""
    low_bits: Annotated[int, Within(2, 15, also=0)] = 0
    """Width of the low group; 0 prunes it."""
    bits: tuple[Annotated[int, Within(2, 16, also=0)], ...] = ()
    """Widths of the clusters, from low to high; 0 prunes."""
    clustering: Literal["kmeans", "log-kmeans", "quantiles"] = "log-kmeans"
    """How the signal is clustered."""
    target_ratio: Annotated[float, Within(above=1)] | None = None
    """fp32 bytes over those of the sparse-row accounting; chooses the share."""
    tune: bool = False
    """Try tuples of widths on the validation split, for a target ratio."""
    lr: Annotated[float, Within(above=0, most=1e6)] = 0.02

    def check(self) -> None:
        """Widths from low to high, not all 0; epochs after the warm-up; a target where bits are tuned."""
        if list(self.bits) != sorted(self.bits):
            raise UsageError(f"bits={self.bits}: expected widths from low to high")
        if self.mode != "in" and not any(self.widths):
            raise UsageError(f"bits={self.bits} leaves no weights: give one above 0")
        if self.mode != "post" and not 1 <= self.warmup < self.epochs:
            raise UsageError(f"warmup={self.warmup}, epochs={self.epochs}: at least 1, and more epochs than that")
        if self.mode == "in" and self.bits:
            raise UsageError('mode="in" has one low group: leave out bits= (see low_bits=)')
        if self.tune and self.target_ratio is None:
            raise UsageError("tune=True looks for the most accurate bits at a ratio: give target_ratio=")
        check_widths(self.layer_bits, 2, WIDEST)

    @property
    def knob(self) -> Knob:
        """Ratios of the sparse-row accounting, from 3 to some 650."""
        return Knob("target_ratio", tuple(round(3 * 1.19**k, 1) for k in range(32)))

    @classmethod
    def auto_points(cls, job: Job) -> tuple[Method, ...]:
        """One cluster of 4 bits by the signal that prunes best."""
        bn = smallest_batch_norm(job.source)
        return (cls(bn=bn, signal="grad-magnitude", bits=(4,), epochs=8, refine=2),)

    @property
    def untrained(self) -> Method:
        """A tenth of the epochs, clustered at the end."""
        short = max(1, self.epochs // 10)
        return replace(self, epochs=short, warmup=1, refine=0, mode="post", tune=False, bits=(0, *self.widths)[-4:])

    def phases(self) -> tuple[Phase, ...]:
        """One, in which groups are made anew and, before `refine`, clusters get their widths."""
        return (Phase(self, self.epochs + self.refine, self.lr),)

    def targets(self, network: nn.Module, specs: Mapping[str, TensorSpec], layers: Sequence[Layer]) -> list[str]:
        """Weights and biases of the layers that run and learn, of any size."""
        names = [name for layer in layers for name in (layer.weight, f"{layer.weight.removesuffix('weight')}bias")]
        found = [
            name for name in names if name in specs and not (computed(name, specs[name], self) or left_out(name, self))
        ]
        return [name for name in dict.fromkeys(found) if network.get_parameter(name).requires_grad]

    def quantizer(self, target: Target, weight: Tensor) -> Quantizer:
        """Fixed point with a width for every weight, pinned where `layer_bits` names the tensor."""
        return MixedFixedPoint(weight, self.bits_of(target.name, 0))

    def reason(self, name: str, spec: TensorSpec) -> str:
        """Why a tensor without widths was kept."""
        no_weight = spec.computed if computed(name, spec, self) else left_out(name, self)
        return no_weight or "no weight or bias of a layer"

    def on_phase(self, network: nn.Module, phase: int, job: Job) -> None:
        """From now on gradients are added up."""
        if not parts(network):
            raise UsageError("layer_bits names every tensor, so there is nothing to choose: use another method")
        record(network)

    def on_epoch(self, network: nn.Module, epoch: int, optimizer: torch.optim.Optimizer, job: Job) -> None:
        """Groups are made anew, or clusters given widths."""
        if epoch == self.epochs and self.mode != "in":
            self._cluster(network, job)
        elif self.mode != "post" and self.warmup <= epoch < self.epochs:
            self._regroup(network, epoch, job)

    def _regroup(self, network: nn.Module, epoch: int, job: Job) -> None:
        """The weights with the lowest signal, more of them in every epoch, go to `low_bits`."""
        found = parts(network)
        total, values, share = sum(latent.numel() for _, _, latent in found), scores(found, self.signal), self.share
        if self.target_ratio is not None:
            widths = (WIDEST,) if self.mode == "in" else tuple(bits for bits in self.widths if bits)
            unquantised = Unquantised.of(self.pieces(network, job.source))
            wanted = affordable(found, unquantised, self.target_ratio, widths)
            share = 1 - needed(found, values, wanted, max(widths)) / total
        spent = (epoch - self.warmup + 1) / max(1, self.ramp * (self.epochs - self.warmup))
        share -= (share - 0.5) * max(0.0, 1 - spent) ** 3
        give(found, torch.where(lowest(values, math.ceil(share * total)), self.low_bits, WIDEST))

    def conclude(self, network: nn.Module, job: Job) -> Mapping[str, Any]:
        """The clusters, if nothing was refined; what does not fit `target_ratio` is pruned."""
        found, (_, task) = parts(network), job.network_and_task(self.name, "trains")
        if self.mode != "in" and not self.refine:
            self._cluster(network, job)
        values = scores(found, self.signal)
        if self.target_ratio is not None:
            prune_to(found, Unquantised.of(self.pieces(network, job.source)), values, self.target_ratio)
        with seeded(self.seed):
            finish(network, task.batches("train"))
        unquantised = Unquantised.of(self.pieces(network, job.source))
        if self.target_ratio is not None:
            prune_to(found, unquantised, values, self.target_ratio)  # again, if what is kept has grown
        return {"accgrad": self._facts(found, unquantised)}

    @property
    def widths(self) -> tuple[int, ...]:
        """The width of every cluster."""
        return self.bits or ((0, 4, 5, 6) if self.mode == "post" else (5, 6))

    def _cluster(self, network: nn.Module, job: Job) -> None:
        """Give every weight that is in no low group the width of its cluster."""
        found = parts(network)
        now = torch.cat([quantizer.widths.reshape(-1) for _, quantizer, _ in found])
        free = now == WIDEST
        place = clusters(scores(found, self.signal)[free], len(self.widths), self.clustering)

        def gives(widths: tuple[int, ...]) -> None:
            give(found, now.masked_scatter(free, torch.tensor(widths, dtype=now.dtype)[place]))

        gives(self._tuned(network, job, gives) if self.tune else self.widths)

    def _tuned(self, network: nn.Module, job: Job, gives: Callable[[tuple[int, ...]], None]) -> tuple[int, ...]:
        """The bit tuple with the best validation score among those whose ratio is just above the target."""
        assert self.target_ratio is not None and job.task is not None
        found, unquantised = parts(network), Unquantised.of(self.pieces(network, job.source))
        tried = []
        for widths in combinations_with_replacement(TUNED, len(self.widths)):
            gives(widths)
            tried.append((ratio(found, unquantised) if any(widths) else math.inf, widths))
        enough = sorted(pair for pair in tried if self.target_ratio <= pair[0] < math.inf)[:CANDIDATES]
        if not enough:
            most = max(reached for reached, widths in tried if any(widths))
            raise BudgetError(f"a ratio of {self.target_ratio:g} cannot be met by bits alone, {most:.2f} can", most)
        judged = []
        for done, (_, widths) in enumerate(enough):
            gives(widths)
            score = evaluate(network, job.task, "validation").metric
            if score is None:
                raise InputError("tune=True judges bits by the metric, but the validation split has no targets for it")
            judged.append((score.mean if job.task.higher_is_better else -score.mean, widths))
            progress("trying bits", done + 1, len(enough))
        return max(judged)[1]

    def _facts(self, found: list[Part], unquantised: Unquantised) -> dict[str, Any]:
        """What the file's provenance records: the accounting, and non-zeros by width."""
        widths, counts = torch.cat([quantizer.widths.reshape(-1) for _, quantizer, _ in found]).unique(
            return_counts=True
        )
        return {
            "ratio": round(ratio(found, unquantised), 3),
            "weights": dict(zip(map(str, widths.tolist()), counts.tolist(), strict=True)),
            "nonzeros": {part[0]: {str(bits): n for bits, n in nonzeros(part).items()} for part in found},
        }
