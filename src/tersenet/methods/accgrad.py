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
"""

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations_with_replacement
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from ..core.method import Method, RunFolder, TensorSource
from ..core.model import Finding, Piece
from ..core.task import Task
from ..errors import BudgetError, InputError, UsageError
from ..progress import progress
from ..quantizers import attach
from ..quantizers.fixed import WIDEST, MixedFixedPoint
from ..steps.evaluate import evaluate
from ..steps.fit import Schedule, fit, samples
from ..steps.fold import Rewritten
from ..steps.layers import find_layers, frozen
from ..steps.processes import Processes
from ..steps.randomness import seeded
from ..steps.run import run_of
from ..steps.sides import check_finite, keep, left_out, prepare_batch_norm
from ..steps.signal import Part, clusters, give, lowest, parts, record, scores
from ..steps.train import begin_with, finish
from ..steps.widths import Beside, affordable, needed, nonzeros, prune_to, ratio

WIDTHS = (0, *range(2, WIDEST + 1))  # that a weight may have
TUNED = (0, 2, 3, 4, 5, 6, 8)  # widths that `tune` tries
CANDIDATES = 12  # bit tuples that `tune` evaluates


@dataclass(frozen=True)
class AccGrad(Method):
    """Widths from accumulated gradients, in `mode` post, in or combined; `bits` of clusters, from low to high.

    `epochs` regroup every time (after `warmup` of them), `refine` more train on with the last groups or clusters.
    """

    needs: ClassVar[str] = "training"
    reference: ClassVar[str] = """@mastersthesis{gaopande2020,
  title = {Exploration of Accumulated Gradient for Neural Network Compression},
  author = {Gaopande, Meghana Laxmidhar}, school = {Virginia Tech}, year = {2020}
}"""
    rate: ClassVar[str] = "target_ratio"
    rates: ClassVar[tuple[float, ...]] = tuple(round(3 * 1.19**k, 1) for k in range(32))

    mode: Literal["post", "in", "combined"] = "combined"
    signal: Literal["grad", "magnitude", "grad-magnitude"] = "grad"
    epochs: int = 20
    warmup: int = 2
    refine: int = 0
    share: float = 0.9
    ramp: float = 0.5
    low_bits: int = 0
    bits: tuple[int, ...] = ()
    clustering: Literal["kmeans", "log-kmeans", "quantiles"] = "log-kmeans"
    target_ratio: float | None = None
    tune: bool = False
    lr: float = 0.02
    weight_decay: float = 1e-4
    optimizer: Literal["sgd", "adamw"] = "sgd"
    distill: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bits and (list(self.bits) != sorted(self.bits) or not set(self.bits) <= set(WIDTHS)):
            raise UsageError(f"bits are {self.bits}; give widths from low to high, each 0 or 2 to {WIDEST}")
        if self.mode != "in" and not any(self.widths):
            raise UsageError("bits are 0 for all clusters, which leaves no weights: give one above 0")
        if self.low_bits not in WIDTHS or self.low_bits == WIDEST:
            raise UsageError(f"low_bits is {self.low_bits}; it may be 0 or 2 to {WIDEST - 1}")
        if not 0.5 < self.share < 1 or not 0 <= self.ramp <= 1:
            raise UsageError(f"share is {self.share}, above 0.5 and below 1; ramp is {self.ramp}, 0 to 1")
        if self.target_ratio is not None and not self.target_ratio > 1:
            raise UsageError(f"target_ratio is {self.target_ratio}; it must be above 1")
        if self.mode != "post" and not 1 <= self.warmup < self.epochs:
            raise UsageError(f"warmup is {self.warmup}, epochs {self.epochs}: at least 1, and more epochs than that")
        if self.epochs < 1 or self.lr <= 0 or not 0 <= self.distill <= 1:
            raise UsageError("epochs must be at least 1, lr above 0, distill 0 to 1")
        if self.refine < 0:
            raise UsageError(f"refine is {self.refine}; it is a number of epochs, 0 or more")
        if self.mode == "in" and self.bits:
            raise UsageError("mode in has one low group: leave out bits (see low_bits)")
        if self.bn == "fold" or not all(2 <= bits <= WIDEST for bits in self.layer_bits.values()):
            raise UsageError(f"accgrad keeps batch norm or pairs it; layer_bits are {self.layer_bits}, 2 to {WIDEST}")

    @property
    def sketch(self) -> Method:
        """A tenth of the epochs, clustered at the end."""
        short = max(1, self.epochs // 10)
        return replace(self, epochs=short, warmup=1, refine=0, mode="post", tune=False, bits=(0, *self.widths)[-4:])

    def work(self, task: Task | None) -> float:
        """Every epoch runs all training samples forward and back."""
        epochs = self.epochs + self.refine
        return epochs * samples(task, "train") * (4.0 if self.distill else 3.0) if task else 0.0

    def compress(
        self,
        source: TensorSource,
        module: nn.Module | None = None,
        task: Task | None = None,
        run: RunFolder | None = None,
    ) -> Iterator[Piece]:
        """Train a copy of `module`, recording gradients, and yield it in fixed point. **Raises** `BudgetError`."""
        if module is None or task is None:
            raise UsageError("accgrad trains: give the network's code (--model, module=) and --task (task=)")
        if self.tune and self.target_ratio is None:
            raise UsageError("tune looks for the most accurate bits at a ratio: give target_ratio")
        task.split("train")
        folder, processes = run_of(self, source, run), Processes()
        saved = None if folder is None else folder.state
        network = deepcopy(module).float().to(processes.device)
        teacher = deepcopy(network).eval().requires_grad_(False) if self.distill else None
        if run is not None and run.start is not None:
            begin_with(network, run.start)
        self._attach(network, source, task)
        found = parts(network)
        if not found:
            raise UsageError("layer_bits names every tensor, so there is nothing to choose: use another method")
        record(network)
        beside = Beside.of(self._pieces(network, source))
        if saved is not None and "finished" in saved:
            network.load_state_dict(saved["model"])
            network.eval()
        else:
            length = self.epochs + self.refine
            fit(
                network,
                task,
                Schedule(length, self.lr, self.weight_decay, self.optimizer, 0.0, self.distill, self.seed),
                penalty=partial(attach.penalty, network),
                anneal=self._regrouping(network, found, beside, task),
                title=f"accgrad, {self.mode}",
                teacher=teacher,
                processes=processes,
                run=folder,
                saved=saved,
            )
            with seeded(self.seed):
                finish(network, task.batches("train"))
            if folder is not None and processes.rank == 0:
                folder.save({"model": network.state_dict(), "finished": attach.latent_state(network)})
        if self.mode != "in" and not self.refine:
            self._cluster(network, found, beside, task)
        values = scores(found, self.signal)
        if self.target_ratio is not None:
            prune_to(found, Beside.of(self._pieces(network, source)), values, self.target_ratio)
        with seeded(self.seed):
            finish(network, task.batches("train"))
        beside = Beside.of(self._pieces(network, source))
        if self.target_ratio is not None:
            prune_to(found, beside, values, self.target_ratio)  # again, if what is kept has grown
        yield from self._pieces(network, source)
        yield "accgrad", Finding(self._facts(found, beside))

    def _attach(self, network: nn.Module, source: TensorSource, task: Task) -> None:
        if (first := next(task.batches("train"), None)) is None:
            raise InputError("the train split of the task is empty: give it at least one batch")
        with frozen(network):
            layers = find_layers(network, first.first(2))
        wanted = {}
        for layer in layers:
            for named in (layer.weight, f"{layer.weight.removesuffix('weight')}bias"):
                name = source.aliases.get(named, named)
                if name in source.specs and left_out(name, self) is None:
                    part, leaf = attach.owner_of(network, name)
                    weight = getattr(part, leaf)
                    if weight.requires_grad:
                        check_finite(name, weight.detach())
                        kind, pinned = source.specs[name].dtype, self.bits_of(name, 0)
                        wanted[name] = MixedFixedPoint(weight.detach().to(kind), pinned)
        if not wanted:
            raise InputError("no layer of this network can be quantised (all are excluded, or frozen)")
        attach.attach_weights(network, wanted, source.aliases)
        network.to(next(network.parameters()).device)

    def _regrouping(
        self, network: nn.Module, found: list[Part], beside: Beside, task: Task
    ) -> Callable[[float, float], None]:
        """What is called before every step: where an epoch begins, groups are made anew, or clusters given widths."""
        total, epochs = sum(latent.numel() for _, _, latent in found), self.epochs + self.refine
        widths = (WIDEST,) if self.mode == "in" else tuple(bits for bits in self.widths if bits)
        wanted = None if self.target_ratio is None else affordable(found, beside, self.target_ratio, widths)
        last = -1

        def anneal(progress: float, rate: float) -> None:
            nonlocal last
            epoch = int(progress * epochs + 1e-6)
            if epoch == last or progress >= 1:
                return
            last = epoch
            if abs(progress * epochs - epoch) > 1e-6:  # resumed within an epoch: widths came with the checkpoint
                return
            if epoch == self.epochs and self.mode != "in":
                self._cluster(network, found, beside, task)
            elif self.mode != "post" and self.warmup <= epoch < self.epochs:
                values = scores(found, self.signal)
                share = self.share if wanted is None else 1 - needed(found, values, wanted, max(widths)) / total
                spent = (epoch - self.warmup + 1) / max(1, self.ramp * (self.epochs - self.warmup))
                share -= (share - 0.5) * max(0.0, 1 - spent) ** 3
                low = lowest(values, math.ceil(share * total))
                give(found, torch.where(low, self.low_bits, WIDEST))

        return anneal

    @property
    def widths(self) -> tuple[int, ...]:
        """The width of every cluster."""
        return self.bits or ((0, 4, 5, 6) if self.mode == "post" else (5, 6))

    def _cluster(self, network: nn.Module, found: list[Part], beside: Beside, task: Task) -> None:
        """Give every weight that is in no low group the width of its cluster."""
        now = torch.cat([quantizer.widths.reshape(-1) for _, quantizer, _ in found])
        free = now == WIDEST
        place = clusters(scores(found, self.signal)[free], len(self.widths), self.clustering)

        def gives(widths: tuple[int, ...]) -> None:
            give(found, now.masked_scatter(free, torch.tensor(widths, dtype=now.dtype)[place]))

        gives(self._tuned(network, found, beside, task, gives) if self.tune else self.widths)

    def _tuned(
        self,
        network: nn.Module,
        found: list[Part],
        beside: Beside,
        task: Task,
        gives: Callable[[tuple[int, ...]], None],
    ) -> tuple[int, ...]:
        """The bit tuple with the best validation score among those whose ratio is just above the target."""
        assert self.target_ratio is not None
        tried = []
        for widths in combinations_with_replacement(TUNED, len(self.widths)):
            gives(widths)
            tried.append((ratio(found, beside) if any(widths) else math.inf, widths))
        enough = sorted(pair for pair in tried if self.target_ratio <= pair[0] < math.inf)[:CANDIDATES]
        if not enough:
            most = max(reached for reached, widths in tried if any(widths))
            raise BudgetError(f"a ratio of {self.target_ratio:g} cannot be met by bits alone, {most:.2f} can", most)
        judged = []
        for done, (_, widths) in enumerate(enough):
            gives(widths)
            score = evaluate(network, task, "validation").metric
            assert score is not None
            judged.append((score.mean if task.higher_is_better else -score.mean, widths))
            progress("trying bits", done + 1, len(enough))
        return max(judged)[1]

    def _facts(self, found: list[Part], beside: Beside) -> dict[str, Any]:
        """What the file's provenance records: the accounting, and non-zeros by width."""
        widths, counts = torch.cat([quantizer.widths.reshape(-1) for _, quantizer, _ in found]).unique(
            return_counts=True
        )
        return {
            "ratio": round(ratio(found, beside), 3),
            "weights": dict(zip(map(str, widths.tolist()), counts.tolist(), strict=True)),
            "nonzeros": {part[0]: {str(bits): n for bits, n in nonzeros(part).items()} for part in found},
        }

    def _pieces(self, network: nn.Module, source: TensorSource) -> Iterator[Piece]:
        """Every tensor of the checkpoint, as codes or kept."""
        quantised = {source.aliases.get(name, name): entry for name, entry in attach.frozen_weights(network).items()}
        paired = prepare_batch_norm(Rewritten(source, network), self.bn, network)
        for name, spec in source.specs.items():
            if name in quantised:
                yield name, quantised[name]
            else:
                why = left_out(name, self) or "no weight or bias of a layer"
                yield name, keep(paired.read(name).to("cpu", spec.dtype), why, self.side)
