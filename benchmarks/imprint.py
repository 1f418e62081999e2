"""Orders of layers at equal bytes: imprinting against reversed, random, Hessian, Fisher and loss-increase orders.

    TERSENET_DATA=FOLDER python benchmarks/imprint.py WEIGHTS.safetensors --bytes 90000 --out OUT.csv

Every order lowers layers (8 -> 4 -> 2 bits) until the untrained file fits the bytes, then the network is fine-tuned for
two epochs and judged from its file on the test split. Rows that OUT.csv holds already are not run again. `--halves`
prints the rank correlation of imprinting scores from disjoint halves of the data instead.
"""

import argparse
import csv
import tempfile
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

import tersenet
from tersenet import methods
from tersenet.analysis.allocate import average, ladder, optimum
from tersenet.analysis.evaluate import evaluate
from tersenet.analysis.scores import imprint
from tersenet.api import load_into
from tersenet.cli.factory import make_model, make_task
from tersenet.files.checkpoint import open_module
from tersenet.files.terse import measure

COLUMNS = ["order", "seed", "average bits", "untrained bytes", "bytes", "validation", "test", "drop", "low", "high"]


def plan(method, network, task, goal):
    """Bits of layers whose untrained file has at most `goal` bytes, by the order (or optimum) of a method.

    Layers are lowered until the file fits; then, from the most important on, whatever still fits is raised again by a
    rung, so that all orders use the same bytes.
    """
    source = open_module(network)
    found = method.plan(deepcopy(network), source, task.for_method())[1]["importance"]
    pinned = {name: 8 for name in found["bits"] if name not in found["scores"]}
    brief = replace(task, train=list(islice(task.split("train"), 2)))
    seen = {}

    def size(bits):
        key = tuple(sorted(bits.items()))
        if key not in seen:
            small = tersenet.compress(deepcopy(network), replace(method, layer_bits=bits, epochs=0), task=brief)
            seen[key] = measure(iter(small.tensors.items()), small)
        return seen[key]

    if method.allocation == "optimum":
        losses = method._losses(network, list(found["bits"]), found["scores"], pinned)
        sizes = {name: source.specs[name].shape.numel() for name in found["bits"]}
        mean = 8.0
        while size(bits := optimum(losses, sizes, mean)) > goal:
            mean = average(sizes, bits) - 1e-6
    else:
        bits = ladder(found["order"], method.rungs, size, goal, pinned)
    for name in reversed(found["order"]):
        above = [rung for rung in method.rungs if rung > bits[name]]
        if above and size(wider := {**bits, name: min(above)}) <= goal:
            bits = wider
    return bits, size(bits)


def row(order, seed, weights, model, task, goal):
    """One fine-tuned file."""
    network = load_into(weights, make_model(model, []))
    score, _, allocation = order.partition("+")
    method = methods.get("imprint")(score=score, allocation=allocation or "ladder", seed=seed)
    bits, before = plan(method, network, task, goal)
    small = tersenet.compress(deepcopy(network), replace(method, layer_bits=bits, compile=True), task=task)
    with tempfile.TemporaryDirectory() as folder:
        size = tersenet.save(small, Path(folder) / "small.terse")
        tuned = tersenet.load(Path(folder) / "small.terse").apply_to(make_model(model, [])).eval()
    validation, test = (evaluate(tuned, task, split, network) for split in ("validation", "test"))
    drop = [round(100 * part, 2) for part in (test.drop.mean, test.drop.low, test.drop.high)]
    mean = average({name: small.tensors[name].shape.numel() for name in bits}, bits)
    return [order, seed, round(mean, 3), before, size, validation.metric.mean, test.metric.mean, *drop]


def halves(weights, model, task):
    """Spearman's correlation of gains measured on disjoint halves of the images (examples and held-out alike)."""
    from scipy.stats import spearmanr

    network = load_into(weights, make_model(model, []))
    examples, held = list(task.batches("train")), list(task.batches("validation"))
    found = []
    for part in (0, 1):
        gains = imprint(network, examples[part:80:2], held[part::2]).gains
        found.append(gains)
    both = float(spearmanr(*found).statistic)
    print(f"rank correlation of gains between halves: {both:.3f} of {len(found[0])} modules")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--task", default="cifar10")
    parser.add_argument("--bytes", type=int, default=90_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--orders", nargs="+", default=["imprint", "reversed", "random"])
    parser.add_argument("--out", type=Path, default=Path("imprint.csv"))
    parser.add_argument("--halves", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    task = make_task(given.task, [])
    if given.halves:
        halves(given.weights, given.model, task)
        return
    rows = list(csv.reader(given.out.open())) if given.out.is_file() else [COLUMNS]
    for seed in given.seeds:
        for order in given.orders:
            if any(done[:2] == [order, str(seed)] for done in rows):
                continue
            rows.append(list(map(str, row(order, seed, given.weights, given.model, task, given.bytes))))
            print(*rows[-1], sep="\t", flush=True)
            with given.out.open("w", newline="") as stream:
                csv.writer(stream).writerows(rows)


if __name__ == "__main__":
    main()
