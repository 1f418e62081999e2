"""Seconds that `tersenet card` and `tersenet verify --card` take, as commands, on a small and a large file.

    python benchmarks/cards.py [--megabytes 70]

The small file is a network of 20,480 weights at 8 bits, the large one has as many random normal weights at 8 bits per
channel as make about that many megabytes. Prints the bytes of the files and the seconds of the commands with the
start of Python (the best of 3 of the small file, one of the large one), and in brackets those of all cores.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import tersenet

ROWS, COLUMNS = 1024, 4096  # of the matrices of the large file


def random_file(path: Path, matrices: int, rows: int, columns: int) -> int:
    """A file of random normal weights, rounded to 8 bits per channel; returns its bytes."""
    draw = torch.Generator().manual_seed(0)
    layers = [torch.nn.Linear(columns, rows, bias=False) for _ in range(matrices)]
    for layer in layers:
        torch.nn.init.normal_(layer.weight, generator=draw)
    return tersenet.save(tersenet.compress(torch.nn.Sequential(*layers), "rtn", bits=8), path)


def seconds(times: int, *arguments: str) -> str:
    """The least wall-clock time of a command, and the processor time of that run."""
    best = (float("inf"), 0.0)
    for _ in range(times):
        began, used = time.perf_counter(), os.times()
        subprocess.run([sys.executable, "-m", "tersenet", *arguments], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        cpu = after.children_user + after.children_system - used.children_user - used.children_system
        best = min(best, (time.perf_counter() - began, cpu))
    return f"{best[0]:.2f} ({best[1]:.2f})"


def main() -> None:
    """Make both files and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=70)
    megabytes = parser.parse_args().megabytes
    print(
        "| bytes | `verify`, s (cores) | `card`, s (cores) | `verify --card`, s (cores) |\n|---|---|---|---|",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, matrices, rows, columns, times in (
            ("small", 4, 64, 80, 3),
            ("large", max(1, megabytes * 10**6 // (ROWS * COLUMNS)), ROWS, COLUMNS, 1),
        ):
            path = Path(folder) / f"{name}.terse"
            size = random_file(path, matrices, rows, columns)
            file = str(path)
            row = [seconds(times, *words, file) for words in (("verify",), ("card",), ("verify", "--card"))]
            print(f"| {size:,} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
