"""Levels that are powers of two, or sums of a few: products with them are shifts and adds.

In integers: the smallest nonzero term of a set is 1, so a level is a sum of powers of two and the scale is the clip
divided by the largest level.
"""

from itertools import product

from ..core.levels import Integers, Levels, Points


def power_magnitudes(bits: int) -> tuple[int, ...]:
    """`{0} + {2^-i, i = 0 .. 2^bits - 2}`, times its smallest member: 0, 1, 2, 4 ...

    >>> power_magnitudes(2)
    (0, 1, 2, 4)
    """
    return (0, *(1 << i for i in range(2**bits - 1)))


def additive_terms(bits: int) -> list[tuple[int, ...]]:
    """The exponents e of the terms `2^-e` of each of the `ceil(bits / 2)` summands, beside 0.

    Two bits a summand: n = bits // 2 summands with `e = i, i + n, i + 2n` (i = 1 .. n). An odd number of bits adds a
    summand of one bit, whose exponent `2n + 1` the last terms of the others make room for (as in the authors' code).

    >>> additive_terms(4)
    [(1, 3, 5), (2, 4, 6)]
    >>> additive_terms(3)
    [(1, 2, 4), (3,)]
    """
    pairs, odd = divmod(bits, 2)
    terms: list[tuple[int, ...]] = [(i, i + pairs, i + 2 * pairs + odd) for i in range(1, pairs + 1)]
    return [*terms, (2 * pairs + 1,)] if odd else terms


def additive_magnitudes(bits: int) -> tuple[int, ...]:
    """All sums of one member (or 0) of every summand, times the smallest term.

    >>> additive_magnitudes(3)
    (0, 1, 2, 3, 4, 6, 8, 10)
    """
    terms = additive_terms(bits)
    last = max(exponent for term in terms for exponent in term)
    choices = [(0, *(1 << (last - exponent) for exponent in term)) for term in terms]
    return tuple(sorted({sum(chosen) for chosen in product(*choices)}))


def with_signs(magnitudes: tuple[int, ...]) -> Levels:
    """The magnitudes and their negatives."""
    return _levels(tuple(-m for m in reversed(magnitudes) if m) + magnitudes)


def without_signs(magnitudes: tuple[int, ...]) -> Levels:
    """The magnitudes."""
    return _levels(magnitudes)


def _levels(values: tuple[int, ...]) -> Levels:
    if len(values) == values[-1] - values[0] + 1:
        return Integers(values[0], values[-1])
    return Points(values)
