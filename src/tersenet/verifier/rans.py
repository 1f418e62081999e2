"""rANS: frequencies, slots, and the symbols of chunks; chunks of one length are decoded side by side."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .bits import Ints, number
from .checks import need

QUARTERS = (4294967296, 3611622603, 3037000500, 2553802834)
TOGETHER = 64  # chunks


class Table(NamedTuple):
    """Frequency of each symbol; symbol and rank of each slot."""

    frequency: Ints
    symbol: Ints
    rank: Ints


def table(levels: Sequence[int]) -> Table:
    """The table of a list of levels."""
    need(all(level == 63 or level <= 52 for level in levels) and min(levels) < 63, "levels of a table")
    weights = [0 if level == 63 else QUARTERS[level % 4] >> (level // 4) for level in levels]
    total = sum(weights)
    frequency = [max(1, (8192 * w + total) // (2 * total)) if w else 0 for w in weights]
    frequency[frequency.index(max(frequency))] += 4096 - sum(frequency)
    buckets = 16 if len(levels) <= 16 else 32
    full = 4096 // buckets
    left, used = frequency + [0] * (buckets - len(frequency)), [0] * buckets
    symbol, rank, is_open = [0] * 4096, [0] * 4096, set(range(buckets))

    def assign(bucket: int, start: int, stop: int, s: int) -> None:
        for i in range(start, stop):
            symbol[bucket * full + i], rank[bucket * full + i] = s, used[s]
            used[s] += 1

    while short := sorted(b for b in is_open if left[b] < full):
        b = short[0]
        donor = min(d for d in is_open if left[d] > full)
        assign(b, 0, left[b], b)
        assign(b, left[b], full, donor)
        left[donor] -= full - left[b]
        is_open.remove(b)
    for b in is_open:
        assign(b, 0, full, b)
    return Table(*(np.array(part, np.int64) for part in (frequency, symbol, rank)))


def lanes_of(n: int) -> int:
    """How many states a chunk of n symbols has."""
    return 1 if n < 16384 else 2 if n < 65536 else 16 if n < 262144 else 64


def begun(data: bytes, n: int) -> tuple[Ints, Ints]:
    """The states of a chunk of n symbols, and its words."""
    lanes = lanes_of(n)
    need(len(data) >= 4 * lanes and len(data) % 2 == 0, "rANS bytes that are too short")
    states = np.array([number(data[4 * i : 4 * i + 4]) for i in range(lanes)], np.int64)
    need(states.min() >= 65536, "a state below 65,536")
    return states, np.frombuffer(data[4 * lanes :], "<u2").astype(np.int64)


def symbols(chunks: Sequence[bytes], n: int, of: Table) -> list[Ints]:
    """The n symbols of every chunk."""
    found: list[Ints] = []
    for start in range(0, len(chunks), TOGETHER):
        some = [begun(data, n) for data in chunks[start : start + TOGETHER]]
        found += [_alone(*each, n, of) for each in some] if lanes_of(n) < 16 else _side_by_side(some, n, of)
    return found


def _alone(states: Ints, words: Ints, n: int, of: Table) -> Ints:
    frequency, symbol, rank = (part.tolist() for part in of)
    x, left, found = states.tolist(), iter(words.tolist()), []
    for i in range(n):
        lane = i % len(x)
        state = x[lane]
        s = symbol[state & 4095]
        state = frequency[s] * (state >> 12) + rank[state & 4095]
        x[lane] = state if state >= 65536 else state << 16 | next(left)
        found.append(s)
    need(all(state == 65536 for state in x) and next(left, None) is None, "a chunk that does not end as it must")
    return np.array(found, np.int64)


def _side_by_side(some: Sequence[tuple[Ints, Ints]], n: int, of: Table) -> list[Ints]:
    x = np.stack([states for states, _ in some])
    words = np.concatenate([*(each for _, each in some), np.zeros(1, np.int64)])
    ends = np.cumsum([len(each) for _, each in some])
    at = ends - [len(each) for _, each in some]
    found = np.empty((len(some), n), np.int16)
    for start in range(0, n, x.shape[1]):
        now = x[:, : n - start]
        slot = now & 4095
        s = of.symbol[slot]
        found[:, start : start + now.shape[1]] = s
        now = of.frequency[s] * (now >> 12) + of.rank[slot]
        short = now < 65536
        place = at[:, None] + np.cumsum(short, axis=1)
        now = np.where(short, now << 16 | words[np.minimum(place - 1, len(words) - 1)], now)
        x[:, : now.shape[1]] = now
        at = place[:, -1]
    need((x == 65536).all() and (at == ends).all(), "a chunk that does not end as it must")
    return [row.astype(np.int64) for row in found]
