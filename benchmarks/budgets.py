"""What `auto --max-drop 1` finds for networks of several kinds, beside the best data-free file, on one core.

    TERSENET_DATA=FOLDER WEIGHTS=FOLDER python benchmarks/budgets.py --work FOLDER --out OUT.csv [--only NETWORK ...]

$WEIGHTS has the fp32 checkpoints. Every search goes on in `--work` where it was stopped; a row that OUT.csv has already
is not searched again. The drop is that of the test split, looked at once, with its 95 % interval.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

CASES = {
    "LeNet-300-100": ("lenet300_100.safetensors", "lenet300", "mnist", "MNIST"),
    "LeNet-5": ("lenet5_caffe.safetensors", "lenet5", "mnist", "MNIST"),
    "ResNet-20": ("resnet20.safetensors", "resnet20", "cifar10", "CIFAR-10 as JPEG"),
}
FIELDS = [
    "network",
    "data",
    "train",
    "checkpoint_bytes",
    "data_free_bytes",
    "bytes",
    "drop",
    "low",
    "high",
    "n",
    "minutes",
]


def run(*arguments: object) -> dict:
    """A search in a fresh process, met or not; its JSON."""
    command = [sys.executable, "-m", "tersenet", *map(str, arguments), "--json", "--overwrite"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout)


def row(name: str, train: bool, work: Path) -> list:
    """Both searches for a network."""
    weights, model, task, data = CASES[name]
    checkpoint = Path(os.environ["WEIGHTS"]) / weights
    given = [checkpoint, "--model", model, "--task", task, "--max-drop", 1]
    free = run("compress", *given, "-o", work / f"{model}-free.terse")
    flags = ["--train"] if train else []
    found = run("auto", *given, "-o", work / f"{model}{'-train' * train}.terse", "--time-limit", 30, *flags)
    test = found["test"]
    drop = [round(test[key], 2) for key in ("mean", "low", "high")]
    minutes = round(found["seconds"] / 60, 1)
    sizes = [checkpoint.stat().st_size, free["bytes"], found["bytes"]]
    return [name, data, int(train), *sizes, *drop, test["n"], minutes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=list(CASES), choices=list(CASES))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    rows = list(csv.reader(given.out.open())) if given.out.is_file() else [FIELDS]
    for name in given.only:
        for train in (False, True) if name != "LeNet-300-100" else (False,):
            if any(done[0] == name and done[2] == str(int(train)) for done in rows):
                continue
            rows.append(list(map(str, row(name, train, given.work))))
            print(*rows[-1], sep="\t", flush=True)
            with given.out.open("w", newline="") as stream:
                csv.writer(stream, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
