"""What a search found, and whether that is what it was to find."""

from dataclasses import dataclass

from ..analysis.intervals import Estimate, higher
from ..core.model import CompressedModel
from .target import Target, Verdict
from .trials import Trial


@dataclass(frozen=True)
class Outcome:
    """What a search found: the best trial, all trials, why it ended ("finished", "out of time", "interrupted"), the
    model of the best file, the drop on the test split in points, how many looks this search has taken at the test
    split, and what the original network scores on validation and on test (None without labels).

    >>> import tersenet, torch
    >>> from tersenet.methods import get
    >>> found = tersenet.compress_within(torch.nn.Linear(64, 64), None, get("rtn")(), max_bytes=3000)
    >>> found.verdict, found.best.bytes <= 3000
    ('met', True)
    """

    best: Trial
    target: Target
    trials: list[Trial]
    ended: str
    model: CompressedModel
    test: Estimate | None = None
    test_looks: int = 0
    originals: tuple[Estimate, Estimate] | None = None
    higher_is_better: bool = True

    @property
    def verdict(self) -> Verdict:
        """Of the best trial: on its bytes, or on the validation samples."""
        return self.target.of(self.best)

    @property
    def test_verdict(self) -> Verdict | None:
        """Of the test samples on a target drop."""
        if self.test is None or self.target.max_drop is None:
            return None
        return self.target.verdict(self.test.least, self.test.most)

    @property
    def holds(self) -> bool:
        """Whether the best file surely keeps the target (`met`), and the test does not refute it."""
        return self.verdict == "met" and self.test_verdict != "not met"

    @property
    def needed(self) -> int | None:
        """About how many validation samples would decide that the best file keeps an undecided drop."""
        return self.target.needed(self.best) if self.verdict == "undecided" else None

    @property
    def flattered(self) -> bool:
        """Whether the original is significantly better on validation than on test: it may have been trained on it, and
        drops there look smaller than they are."""
        if self.originals is None:
            return False
        validation, test = self.originals
        return higher(validation, test) if self.higher_is_better else higher(test, validation)
