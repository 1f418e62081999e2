"""Coded integers never take more than fixed-width packing, or than their order-0 entropy and a table of it."""

import numpy as np
import pytest

from tersenet import codec
from tersenet.codec.bitpack import pack
from tersenet.codec.rans import states_for

RNG = np.random.default_rng(5)
KINDS = ("flat", "normal", "heavy", "sparse", "drifting")
SIZES = (1, 2, 7, 100, 3_000, 50_000, 300_001)
DISTINCT = (1, 2, 3, 5, 16, 31, 200, 5_000, 65_536)


def made(kind: str, size: int, distinct: int) -> np.ndarray:
    """`size` integers out of `distinct`; "drifting" has another spread at its end than at its head."""
    half = distinct / 2
    drawn = {
        "flat": lambda: RNG.uniform(-half, half, size),
        "normal": lambda: RNG.standard_normal(size) * half / 3,
        "heavy": lambda: RNG.standard_t(2, size) * half / 8,
        "sparse": lambda: RNG.standard_normal(size) * half / 2 * (RNG.random(size) < 0.04),
        "drifting": lambda: RNG.standard_normal(size) * half / 3 * np.linspace(0.1, 1.5, size),
    }[kind]()
    low = -(distinct // 2)
    return np.clip(np.floor(drawn), low, low + distinct - 1).astype(np.int32)


def bound(codes: np.ndarray) -> float:
    """The smaller of fixed-width packing and (order-0 entropy and six bits for every integer of the range)."""
    counts = np.bincount(codes - codes.min())
    p = counts[counts > 0] / codes.size
    span = len(counts)
    fixed = len(pack(np.zeros(codes.size, np.uint32), (span - 1).bit_length()))
    return float(min(fixed, (-(p * np.log2(p)).sum() * codes.size + 6 * min(span, 2 * (p > 0).sum())) / 8))


@pytest.mark.parametrize("distinct", DISTINCT)
@pytest.mark.parametrize("kind", KINDS)
def test_fast_coding_stays_within_a_hair_of_the_simplest_ways(kind: str, distinct: int) -> None:
    """Levels in quarters of an octave and raw low bits take up to 1.5 %, interleaved states 4 bytes each."""
    for size in SIZES:
        codes = made(kind, size, distinct)
        assert codec.encode(codes, effort="fast").size <= 1.015 * bound(codes) + 16 + 4 * states_for(size)


def test_a_head_that_is_unlike_the_rest_does_not_mislead_the_choice() -> None:
    """The first rows of a vocabulary are hardly ever trained: nearly constant, though most others are not."""
    rest = np.round(RNG.standard_normal(900_000) * 0.9).astype(np.int8)
    codes = np.concatenate([np.where(RNG.random(300_000) < 0.02, rest[:300_000], 0).astype(np.int8), rest])
    for array in (codes, codes[::-1].copy(), RNG.permutation(codes)):
        assert codec.encode(array, effort="fast").size <= 1.003 * bound(codes) + 512


def test_groups_are_found_where_only_the_tail_has_them() -> None:
    head = RNG.integers(-1, 2, 300_000).astype(np.int8)
    tail = np.repeat(RNG.integers(-1, 2, 400_000).astype(np.int8), 3)
    assert codec.encode(np.concatenate([head, tail]), effort="fast").size < 0.75 * bound(np.concatenate([head, tail]))
