"""Budgets that hold: the best file within a number of bytes, or the smallest within a drop, found by trial.

A trial makes a file, decodes it, and compares it with the original network on the same validation samples. A drop is
`met` if it is within the target with 95 % confidence (one-sided), `not met` if it is beyond it as surely, else
`undecided`. The search keeps to files that are met; where the samples are too few for that (the most accurate file is
undecided), to files whose mean is within. The best file so far is always at its place.
"""

import math
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from ..analysis.intervals import Estimate
from ..core.method import Method
from ..errors import BudgetError, OutputError
from ..files.atomic import replacing_file
from ..progress import OutOfTime, progress, remaining
from .folder import SearchFolder, hash_of
from .target import Target
from .trials import Trial, Trials, key_of

NEAR = 0.88  # of the best rate: as far down smaller files are tried after a search (docs/design/0007)
PATIENCE = 1.5  # a training is not begun if it is expected to take longer than this many times what is left


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


class Maker(Protocol):
    """What makes and judges the files of a search, in its folder."""

    folder: SearchFolder

    def make(self, method: Method, start: str, place: Path) -> int:
        """Write a file; return its bytes."""

    def evaluate(self, place: Path) -> Estimate | None:
        """The drop of a file in points; None where there is nothing to judge on."""

    def expect(self, method: Method) -> float:
        """The seconds of a trial, a guess that is corrected by what trials of the same method took."""


class Search:
    """Trials of methods towards `target`, logged in `trials`, the best one's file at `output`.

    `on_message` gets a line of text after every trial; what is being tried is progress. What is at `output` now may be
    replaced; what appears there later may not.
    """

    def __init__(
        self,
        target: Target,
        trials: Trials,
        output: Path,
        runner: Maker,
        on_message: Callable[[str], None],
    ) -> None:
        self.target, self.trials, self.output, self.runner, self.on_message = target, trials, output, runner, on_message
        self.folder = runner.folder
        self.paces: dict[str, float] = {}  # seconds taken over seconds expected, by method
        self.seen: list[Trial] = []  # in this order again when a search goes on, so it steers as it did
        self.tried: dict[str, Method] = {}  # by key of the trial
        self.given = hash_of(output) if output.is_file() else None
        if self.best is not None and not self.is_there(self.best):
            trials.forget(self.best)  # its file is lost: it will be made again

    @property
    def best(self) -> Trial | None:
        """The best finished trial; its file is at `output`."""
        return min(self.trials.all, key=self.target.rank, default=None)

    @property
    def reached(self) -> Trial | None:
        """The best trial that the search has come to."""
        return min(self.seen, key=self.target.rank, default=None)

    def is_there(self, trial: Trial) -> bool:
        """Whether the file of a trial is at `output`."""
        return self.output.is_file() and hash_of(self.output) == trial.digest

    def seconds(self, method: Method) -> float:
        """How long a trial is expected to take."""
        return self.runner.expect(method) * self.paces.get(method.name, 1.0)

    def attempt(self, method: Method, start: str = "") -> Trial:
        """The trial of `method`, from the log or made now; its file is kept if it is the best."""
        known = self.trials.find(key_of(method, start))
        trial = self._made(method, start) if known is None else known
        self.seen.append(trial)
        self.tried[trial.key] = method
        return trial

    def _made(self, method: Method, start: str) -> Trial:
        best = self.best
        so_far = "none" if best is None else self.describe(best)
        name = Trial(key_of(method, start), 0, "", 0).name
        if best is not None and remaining() < 0:
            raise OutOfTime("out of time")
        expected = self.seconds(method)
        if remaining() > 0:
            progress(f"{name}: about {in_words(expected)}; best so far: {so_far}", 0, 1)
        if method.needs == "training" and expected > PATIENCE * remaining():
            raise OutOfTime(f"{in_words(remaining())} are left for a training of {in_words(expected)}")
        began = time.perf_counter()
        try:
            size = self.runner.make(method, start, self.folder.candidate)
            trial = Trial(key_of(method, start), size, hash_of(self.folder.candidate), 0.0)
            drop = self.runner.evaluate(self.folder.candidate)
            if drop is not None:
                trial = replace(trial, drop=drop.mean, least=drop.least, most=drop.most, n=drop.n)
            trial = replace(trial, seconds=time.perf_counter() - began)
            self.paces[method.name] = trial.seconds / max(self.runner.expect(method), 1e-3)
            self.trials.add(trial)  # first: a row without its file is made again, a file without its row is foreign
            if best is None or self.target.rank(trial) < self.target.rank(best):
                self._place(self.folder.candidate)
            self.on_message(f"{name}: {self.describe(trial)}")
        finally:
            self.folder.candidate.unlink(missing_ok=True)
        return trial

    def _place(self, candidate: Path) -> None:
        """Copy the best file to `output`. **Raises** `OutputError` if somebody else's file is there."""
        there = hash_of(self.output) if self.output.is_file() else None
        if there not in (None, self.given) and not self.trials.knows(there):
            raise OutputError(f"{self.output} was written by something else during the search: move it away")
        with open(candidate, "rb") as made, replacing_file(self.output, overwrite=there is not None) as stream:
            shutil.copyfileobj(made, stream)

    def describe(self, trial: Trial) -> str:
        """Its bytes, its drop with n and the bound, and the verdict."""
        text = f"{trial.bytes:,} bytes"
        if trial.drop is not None:
            most = self.target.drop(trial.most or 0.0).split()[0]
            text += f", drop {self.target.drop(trial.drop)} (at most {most}, n = {trial.n:,})"
        return f"{text}, {self.target.of(trial)}"

    def explore(self, method: Method, hint: float | None = None) -> None:
        """Try values of the knob of `method`, beginning near `hint`, until the best one is found."""
        if self.target.max_bytes is not None:
            self._fill(_Turned(self, method, hint), self.target.max_bytes)
        else:
            self._shrink(_Turned(self, method, hint))

    def _fill(self, turned: "_Turned", most: int) -> None:
        """The largest file of at most `most` bytes, or the smallest that the method can make."""
        index = boundary(turned.count, turned.near, lambda index: turned.size(index) > most) + 1
        with suppress(BudgetError):
            while index < turned.count and turned.trial(index).bytes > most:
                index += 1
            if index < turned.count:
                return
        for last in reversed(range(turned.count)):
            with suppress(BudgetError):
                turned.trial(last)
                return

    def _shrink(self, turned: "_Turned") -> None:
        """The smallest file within the drop; trainings that would be larger than the best file are left out."""
        best = self.reached
        sure = self.target.of(turned.first()) == "met"
        first = 0
        if turned.trains and best is not None and self.within(best, sure):
            first = boundary(turned.count, 0, lambda index: turned.size(index) >= best.bytes) + 1

        def holds(index: int) -> bool:
            try:
                return self.within(turned.trial(first + index), sure)
            except BudgetError as error:  # the method cannot go so low
                self.on_message(f"left out: {error}")
                return False

        boundary(turned.count - first, None if turned.near is None else turned.near - first, holds)

    def polish(self) -> None:
        """Try the rates just below that of the best trial: neighbouring files differ by noise, too, and the bisection
        passes by some that are met. Each that is met is where it goes on from. Every further look is another chance to
        be lucky: benchmarks/verdicts.py counts how often.

        Not for a target in bytes (fewer bytes are not wanted), trainings (too dear), or where nothing is met.
        """
        if self.target.max_drop is None:
            return
        while (best := self.reached) is not None and self.target.of(best) == "met":
            method = self.tried[best.key]
            if method.needs == "training":
                return
            value = getattr(method, method.knob.field)
            for lower in (other for other in method.knob.values if NEAR * value <= other < value):
                with suppress(BudgetError):  # the method cannot go so low
                    self.attempt(method.at(lower))
                if self.reached != best:
                    break
            else:
                return

    def size(self, method: Method) -> int:
        """The bytes of a file that is made, and not kept."""
        try:
            return self.runner.make(method, "", self.folder.untrained)
        finally:
            self.folder.untrained.unlink(missing_ok=True)

    def within(self, trial: Trial, sure: bool) -> bool:
        """Whether a trial keeps the target: surely, or as far as its mean tells."""
        assert trial.drop is not None and self.target.max_drop is not None
        return self.target.of(trial) == "met" if sure else trial.drop <= self.target.max_drop


class _Turned:
    """A method at the values of its knob, by index; `near` is the one nearest to `hint`. Each training starts from the
    one at the next higher value that was finished."""

    def __init__(self, search: Search, method: Method, hint: float | None) -> None:
        self.search, self.method, self.values = search, method, method.knob.values
        self.count, self.trains = len(self.values), method.needs == "training"
        self.near = None if hint is None else min(range(self.count), key=lambda i: abs(self.values[i] - hint))
        self.made: dict[int, Trial] = {}

    def trial(self, index: int) -> Trial:
        """The trial at a value, made or known."""
        before = [self.made[other].key for other in sorted(self.made) if other < index]
        method = self.method.at(self.values[index])
        self.made[index] = self.search.attempt(method, before[-1] if before and self.trains else "")
        return self.made[index]

    def first(self) -> Trial:
        """The trial of the largest file, untrained where that can be."""
        untrained = self.method.at(self.values[0]).untrained
        return self.trial(0) if untrained is None else self.search.attempt(untrained)

    def size(self, index: int) -> int:
        """Its bytes, without training where that tells them; 0 where the method cannot go so low."""
        untrained = self.method.at(self.values[index]).untrained
        try:
            if untrained is None or self.method.untrained == self.method:
                return self.trial(index).bytes
            return self.search.size(untrained)
        except BudgetError:
            return 0


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
