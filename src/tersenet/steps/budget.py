"""Finding the step that fills a budget: estimates steer, real encodes decide."""

import math
from collections.abc import Callable

from ..errors import BudgetError
from .rate import solve_step

MARGINS = (0.998, 0.994, 0.97)  # share of the goal aimed at, try by try, until one has met it
CLOSE = 0.985  # a result that uses this share of the budget is not tried again


def fill(estimate: Callable[[float], float], encode: Callable[[float], int], goal: float, what: str) -> float:
    """The step whose encoded size comes closest to `goal` bytes from below, after at most three real encodes.

    `estimate(step)` and `encode(step)` are bytes; both fall as the step grows, and their difference is learned.

    **Raises** `BudgetError` (with the nearest size reached) if no encode met the goal.
    """
    offset, best, nearest = 0.0, math.inf, math.inf
    for margin in MARGINS:
        room = goal * (margin if math.isinf(best) else MARGINS[0]) - offset
        step = solve_step(estimate, room) if room > 0 else math.inf
        if math.isinf(step):
            step = 2.0**20
        size = encode(step)
        nearest = min(nearest, size)
        if size <= goal:
            best = min(best, step)
            if size >= CLOSE * goal:
                return best
        offset = size - estimate(step)
    if math.isinf(best):
        raise BudgetError(
            f"{what} cannot be met: the smallest result is {nearest:,.0f} bytes, asked were {goal:,.0f}", nearest
        )
    return best
