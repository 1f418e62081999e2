"""Bits for every layer under a budget: the ladder of the thesis, and the optimum for scores that add up."""

from collections.abc import Callable, Mapping, Sequence

from ..errors import BudgetError

Bits = dict[str, int]
State = tuple[int, float, Bits]  # weights times bits, loss, widths so far
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

    Exact, but that among partial assignments whose costs differ by less than a 4096th of the budget only the cheapest
    and the best are followed.

    **Raises** `BudgetError` if even the narrowest widths need more.

    >>> optimum({"a": {2: 9.0, 4: 1.0}, "b": {2: 2.0, 4: 1.0}}, {"a": 10, "b": 10}, 3.0)
    {'a': 4, 'b': 2}
    """
    total = budget * sum(sizes[name] for name in losses)
    states: list[State] = [(0, 0.0, {})]
    for name, options in losses.items():
        states = _undominated(
            [
                (spent + sizes[name] * width, loss + more, {**bits, name: width})
                for spent, loss, bits in states
                for width, more in options.items()
                if spent + sizes[name] * width <= total
            ],
            total / BUCKETS,
        )
    if not states:
        least = average(sizes, {name: min(options) for name, options in losses.items()})
        raise BudgetError(f"{budget:g} bits on average cannot be met: the narrowest widths need {least:g}", least)
    return min(states, key=lambda state: state[1])[2]


def _undominated(states: list[State], unit: float) -> list[State]:
    """States that no cheaper one beats; of those whose costs differ by less than `unit`, the best and the cheapest."""
    kept: list[State] = []
    best, bucket = float("inf"), -1
    for state in sorted(states, key=lambda state: state[:2]):
        if state[1] < best:
            best, before, bucket = state[1], bucket, int(state[0] // unit) if unit else 0
            if bucket == before and len(kept) > 1 and int(kept[-2][0] // unit) == bucket:
                kept.pop()
            kept.append(state)
    return kept
