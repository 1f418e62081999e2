"""Finding the step that fills a budget: estimates steer, real encodes decide."""

import math
from collections.abc import Callable

from ..errors import BudgetError
from .rate import LARGEST, solve_step

MARGINS = ((0.998, 0), (0.996, 8), (0.98, 32))  # share of the goal, and bytes less, aimed at until a try has met it
CLOSE = 0.985  # a result that uses this share of the budget is not tried again


def fill(estimate: Callable[[float], float], encode: Callable[[float], int], goal: float, what: str) -> float:
    """The step whose encoded size comes closest to `goal` bytes from below, after at most three real encodes.

    `estimate(step)` and `encode(step)` are bytes; both fall as the step grows. The second try assumes that they differ
    by what they differed in the first, the third that they lie on the line through both.

    **Raises** `BudgetError` (with the nearest size reached) if no encode met the goal.
    """
    tried: list[tuple[float, int, float]] = []  # estimate, size, step
    for share, slack in MARGINS:
        met = any(size <= goal for _, size, _ in tried)
        step = solve_step(estimate, _aim(tried, goal * MARGINS[0][0] if met else goal * share - slack))
        step = LARGEST if math.isinf(step) else step
        tried.append((estimate(step), encode(step), step))
        if CLOSE * goal <= tried[-1][1] <= goal:
            break
    fitting = [(size, step) for _, size, step in tried if size <= goal]
    if not fitting:
        nearest = min(size for _, size, _ in tried)
        raise BudgetError(f"{what} cannot be met: the smallest result has {nearest:,} bytes of {goal:,}", nearest)
    return max(fitting)[1]


def _aim(tried: list[tuple[float, int, float]], wanted: float) -> float:
    """The estimate at which a size of `wanted` is expected."""
    if not tried:
        return wanted
    estimated, size, _ = tried[-1]
    slope = 1.0
    if len(tried) > 1 and estimated != tried[-2][0]:
        slope = min(2.0, max(0.5, (size - tried[-2][1]) / (estimated - tried[-2][0])))
    return estimated + (wanted - size) / slope
