"""How often `met` is false: files with drops near the target, and searches as `auto` does them, on simulated networks.

    python benchmarks/verdicts.py [--searches 300]

First table: one file whose true drop is the target itself (1 point), so that every `met` is (just) false: by the
two-sided 95 % interval, by the one-sided one of Bonett and Price, and by the bound that tersenet uses.

Second table: whole searches (`Search.explore`, `Search.polish`: the code itself) over the 220 rates of `vlcq`. True
drops grow by a factor e in 40 rates, as LeNet-300-100's do near 1 point, and those of single files scatter around that
by 0.1 points. Which samples a file loses is decided by a part that all files share and a part of its own (`shared`). A
search is false where it claims success and the true drop of its file is beyond the target.
"""

import argparse
import math
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tersenet.analysis.intervals import Estimate, paired
from tersenet.core.method import Knob, Method
from tersenet.methods import get
from tersenet.search.folder import SearchFolder
from tersenet.search.search import Search
from tersenet.search.target import Target
from tersenet.search.trials import Trials

SIZES = (200, 1000, 2000, 6000)
TARGET = 1.0  # points
GAINED = 0.003  # of the samples: right where the original is wrong
NORMAL = torch.distributions.Normal(0.0, 1.0)
Judge = Callable[[Estimate], Estimate]


@dataclass(frozen=True)
class Simulated(Method):
    """A method whose files are text: their rate."""

    nominal_bits: float = 0.0

    @property
    def knob(self) -> Knob:
        """That of vlcq."""
        return get("vlcq")().knob

    def compress(self, *given: Any) -> Any:
        """Nothing: files are written by the network."""
        raise NotImplementedError


class Network:
    """A network to compress: true drops of the files of all rates, and which of `n` samples each loses and gains."""

    def __init__(self, n: int, shared: float, seed: int) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.n, self.shared = n, shared
        index = torch.arange(len(Simulated().knob.values))
        middle = 60 + 100 * torch.rand(1, generator=self.random)
        drops = TARGET / 100 * torch.exp((index - middle) / 40)
        drops += 0.001 * torch.randn(len(index), generator=self.random) * (drops / 0.01).clamp(max=1)
        self.drops = drops.clamp(0.0, 0.9)
        self.common = torch.randn(n, generator=self.random)

    def scores(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What the original and the file of a rate score on every sample."""
        own = torch.randn(
            self.n, generator=torch.Generator().manual_seed(int(self.random.initial_seed()) * 997 + index)
        )
        share = NORMAL.cdf(math.sqrt(self.shared) * self.common + math.sqrt(1 - self.shared) * own)
        lost, gained = share < float(self.drops[index]) + GAINED, share > 1 - GAINED
        return (~gained).double(), (~lost).double()


def searched(network: Network, folder: Path, judged: Judge, polish: bool) -> tuple[Search, float]:
    """A finished search, and the true drop of its file in points."""
    where = SearchFolder(folder / "o.terse")
    where.path.mkdir()
    place = {rate: index for index, rate in enumerate(Simulated().knob.values)}

    def make(method: Method, start: str, path: Path) -> int:
        rate = getattr(method, method.knob.field)
        path.write_text(str(rate))
        return int(33_000 * rate) + 400

    def judge(path: Path) -> Estimate:
        return judged(paired(*network.scores(place[float(path.read_text())])).times(100))

    with closing(Trials(where.log, {})) as trials:
        search = Search(
            Target(max_drop=TARGET), trials, folder / "o.terse", where, make, judge, lambda m: 0.0, lambda s: None
        )
        search.explore(Simulated())
        if polish:
            search.polish()
    return search, 100 * float(network.drops[place[float((folder / "o.terse").read_text())]])


def two_sided(found: Estimate) -> Estimate:
    """The verdict as it was: by the ends of the two-sided interval."""
    return replace(found, least=found.low, most=found.high)


def unadjusted(found: Estimate) -> Estimate:
    """One-sided, by Bonett and Price alone."""
    return replace(found, most=found.most - 100 / (found.n + 2))


def one_file(times: int) -> None:
    """Print how often a file with a drop of exactly the target is called `met`."""
    print("One file with a true drop of the target, called met (%):\n")
    print("| n | gained | two-sided | one-sided | tersenet |\n|---|---|---|---|---|")
    random = torch.Generator().manual_seed(0)
    for n in SIZES:
        for gained in (0.0, 0.003, 0.02):
            counts = [0, 0, 0]
            for _ in range(times):
                draw = torch.rand(n, generator=random)
                lost = draw < TARGET / 100 + gained
                found = paired((draw <= 1 - gained).double(), (~lost).double()).times(100)
                for i, rule in enumerate((two_sided, unadjusted, lambda e: e)):
                    counts[i] += rule(found).most <= TARGET
            print(
                f"| {n:,} | {100 * gained:g} % | " + " | ".join(f"{100 * c / times:.1f}" for c in counts) + " |",
                flush=True,
            )


def whole_searches(times: int) -> None:
    """Print how often searches claim success, how often falsely, by how much, and the bytes they end at."""
    rules: dict[str, tuple[Judge, bool]] = {
        "before": (two_sided, False), "one-sided": (lambda e: e, False), "and the neighbourhood": (lambda e: e, True),
    }  # fmt: skip
    print("\nSearches: success claimed (%), false (% of all searches), worst excess in points, mean bytes, trials:\n")
    print("| n | shared | rule | success | false | worst | bytes | trials |\n|---|---|---|---|---|---|---|---|")
    for n in SIZES:
        for shared in (0.5, 0.9):
            for name, (judged, polish) in rules.items():
                claimed, false, worst, size, tried = 0, 0, 0.0, 0, 0
                for seed in range(times):
                    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
                        search, drop = searched(Network(n, shared, seed), Path(folder), judged, polish)
                    best = search.reached
                    assert best is not None
                    success = search.target.of(best) == "met" or (name == "before" and (best.drop or 0) <= TARGET)
                    claimed, tried, size = claimed + success, tried + len(search.seen), size + best.bytes
                    false += success and drop > TARGET
                    worst = max(worst, drop - TARGET) if success else worst
                print(
                    f"| {n:,} | {shared:g} | {name} | {100 * claimed / times:.0f} | {100 * false / times:.1f} "
                    f"| {worst:.2f} | {size // times:,} | {tried / times:.0f} |", flush=True,
                )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--searches", type=int, default=300)
    given = parser.parse_args().searches
    torch.set_num_threads(1)
    one_file(5 * given)
    whole_searches(given)
