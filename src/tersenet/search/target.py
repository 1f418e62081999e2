"""What a search is after, and what is said of a file with its drop: `met`, `not met`, or `undecided`."""

import math
from dataclasses import dataclass
from typing import Literal

from .trials import Trial

Verdict = Literal["met", "undecided", "not met"]
ORDER = ("met", "undecided", "not met")


@dataclass(frozen=True)
class Target:
    """At most `max_bytes` bytes of the file, or at most `max_drop` points of the metric (or of another `unit` of the
    task). One of the two."""

    max_bytes: int | None = None
    max_drop: float | None = None
    unit: str = "points"

    def verdict(self, least: float, most: float) -> Verdict:
        """Of a drop with its one-sided bounds, in points."""
        assert self.max_drop is not None
        return "met" if most <= self.max_drop else "not met" if least > self.max_drop else "undecided"

    def of(self, trial: Trial) -> Verdict:
        """Whether a trial keeps the target; without samples a drop is undecided."""
        if self.max_bytes is not None:
            return "met" if trial.bytes <= self.max_bytes else "not met"
        return "undecided" if trial.least is None or trial.most is None else self.verdict(trial.least, trial.most)

    def needed(self, trial: Trial) -> int | None:
        """About how many samples would show that a trial keeps the target drop, if its mean and its variance stay: the
        bound nears the mean with their square root. None where no number would: the mean is not within.
        """
        if self.max_drop is None or trial.drop is None or trial.most is None or trial.n is None:
            return None
        if not trial.drop < self.max_drop or not math.isfinite(trial.most):
            return None
        exact = trial.n * ((trial.most - trial.drop) / (self.max_drop - trial.drop)) ** 2
        unit: int = 10 ** max(0, math.floor(math.log10(exact)) - 1)
        return math.ceil(exact / unit) * unit

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
        if self.max_bytes:
            return f"at most {self.max_bytes:,} bytes"
        return f"a drop of at most {self.max_drop:g} {self.unit}"

    def drop(self, value: float) -> str:
        """A drop in its unit.

        >>> Target(max_drop=1).drop(0.5), Target(max_drop=1, unit="KL").drop(0.0312)
        ('0.50 points', '0.0312 KL')
        """
        return f"{value:.2f} points" if self.unit == "points" else f"{value:.4g} {self.unit}"
