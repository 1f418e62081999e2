"""Bits for every layer under a budget: the ladder of the thesis, and the optimum for scores that add up."""

from collections.abc import Callable, Mapping, Sequence

from ..errors import BudgetError

Bits = dict[str, int]
BUCKETS = 4096  # costs are told apart to a 4096th of the budget


def average(sizes: Mapping[str, int], bits: Mapping[str, int]) -> float:
    """The mean width in bits over all weights; `sizes` are numbers of weights."""
    return sum(sizes[name] * width for name, width in bits.items()) / sum(sizes[name] for name in bits)


def ladder(
    order: Sequence[str], rungs: Sequence[int], cost: Callable[[Bits], float], budget: float, pinned: Mapping[str, int]
) -> Bits:
    """Start all layers on the top rung; lower the least important by one rung after the other, until the budget is met.

    `order` goes from the least important to the most. When every layer has been lowered, a second sweep begins.
    `pinned` layers keep their bits. `cost` of an assignment is in the unit of `budget` (average bits, bytes).

    **Raises** `BudgetError` if the budget is not met with all layers on the lowest rung.

    >>> sizes = {"a": 10, "b": 10}
    >>> ladder(["b", "a"], (8, 4, 2), lambda bits: average(sizes, bits), 6.0, {})
    {'b': 4, 'a': 8}
    """
    steps = sorted(rungs, reverse=True)
    bits = {name: pinned.get(name, steps[0]) for name in [*order, *(n for n in pinned if n not in order)]}
    spent = cost(bits)
    for rung in steps[1:]:
        for name in order:
            if spent <= budget:
                return bits
            if name not in pinned:
                bits[name] = rung
                spent = cost(bits)
    if spent > budget:
        raise BudgetError(
            f"the budget of {budget:g} cannot be met: all layers at {steps[-1]} bits need {spent:g}", spent
        )
    return bits


def optimum(losses: Mapping[str, Mapping[int, float]], sizes: Mapping[str, int], budget: float) -> Bits:
    """The assignment with the smallest sum of `losses[layer][bits]` whose average width is at most `budget` bits.

    Exact up to costs that differ by less than a 4096th of the budget, which are rounded up (so the budget holds).

    **Raises** `BudgetError` if even the narrowest widths need more.

    >>> optimum({"a": {2: 9.0, 4: 1.0}, "b": {2: 2.0, 4: 1.0}}, {"a": 10, "b": 10}, 3.0)
    {'a': 4, 'b': 2}
    """
    total = budget * sum(sizes[name] for name in losses)
    unit = total / BUCKETS
    states: dict[int, tuple[float, Bits]] = {0: (0.0, {})}
    for name, options in losses.items():
        after: dict[int, tuple[float, Bits]] = {}
        for spent, (loss, bits) in states.items():
            for width, more in options.items():
                at = spent + -int(-sizes[name] * width // unit) if unit else BUCKETS + 1
                if at <= BUCKETS and (at not in after or loss + more < after[at][0]):
                    after[at] = (loss + more, {**bits, name: width})
        states = _undominated(after)
    if not states:
        least = average(sizes, {name: min(options) for name, options in losses.items()})
        raise BudgetError(f"{budget:g} bits on average cannot be met: the narrowest widths need {least:g}", least)
    return min(states.values(), key=lambda state: state[0])[1]


def _undominated(states: dict[int, tuple[float, Bits]]) -> dict[int, tuple[float, Bits]]:
    """States that no cheaper one beats."""
    kept, best = {}, float("inf")
    for spent in sorted(states):
        if states[spent][0] < best:
            kept[spent], best = states[spent], states[spent][0]
    return kept
