"""Finding the step that fills a budget: estimates steer, real encodes decide."""

import math
from collections.abc import Callable

from ...errors import BudgetError
from .entropy import LARGEST, solve_step

MARGINS = ((0.998, 0), (0.996, 8), (0.98, 32))  # share of the goal, and bytes less, aimed at until a try has met it
CLOSE = 0.985  # a result that uses this share of the budget is not tried again
MOST = 9  # encodes
STRIDE = 3.0  # factor between steps where all tries so far are on one side


def fill(
    estimate: Callable[[float], float],
    encode: Callable[[float], int],
    goal: float,
    what: str,
    fixed: int = 0,
) -> float:
    """The step whose encoded size comes closest to `goal` bytes from below, after at most nine real encodes.

    `encode(step)` are bytes, of which `fixed` do not depend on the step; `estimate(step)` are the others, estimated.
    The second try corrects the estimate by the error of the first, the third by the line through both. Where that is
    far off (codes of compensated weights at less than a bit), later tries lie between the nearest ones on either side.

    **Raises** `BudgetError` (with the nearest size reached) if no encode met the goal.
    """
    tried: list[tuple[float, int]] = []
    room = goal - fixed

    def attempt(step: float) -> None:
        tried.append((step, encode(step) - fixed))

    def done() -> bool:
        return any(CLOSE * room <= size <= room for _, size in tried) or len(tried) >= MOST - 1

    for share, slack in () if room <= 0 else MARGINS:
        met = any(size <= room for _, size in tried)
        step = solve_step(estimate, _aim(tried, estimate, room * MARGINS[0][0] if met else room * share - slack))
        if math.isinf(step) or done():  # inf: no step is estimated to be enough
            break
        attempt(step)
    while room > 0 and not done():
        attempt(_between(tried, room))
    if all(size > room for _, size in tried):
        attempt(LARGEST)
    fitting = [(size, step) for step, size in tried if size <= room]
    if not fitting:
        nearest = fixed + min(size for _, size in tried)
        raise BudgetError(f"{what} cannot be met: the smallest result has {nearest:,} bytes of {int(goal):,}", nearest)
    return max(fitting)[1]


def _aim(tried: list[tuple[float, int]], estimate: Callable[[float], float], wanted: float) -> float:
    """The estimate at which a size of `wanted` is expected."""
    if not tried:
        return wanted
    (step, size), slope = tried[-1], 1.0
    estimated = estimate(step)
    if len(tried) > 1 and estimated != (before := estimate(tried[-2][0])):
        slope = min(2.0, max(0.5, (size - tried[-2][1]) / (estimated - before)))
    return estimated + (wanted - size) / slope


def _between(tried: list[tuple[float, int]], goal: float) -> float:
    """A step between the largest that was too small and the smallest that was enough: where the line through both, in
    logarithms, meets the goal."""
    small = max((step, size) for step, size in [(0.0, 0), *tried] if size > goal or not step)
    large = min((step, size) for step, size in [(math.inf, 0), *tried] if size <= goal)
    if math.isinf(large[0]):
        return min(small[0] * STRIDE or 1.0, LARGEST)
    if not small[0]:
        return large[0] / STRIDE
    sizes = [math.log(max(1, size)) for size in (small[1], 0.99 * goal, large[1])]
    share = min(0.9, max(0.1, (sizes[0] - sizes[1]) / (sizes[0] - sizes[2])))
    return math.exp(math.log(small[0]) * (1 - share) + math.log(large[0]) * share)
