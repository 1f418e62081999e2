"""How sure a mean over samples is: two-sided intervals to describe it, one-sided bounds to decide by it."""

import math
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

TWO_SIDED, ONE_SIDED = 1.959964, 1.644854  # normal quantiles of 97.5 % and 95 %
FEW = 10  # samples that differ: fewer do not tell how much one can differ


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` samples with 95 % confidence: it lies between `low` and `high` (two-sided); and, each for itself
    (one-sided), it is at least `least` and at most `most`."""

    mean: float
    low: float
    high: float
    n: int
    least: float
    most: float

    def times(self, factor: float) -> "Estimate":
        """The same in another unit."""
        mean, low, high, n, least, most = astuple(self)
        return Estimate(mean * factor, low * factor, high * factor, n, least * factor, most * factor)


def estimate(scores: Tensor) -> Estimate:
    """The mean of per-sample `scores` ([n]): Wilson's interval for shares, else that of `spread`.

    >>> estimate(torch.tensor([1.0, 1.0, 0.0, 1.0])).mean
    0.75
    """
    scores = scores.to(torch.float64)
    if not _binary(scores):
        return spread(scores, float(scores.max() - scores.min()))
    n, mean = scores.numel(), float(scores.mean())

    def wilson(z: float) -> tuple[float, float]:
        middle = (mean + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return max(0.0, middle - half), min(1.0, middle + half)

    (low, high), (least, most) = wilson(TWO_SIDED), wilson(ONE_SIDED)
    return Estimate(mean, low, high, n, least, most)


def paired(better: Tensor, worse: Tensor) -> Estimate:
    """The mean of `better` - `worse`, scores of the same samples ([n] each).

    Where every score is 0 or 1 (right or wrong), the interval of Bonett and Price (2012), which is not empty where
    nothing differs: with a and b the numbers of differences 1 and -1, `p = (a + 1) / (n + 2)`, `q = (b + 1) / (n + 2)`,
    `p - q +- 1.96 sqrt((p + q - (p - q)^2) / (n + 2))`; its one-sided bounds, with 1.645, err in up to 9 % of cases
    because few differences are skewed, so `most` is `1 / (n + 2)` higher and `least` as much lower. Else `spread`.

    >>> right = torch.ones(198)
    >>> round(paired(right, right).most, 5)
    0.01663
    """
    better, worse = better.to(torch.float64), worse.to(torch.float64)
    scores, difference = torch.cat([better, worse]), better - worse
    if not _binary(scores):
        return spread(difference, float(scores.max() - scores.min()))
    n, mean = difference.numel(), float(difference.mean())
    p, q = ((float((difference == side).sum()) + 1) / (n + 2) for side in (1, -1))
    error = math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return _around(mean, p - q, n, TWO_SIDED * error, ONE_SIDED * error, 1 / (n + 2))


def spread(values: Tensor, reach: float) -> Estimate:
    """The mean of any numbers ([n]), by Student's t, as if two more samples lay `R` above and below the median.

    `R` is what one sample can differ by: the largest distance from the median that was seen, or `reach` (the range of
    the scores) where fewer than 10 samples differ from the median. So the interval is never empty. `most` is
    `R / (n + 2)` higher and `least` as much lower, as in `paired`. Nothing is known (bounds are infinite) of fewer than
    four numbers, and where all scores are one number that is not right or wrong.
    """
    n, mean, middle = values.numel(), float(values.mean()), float(values.median())
    distances = (values - middle).abs()
    reach = reach if int((distances > 0).sum()) < FEW else float(distances.max())
    if n < 4 or reach == 0:
        return Estimate(mean, -math.inf, math.inf, n, -math.inf, math.inf)
    more = torch.cat([values, values.new_tensor([middle - reach, middle + reach])])
    error = float(more.std()) / math.sqrt(n + 2)
    two, one = (student(z, n - 1) * error for z in (TWO_SIDED, ONE_SIDED))
    return _around(mean, float(more.mean()), n, two, one, reach / (n + 2))


def student(z: float, freedom: int) -> float:
    """The quantile of Student's t with `freedom` (at least 3) that corresponds to `z` of the normal distribution, by
    the expansion of Cornish and Fisher (within 0.2 %).

    >>> round(student(1.959964, 10), 3)
    2.228
    """
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * freedom**4)
    )


def higher(one: Estimate, other: Estimate) -> bool:
    """Whether the mean of `one` is significantly above that of `other`, over other samples (97.5 %, one-sided).

    The interval of the difference, made of those of its parts (Newcombe 1998; Zou and Donner 2008), is above 0.
    """
    return one.mean - other.mean > math.hypot(one.mean - one.low, other.high - other.mean)


def _around(mean: float, middle: float, n: int, two: float, one: float, more: float) -> Estimate:
    """An estimate around `middle` that contains `mean`."""
    return Estimate(
        mean,
        min(mean, middle - two),
        max(mean, middle + two),
        n,
        min(mean, middle - one - more),
        max(mean, middle + one + more),
    )


def _binary(scores: Tensor) -> bool:
    return bool(((scores == 0) | (scores == 1)).all())
