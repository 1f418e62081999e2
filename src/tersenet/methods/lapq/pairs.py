"""What the clips of a network have to do with each other: curvature of the calibration loss, and two searches.

LAPQ's first half (Nahshan et al. 2021, section 3): at few bits the loss is curved, and its Hessian in the clips is not
diagonal, so that clips cannot be chosen one by one. Derivatives are finite differences in clips as ratios to where the
search starts; the paper's are in steps, and its curvature is Gaussian.
"""

from dataclasses import dataclass

import numpy as np
from torch import nn

from ...core.method import TensorSource
from ...core.task import Task
from ...progress import progress
from . import Lapq, Search
from .fake_quant import FakeQuantNetwork

STEP = 0.1  # of a clip, as a share of it


@dataclass(frozen=True)
class Pairs:
    """At `bits` bits: the loss where the search starts, its Hessian in the ratios of clips, and what they are of."""

    bits: int
    names: list[str]
    loss: float
    hessian: np.ndarray

    @property
    def curvature(self) -> float:
        """The Frobenius norm of the Hessian."""
        return float(np.linalg.norm(self.hessian))

    @property
    def off_diagonal(self) -> float:
        """The share of the squared Hessian that is off its diagonal."""
        whole = float((self.hessian**2).sum())
        return 1 - float((np.diag(self.hessian) ** 2).sum()) / whole if whole else 0.0


@dataclass(frozen=True)
class Searched:
    """The losses that two searches from the same start end at, each after at most the same number of evaluations."""

    bits: int
    start: float
    coordinate: float
    powell: float


def pairs_of(network: FakeQuantNetwork, start: list[float], bits: int) -> Pairs:
    """The Hessian of the calibration loss at the clips `start`: `n (n + 3) / 2 + 1` evaluations for n clips.

    `H_ii = (L(+i) - 2 L + L(-i)) / h^2` and `H_ij = (L(+i +j) - L(+i) - L(+j) + L) / h^2`, h = 0.1 of a clip.
    """
    count = len(start)
    total, done = count * (count + 3) // 2 + 1, 0

    def loss(*moves: tuple[int, float]) -> float:
        nonlocal done
        ratios = np.ones(count)
        for place, move in moves:
            ratios[place] += move
        network.set(list(ratios * start))
        done += 1
        progress(f"pairs of clips at {bits} bits", done, total)
        return network.loss()

    here = loss()
    ahead = [loss((i, STEP)) for i in range(count)]
    hessian = np.diag([ahead[i] - 2 * here + loss((i, -STEP)) for i in range(count)])
    for i in range(count):
        for j in range(i):
            hessian[i, j] = hessian[j, i] = loss((i, STEP), (j, STEP)) - ahead[i] - ahead[j] + here
    network.set(start)
    names = [*network.grids, *(f"input of {path}" for path in network.paths)]
    return Pairs(bits, names, here, hessian / STEP**2)


def searched(network: FakeQuantNetwork, start: list[float], bits: int, evaluations: int) -> Searched:
    """Coordinate search (every clip by itself, in turn, until nothing is left of `evaluations`) beside Powell's."""
    network.set(start)
    loss = network.loss()
    alone = Search(network, start, loss, evaluations)
    while alone.count < evaluations:
        before = alone.count
        for place in range(len(start)):
            if alone.count < evaluations:
                alone.powell(np.array([place]), 1)
        if alone.count == before:
            break
    together = Search(network, start, loss, evaluations)
    together.run(evaluations)
    return Searched(bits, loss, alone.least, together.least)


def start_of(method: Lapq, source: TensorSource, module: nn.Module, task: Task) -> tuple[FakeQuantNetwork, list[float]]:
    """The network with everything that `method` rounds, and the clips by squared error that a search starts from."""
    network = method.fake_quant_network(source, module, task)
    return network, network.norm_clips(2.0)
