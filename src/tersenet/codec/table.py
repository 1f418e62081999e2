"""Frequency tables of the rANS coder: six bits a symbol on disk, 12-bit frequencies, alias buckets for decoding.

All of it is integer arithmetic, so every machine builds the same tables.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from .bitpack import pack, unpack
from .stream import CodecError

PRECISION = 12
TOTAL = 1 << PRECISION
MAX_SYMBOLS = 32
ABSENT = 63
MAX_LEVEL = 52  # 2^-13: the rarest symbol still costs no more than 12 bits after rounding up to frequency 1
_QUARTERS = (1 << 32, 3611622603, 3037000500, 2553802834)  # round(2^(32 - i / 4))
_EDGE = 3938502376  # round(2^(32 - 1 / 8)): between two levels

Ints = npt.NDArray[np.int64]


def levels_of(counts: Ints) -> Ints:
    """Quarter-octave levels `round(-4 log2(count / total))`, at most `MAX_LEVEL`; `ABSENT` for count 0.

    >>> levels_of(np.array([8, 4, 0, 4]))
    array([ 4,  8, 63,  8])
    """
    total = int(counts.sum())
    levels = np.full(len(counts), ABSENT, np.int64)
    for i, count in enumerate(counts.tolist()):
        if count:
            level = 0
            # count / total < 2^(-(level + 1/2) / 4), as integers
            while level < MAX_LEVEL and (count << 32 + level // 4) < total * _edge(level % 4):
                level += 1
            levels[i] = level
    return levels


@cache
def _edge(quarter: int) -> int:
    return (_EDGE * _QUARTERS[quarter]) >> 32


def frequencies(levels: Ints) -> Ints:
    """12-bit frequencies of `levels`: proportional to 2^(-level / 4), at least 1, sum 4096.

    What rounding leaves over goes to the largest (the first of them).

    **Raises** `CodecError` for levels no encoder writes.
    """
    present = levels != ABSENT
    if not present.any() or (levels[present] > MAX_LEVEL).any() or len(levels) > MAX_SYMBOLS:
        raise CodecError("a frequency table has levels out of range")
    weights = [0 if level == ABSENT else _QUARTERS[level % 4] >> (level // 4) for level in levels.tolist()]
    total = sum(weights)
    rounded = [max(1, (weight * TOTAL * 2 + total) // (2 * total)) if weight else 0 for weight in weights]
    top = rounded.index(max(rounded))
    rounded[top] += TOTAL - sum(rounded)
    return np.array(rounded, np.int64)


def pack_levels(levels: Ints) -> bytes:
    """Six bits a level."""
    return pack(levels.astype(np.uint32), 6)


def unpack_levels(data: bytes, count: int) -> Ints:
    """Inverse of `pack_levels`. **Raises** `CodecError` if `data` is too short."""
    if 8 * len(data) < 6 * count:
        raise CodecError("parameters end inside a frequency table")
    return unpack(data, count, 6).astype(np.int64)


@cache
def _log2_table() -> Ints:
    """`round(256 log2(4096 / f))` for f = 1..4096 (index 0: 12 bits), by repeated squaring of integers."""
    f = np.arange(TOTAL + 1, dtype=np.uint64)
    f[0] = 1
    whole = np.zeros(TOTAL + 1, np.int64)
    for shift in range(1, PRECISION + 1):
        whole[f >= (1 << shift)] = shift
    mantissa = (f << np.uint64(31)) >> whole.astype(np.uint64)  # in [2^31, 2^32)
    fraction = np.zeros(TOTAL + 1, np.int64)
    for _ in range(10):
        mantissa = (mantissa * mantissa) >> np.uint64(31)
        big = mantissa >= np.uint64(1 << 32)
        fraction = 2 * fraction + big
        mantissa = np.where(big, mantissa >> np.uint64(1), mantissa)
    return ((PRECISION << 10) - (whole << 10) - fraction + 2) >> 2


def lengths(freqs: Ints) -> Ints:
    """Code lengths in 1/256 bit; symbols of frequency 0 get 12 bits. **Shapes**: `[n]` -> `[n]`."""
    return _log2_table()[freqs]


def alias_buckets(freqs: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """The 4096 slots as 16 or 32 equal buckets, each shared by at most two symbols.

    In bucket b, the first `divider[b]` slots belong to symbol b with ranks `first[b] + i`, the others (i from 0 after
    the divider) to symbol `alias[b]` with ranks `second[b] + i`. Built greedily: the lowest bucket that is not full is
    filled by the lowest symbol that has more than a bucket left.

    **Shapes**: `[n]` -> four times `[16]` (n <= 16) or `[32]`.
    """
    buckets = 16 if len(freqs) <= 16 else 32
    size = TOTAL // buckets
    left = [*freqs.tolist(), *[0] * (buckets - len(freqs))]
    used = [0] * buckets
    divider, alias, first, second = ([0] * buckets for _ in range(4))
    done = [False] * buckets
    while (b := next((i for i in range(buckets) if not done[i] and left[i] < size), None)) is not None:
        donor = next(i for i in range(buckets) if not done[i] and left[i] > size)
        divider[b], alias[b], first[b], second[b] = left[b], donor, used[b], used[donor]
        used[donor] += size - left[b]
        left[donor] -= size - left[b]
        done[b] = True
    for b in range(buckets):
        if not done[b]:
            divider[b], alias[b], first[b] = size, b, used[b]
    return tuple(np.array(x, np.int64) for x in (divider, alias, first, second))  # type: ignore[return-value]


def slots(freqs: Ints) -> tuple[Ints, Ints]:
    """Symbol and rank of each of the 4096 slots. **Shapes**: `[n]` -> `[4096]`, `[4096]`."""
    divider, alias, first, second = alias_buckets(freqs)
    bucket, inside = np.divmod(np.arange(TOTAL), TOTAL // len(divider))
    own = inside < divider[bucket]
    symbol = np.where(own, bucket, alias[bucket])
    rank = np.where(own, first[bucket] + inside, second[bucket] + inside - divider[bucket])
    return symbol, rank
