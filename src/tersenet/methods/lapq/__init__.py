"""LAPQ: post-training quantisation whose clips are found jointly, on the loss of a calibration set.

Phase 1: for a given p, the clip of every tensor that minimises `mean |Q(x) - x|^p`: weights, then inputs of layers in
forward order on the first calibration batch, each after what is already rounded. Phase 2: p on 2 .. 4; the vertex of
the parabola through the ten losses, or the best sample where it opens downward or lies outside. Phase 3: Powell's
method on all clips together (as ratios to phase 2's), because at few bits their effects do not add up; the best point
ever evaluated is kept (Nahshan et al. 2021).

Departures: the grid of weights has a zero level (`zero_level` false: the paper's 2^b levels from -c to c); the mean of
every output channel is restored by a stored offset, part of every evaluation, as in the authors' code; first and last
layer get 8-bit weights and unrounded inputs unless `first_last` says otherwise; inputs that are ever negative get
signed levels; linear layers are quantised too, and what is rounded is the input of a layer, not the output of a ReLU
(so a skip connection stays unrounded); evaluations are capped, and more than 50 clips are searched in blocks.

Needs the network's code and a calibration split; without targets the loss is the distance to the original's outputs. It
never sees the test split.

Use it when inputs of layers have to be rounded, to 4 bits or so, and there is a calibration set but no time to train.
Not when only bytes count: fixed-width codes were behind `vlcq` at the same bytes everywhere we looked. It costs
hundreds of evaluations of the calibration loss: minutes on a small network. Needs scipy.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from scipy.optimize import minimize
from torch import nn

from ...core.fields import Within, check_widths
from ...core.method import Job, Method, TensorSource
from ...core.model import CompressedModel, Item, KeptTensor
from ...core.task import Task
from ...errors import InputError, UsageError
from ...network.calibrate import calibration, with_loss
from ...network.fold import rewritten
from ...network.kept import check_finite, keep, prepare_batch_norm, why_kept
from ...network.layers import NO_LAYER, eval_without_grad, find_layers, is_layer, tell_kept
from ...progress import progress
from ...quantizers.activation import Sign
from .fake_quant import FakeQuantNetwork, WeightGrid

NORMS = np.linspace(2, 4, 10)
BLOCK = 50  # clips that Powell's method moves together
HUGE = 1e30


def vertex(p: Sequence[float], losses: Sequence[float]) -> float | None:
    """Where the parabola through `losses` over `p` is lowest; None if it opens downward or that lies outside.

    >>> round(vertex([2, 3, 4], [1.0, 0.0, 1.0]), 6)
    3.0
    """
    a, b, _ = np.polyfit(p, losses, 2)
    lowest = -b / (2 * a) if a > 0 else np.inf
    return float(lowest) if min(p) <= lowest <= max(p) else None


class Search:
    """The loss as a function of clip ratios, capped at `most` evaluations; the best point ever seen is kept."""

    def __init__(self, rounded: FakeQuantNetwork, start: Sequence[float], loss: float, most: int) -> None:
        self.rounded, self.start, self.most = rounded, np.asarray(start), most
        self.best, self.least, self.count = np.ones(len(start)), loss, 0

    def run(self, iterations: int) -> None:
        """Powell's method with `iterations` iterations on every block of clips."""
        order = np.arange(len(self.start))
        for block in np.array_split(order, max(1, -(-len(order) // BLOCK))):
            if self.count < self.most:
                self.powell(block, iterations)

    def powell(self, block: np.ndarray, iterations: int) -> None:
        """Powell's method on the clips whose places are in `block`."""
        around = self.best.copy()

        def loss(ratios: np.ndarray) -> float:
            if self.count >= self.most:
                raise StopIteration
            if (ratios < 0.05).any() or (ratios > 4).any():
                return HUGE
            point = around.copy()
            point[block] = ratios
            self.count += 1
            progress("searching clips", self.count, self.most)
            self.rounded.set(list(point * self.start))
            found = self.rounded.loss()
            if found < self.least:
                self.least, self.best = found, point
            return found

        try:
            directions = np.eye(len(block)) * 0.1
            options = {"maxiter": iterations, "xtol": 0.05, "ftol": 0.0, "direc": directions}
            minimize(loss, around[block], method="Powell", options=options)
        except StopIteration:
            return


@dataclass(frozen=True)
class Lapq(Method):
    """Loss-aware post-training quantisation: `bits` per weight (2 to 8), `act_bits` per layer input (32: not rounded).

    `search` stops early: "minmax" (no clipping), "l2" (mean squared error), "lp" (phase 2) or "powell". `samples`
    calibration images, at most `evaluations` in phase 3. `bn="fold"` and `equalise` rewrite the network first.
    `restore` puts the mean of every output channel back.
    """

    needs: ClassVar[str] = "calibration"
    reference: ClassVar[str] = """@article{nahshan2021lapq,
  title = {Loss Aware Post-Training Quantization},
  author = {Nahshan, Yury and Chmiel, Brian and Baskin, Chaim and Zheltonozhskii, Evgenii and Banner, Ron
            and Bronstein, Alex M. and Mendelson, Avi},
  journal = {Machine Learning}, year = {2021}, eprint = {1911.07190}
}"""
    QUICK: ClassVar[Mapping[str, Any]] = {"bits": 4, "act_bits": 4, "evaluations": 20}

    bits: Annotated[int, Within(2, 8)] = 4
    """Bits per weight."""
    act_bits: Annotated[int, Within(2, 8, also=32)] = 32
    """Bits per layer input; 32 leaves them unrounded."""
    act_sign: Sign = "seen"
    """Levels of inputs: with a sign where negative inputs are seen, always (signed), or never (one-sided)."""
    search: Literal["minmax", "l2", "lp", "powell"] = "powell"
    """Where to stop: minmax (no clipping), l2 (squared error), lp (best norm), powell (all clips together)."""
    zero_level: bool = True
    """Levels with a zero; without, the paper's 2^b levels from -c to c."""
    first_last: Literal["8", "keep", "same"] = "8"
    """First and last layer: 8 bits, kept, or the same as the others."""
    samples: Annotated[int, Within(least=1)] = 512
    """Calibration images."""
    iterations: Annotated[int, Within(least=1)] = 2
    """Iterations of Powell's method."""
    evaluations: Annotated[int, Within(least=1)] = 1000
    """At most so many losses in Powell's method."""
    equalise: bool = False
    """Equalise channels between layers first."""
    restore: bool = True
    """Put the mean of every output channel back by an offset."""

    def check(self) -> None:
        """Channels are equalised after a folded batch norm; every width is 2 to 8."""
        if self.equalise and self.bn == "scale-shift":
            raise UsageError('equalise=True needs batch norm folded: give bn="fold" ("keep" for a network without any)')
        check_widths(self.layer_bits, 2, 8)

    @property
    def untrained(self) -> Method:
        """Clips by squared error, without a search."""
        return replace(self, search="l2")

    def sample_passes(self, task: Task | None) -> float:
        """Every evaluation runs all calibration images."""
        return self.samples * {"minmax": 2.0, "l2": 2.0, "lp": 40.0}.get(self.search, 40.0 + self.evaluations)

    def compress(self, job: Job) -> Iterator[Item]:
        """Every tensor, quantised or kept, and the rounding of inputs. **Raises** `UsageError`, `InputError`."""
        source = job.source
        module, task = job.network_and_task("lapq", "calibrates")
        if self.equalise or self.bn == "fold":
            source = rewritten(source, module, calibration(task, 2)[0], self.equalise)
            module = source.module
        rounded = self.fake_quant_network(source, module, task)
        others = [name for name, spec in source.specs.items() if why_kept(name, spec, self) is None]
        tell_kept([name for name in others if name not in rounded.grids and not is_layer(module, name)], self.name)
        clips = self.clips(rounded)
        rounded.set(clips)
        clip_of, unrounded = dict(zip(rounded.names, clips, strict=True)), self.kept(source, module, rounded.grids)
        for name in source.specs:
            yield name, unrounded[name] if name in unrounded else rounded.quantised(name, clip_of[name])
        for path in rounded.paths:
            yield path, rounded.activation(path, clip_of[path])

    def kept(self, source: TensorSource, module: nn.Module, grids: Collection[str]) -> dict[str, KeptTensor]:
        """The tensors that are not in `grids`, as they are stored."""
        paired = prepare_batch_norm(source, "scale-shift" if self.bn == "scale-shift" else "keep", module)
        return {
            name: keep(paired.read(name), why_kept(name, spec, self) or _unrounded(module, name), self.kept_dtype)
            for name, spec in source.specs.items()
            if name not in grids
        }

    def fake_quant_network(self, source: TensorSource, module: nn.Module, task: Task) -> FakeQuantNetwork:
        """The network with everything that will be rounded, the rest as it will be stored, and the calibration
        batches."""
        batches = calibration(task, self.samples)
        network = deepcopy(module).float().eval().requires_grad_(False)
        with eval_without_grad(network):
            layers = find_layers(network, batches[0].first(2))
        known = [layer for layer in layers if layer.weight in source.specs]
        quantised = [layer for layer in known if why_kept(layer.weight, source.specs[layer.weight], self) is None]
        if not quantised:
            raise InputError("no layer of this network can be quantised (256 weights, not excluded)")
        ends = {layers[0].weight, layers[-1].weight} if self.first_last != "same" else set()
        for name in {layer.weight for layer in quantised}:
            check_finite(name, source.read(name))
        grids = {
            layer.weight: WeightGrid(
                self.bits_of(layer.weight, 8 if layer.weight in ends else self.bits),
                self.zero_level,
                0,
                self.restore,
                source.specs[layer.weight].dtype,
            )
            for layer in quantised
            if not (layer.weight in ends and self.first_last == "keep")
        }
        inputs = [layer.path for layer in quantised if layer.weight not in ends] if self.act_bits != 32 else []
        weights = {name: KeptTensor(source.read(name), source.specs[name].dtype, "") for name in grids}
        CompressedModel(weights | self.kept(source, module, grids), source.aliases).apply_to(network)
        return FakeQuantNetwork(network, with_loss(network, batches), grids, inputs, self.act_bits, self.act_sign)

    def clips(self, rounded: FakeQuantNetwork) -> list[float]:
        """The clips of all weights and inputs, by the phases that `search` asks for."""
        if self.search in ("minmax", "l2"):
            return rounded.norm_clips(math.inf if self.search == "minmax" else 2.0)
        tried: list[tuple[float, list[float]]] = []
        for done, p in enumerate(NORMS):
            clips = rounded.norm_clips(float(p))
            tried.append((rounded.loss(), clips))
            progress("choosing the norm", done + 1, len(NORMS))
        lowest = vertex(list(NORMS), [loss for loss, _ in tried])
        if lowest is not None:
            clips = rounded.norm_clips(lowest)
            tried.append((rounded.loss(), clips))
        loss, clips = min(tried, key=lambda pair: pair[0])
        if self.search == "lp":
            return clips
        search = Search(rounded, clips, loss, self.evaluations)
        search.run(self.iterations)
        return list(search.best * search.start)


def _unrounded(module: nn.Module, name: str) -> str:
    """Why a tensor that could be quantised was kept."""
    return "first or last layer" if is_layer(module, name) else NO_LAYER
