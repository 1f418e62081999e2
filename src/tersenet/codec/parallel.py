"""Chunks on all cores: the native loops do not hold the interpreter's lock."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
THREADS = 16  # each holds a chunk


def in_parallel(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`work` of every item, in order."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        return list(pool.map(work, items))
