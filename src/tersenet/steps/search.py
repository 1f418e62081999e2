"""Budgets that hold: the best file within a number of bytes, or the smallest within a drop, found by trial.

A trial makes a file, decodes it, and compares it with the original network on the same validation samples. A drop is
`met` if the whole 95 % interval is within the target, `not met` if it is beyond it, else `undecided`. The search keeps
to files that are met; where the samples are too few for that (the most accurate file is undecided), to files whose mean
is within. The best file so far is always at its place.
"""

import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..core.method import Method
from ..errors import BudgetError
from ..progress import OutOfTime, remaining
from .evaluate import Estimate
from .trials import Trial, Trials, key_of

Verdict = Literal["met", "undecided", "not met"]
ORDER = ("met", "undecided", "not met")
PATIENCE = 1.5  # a training is not begun if it is expected to take longer than this many times what is left


@dataclass(frozen=True)
class Target:
    """At most `max_bytes` bytes of the file, or at most `max_drop` points of the metric. One of the two."""

    max_bytes: int | None = None
    max_drop: float | None = None

    def verdict(self, low: float, high: float) -> Verdict:
        """Of a drop with the ends of its interval, in points."""
        assert self.max_drop is not None
        return "met" if high <= self.max_drop else "not met" if low > self.max_drop else "undecided"

    def of(self, trial: Trial) -> Verdict:
        """Whether a trial keeps the target; without samples a drop is undecided."""
        if self.max_bytes is not None:
            return "met" if trial.bytes <= self.max_bytes else "not met"
        return "undecided" if trial.low is None or trial.high is None else self.verdict(trial.low, trial.high)

    def rank(self, trial: Trial) -> tuple[float, float, float]:
        """The smaller the better."""
        if self.max_bytes is not None:
            if trial.bytes > self.max_bytes:
                return 2, trial.bytes, 0
            return 0, 0 if trial.drop is None else trial.drop, -trial.bytes
        assert self.max_drop is not None and trial.drop is not None
        if trial.drop > self.max_drop:
            return 2, trial.drop, trial.bytes
        return ORDER.index(self.of(trial)), trial.bytes, trial.drop

    def __str__(self) -> str:
        return f"at most {self.max_bytes:,} bytes" if self.max_bytes else f"a drop of at most {self.max_drop:g} points"


def boundary(count: int, start: int | None, holds: Callable[[int], bool]) -> int:
    """The largest index below `count` that `holds`, if those that hold come first; -1 if none does.

    Halves what is left; with `start` it begins there and goes on in doubling steps until both sides are known.

    >>> boundary(100, 10, lambda index: index <= 70)
    70
    """
    low, high, stride = -1, count, 1
    index = (count - 1) // 2 if start is None else min(max(start, 0), count - 1)
    while high - low > 1:
        if holds(index):
            low = index
        else:
            high = index
        if start is not None and (low < 0 or high == count):
            index = min(low + stride, count - 1) if high == count else max(high - stride, 0)
            stride *= 2
        else:
            index = (low + high) // 2
    return low


class Search:
    """Trials of methods towards `target`, logged in `trials`, the best one's file at `output`.

    `make(method, start, path)` writes a file and returns its bytes; `judge(path)` estimates its drop in points (None
    where there is nothing to judge on); `hash_of(path)`; `expect(method)` in seconds, corrected by what trials of the
    same method took; `say(text)` before every trial.
    """

    def __init__(
        self,
        target: Target,
        trials: Trials,
        output: Path,
        folder: Path,
        make: Callable[[Method, str, Path], int],
        judge: Callable[[Path], Estimate | None],
        hash_of: Callable[[Path], str],
        expect: Callable[[Method], float],
        say: Callable[[str], None],
    ) -> None:
        self.target, self.trials, self.output, self.folder = target, trials, output, folder
        self.make, self.judge, self.hash_of, self.expect, self.say = make, judge, hash_of, expect, say
        self.paces: dict[str, float] = {}  # seconds taken over seconds expected, by method
        self.seen: list[Trial] = []  # in this order again when a search goes on, so it steers as it did
        best = self.best
        if best is not None and not (output.is_file() and hash_of(output) == best.digest):
            trials.forget(best)  # its file is lost: it will be made again

    @property
    def best(self) -> Trial | None:
        """The best finished trial; its file is at `output`."""
        return min(self.trials.all, key=self.target.rank, default=None)

    @property
    def reached(self) -> Trial | None:
        """The best trial that the search has come to."""
        return min(self.seen, key=self.target.rank, default=None)

    def seconds(self, method: Method) -> float:
        """How long a trial is expected to take."""
        return self.expect(method) * self.paces.get(method.name, 1.0)

    def attempt(self, method: Method, start: str = "") -> Trial:
        """The trial of `method`, from the log or made now; its file is kept if it is the best."""
        known = self.trials.find(key_of(method, start))
        trial = self._made(method, start) if known is None else known
        self.seen.append(trial)
        return trial

    def _made(self, method: Method, start: str) -> Trial:
        best = self.best
        so_far = "none" if best is None else self.describe(best)
        name = Trial(key_of(method, start), 0, "", 0).name
        if best is not None and remaining() < 0:
            raise OutOfTime("out of time")
        expected = self.seconds(method)
        self.say(f"{name}: about {in_words(expected)}; best so far: {so_far}")
        if method.needs == "training" and expected > PATIENCE * remaining():
            raise OutOfTime(f"{in_words(remaining())} are left for a training of {in_words(expected)}")
        began = time.perf_counter()
        candidate = self.folder / "candidate.terse"
        size = self.make(method, start, candidate)
        trial = Trial(key_of(method, start), size, self.hash_of(candidate), 0.0)
        found = self.judge(candidate)
        if found is not None:
            trial = replace(trial, drop=found.mean, low=found.low, high=found.high, n=found.n)
        trial = replace(trial, seconds=time.perf_counter() - began)
        self.paces[method.name] = trial.seconds / max(self.expect(method), 1e-3)
        self.trials.add(trial)  # first: a row without its file is made again, a file without its row would be foreign
        if best is None or self.target.rank(trial) < self.target.rank(best):
            os.replace(candidate, self.output)
        else:
            candidate.unlink()
        return trial

    def begin(self, method: Method) -> None:
        """Make sure that there is a file."""
        self.attempt(method)

    def describe(self, trial: Trial) -> str:
        """Its bytes, its drop with n and the interval, and the verdict."""
        text = f"{trial.bytes:,} bytes"
        if trial.drop is not None:
            text += f", drop {trial.drop:.2f} points ({trial.low:.2f} to {trial.high:.2f}, n = {trial.n:,})"
        return f"{text}, {self.target.of(trial)}"

    def explore(self, method: Method, hint: float | None = None) -> None:
        """Try rates of `method`, beginning near the rate `hint`, until the best one is found.

        Each training starts from the one at the next higher rate that was finished.
        """
        rates = type(method).rates
        near = None if hint is None else min(range(len(rates)), key=lambda index: abs(rates[index] - hint))
        made: dict[int, Trial] = {}

        def trial(index: int) -> Trial:
            before = [made[other].key for other in sorted(made) if other < index]
            made[index] = self.attempt(
                method.at(rates[index]), before[-1] if before and method.needs == "training" else ""
            )
            return made[index]

        def sketched(index: int) -> int:
            try:
                return trial(index).bytes if method.sketch == method else self._sketched(method.at(rates[index]))
            except BudgetError:  # the method cannot go so low
                return 0

        if self.target.max_bytes is not None:
            goal = self.target.max_bytes
            index = boundary(len(rates), near, lambda index: sketched(index) > goal) + 1
            with suppress(BudgetError):
                while index < len(rates) and trial(index).bytes > goal:
                    index += 1
                if index < len(rates):
                    return
            for last in reversed(range(len(rates))):  # the smallest file that the method can make
                with suppress(BudgetError):
                    trial(last)
                    return
            return
        best = self.reached
        sure = self.target.of(self.attempt(method.at(rates[0]).sketch)) == "met"
        first = 0
        if method.needs == "training" and best is not None and self.within(best, sure):
            first = boundary(len(rates), 0, lambda index: self._sketched(method.at(rates[index])) >= best.bytes) + 1

        def holds(index: int) -> bool:
            try:
                return self.within(trial(first + index), sure)
            except BudgetError as error:  # the method cannot go so low
                self.say(f"left out: {error}")
                return False

        boundary(len(rates) - first, None if near is None else near - first, holds)

    def within(self, trial: Trial, sure: bool) -> bool:
        """Whether a trial keeps the target: surely, or as far as its mean tells."""
        assert trial.drop is not None and self.target.max_drop is not None
        return self.target.of(trial) == "met" if sure else trial.drop <= self.target.max_drop

    def _sketched(self, method: Method) -> int:
        """The bytes of a method's sketch."""
        path = self.folder / "sketch.terse"
        size = self.make(method.sketch, "", path)
        path.unlink()
        return size


def in_words(seconds: float) -> str:
    """`"0.5 min"`, `"3 s"`."""
    return f"{seconds / 60:.1f} min" if seconds >= 30 else f"{math.ceil(seconds)} s"


def frontier(trials: list[Trial]) -> list[Trial]:
    """Trials that no other one beats in bytes and drop, from the largest to the smallest."""
    kept: list[Trial] = []
    least = math.inf
    for trial in sorted((t for t in trials if t.drop is not None), key=lambda t: (t.bytes, t.drop)):
        assert trial.drop is not None
        if trial.drop < least:
            least = trial.drop
            kept.append(trial)
    return kept[::-1]
