"""How well tables are told from weights (docs/design/0009): every kind of both that we could build or fetch.

    python benchmarks/tables.py [FILE_OR_FOLDER ...]

prints a line for each, and for every checkpoint that is named the tensors in it that would be kept as tables.
"""

import sys
import time

import torch
from computed import TABLES
from trained import FRESH, WEIGHTS

from tersenet.files.checkpoint import open_checkpoint
from tersenet.network.kept import QUANTISABLE
from tersenet.network.tables import is_table


def of_checkpoint(path: str) -> None:
    """Print the tensors of a checkpoint that would be kept, and how long it took."""
    source = open_checkpoint(path)
    names = [name for name, spec in source.specs.items() if spec.dtype in QUANTISABLE]
    seconds, found = 0.0, []
    for name in names:
        tensor = source.read(name)
        began = time.perf_counter()
        found += [f"{name} {list(tensor.shape)}"] if is_table(tensor) else []
        seconds += time.perf_counter() - began
    weights = sum(source.specs[name].shape.numel() for name in names)
    print(f"| {path} | {len(names)} of {weights:,} | {', '.join(found) or 'none'} | {seconds:.2f} s |")


def main() -> None:
    """Print the tables."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for kind in (TABLES, WEIGHTS, FRESH):
        for name, build in kind.items():
            tensor = build()
            began = time.perf_counter()
            kept = is_table(tensor)
            took = (time.perf_counter() - began) * 1000
            print(f"| {name} | {'kept' if kept else 'quantised'} | {took:.0f} ms |", flush=True)
        print()
    for path in sys.argv[1:]:
        of_checkpoint(path)


if __name__ == "__main__":
    main()
