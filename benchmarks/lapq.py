"""LAPQ phase by phase: calibration loss and test accuracy of a CIFAR ResNet, beside min-max at the same bits.

"plain minmax" is min-max rounding without anything else; the other rows restore the mean of every output channel.

    TERSENET_DATA=FOLDER python benchmarks/lapq.py WEIGHTS [--model resnet20] [--task cifar10] [--out OUT.csv]

Calibration: 512 training images. Accuracy: the decoded file on the test split, in a process of its own.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tersenet.api import load_into
from tersenet.cli.factory import make_model, make_task
from tersenet.network.calibrate import calibration, mean_loss


def run(*arguments: object) -> dict:
    """A tersenet command in a fresh process; its JSON."""
    command = [sys.executable, "-m", "tersenet", *map(str, arguments), "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--task", default="cifar10", help="or benchmarks/exact_cifar10.py:make_task")
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 3, 4, 8])
    parser.add_argument("--searches", nargs="+", default=["plain minmax", "minmax", "l2", "lp", "powell"])
    parser.add_argument("--first-last", default="8", help="first and last layer: 8, keep or same")
    parser.add_argument(
        "--bn", default="keep", help="keep, or fold: into the weights before it, which then differ more"
    )
    parser.add_argument("--out", type=Path, default=Path("lapq.csv"))
    given = parser.parse_args()
    rows: list[list[object]] = [
        ["task", "bn", "bits", "first_last", "search", "calibration loss", "bytes", "accuracy", "drop", "low", "high"]
    ]
    with tempfile.TemporaryDirectory() as folder:
        for bits in given.bits:
            for search in given.searches:
                file = Path(folder) / f"{bits}{search.replace(' ', '-')}.terse"
                flags = ["--method", "lapq", "--bits", bits, "--act-bits", bits, "--search", search.split()[-1]]
                flags += [
                    "--first-last",
                    given.first_last,
                    "--bn",
                    given.bn,
                    *(["--no-restore"] if search == "plain minmax" else []),
                ]
                run("compress", given.weights, "-o", file, "--model", given.model, "--task", given.task, *flags)
                judged = run("eval", file, "--model", given.model, "--task", given.task, "--against", given.weights)
                drop = [round(judged["drop"][key], 4) for key in ("mean", "low", "high")]
                loss = calibration_loss(file, given.model, given.task)
                accuracy = round(judged["metric"]["mean"], 4)
                settings = [Path(given.task.partition(":")[0]).stem, given.bn, bits, given.first_last, search]
                rows.append([*settings, round(loss, 4), file.stat().st_size, accuracy, *drop])
                print(*rows[-1], sep="\t", flush=True)
                with given.out.open("w", newline="") as stream:
                    csv.writer(stream).writerows(rows)


def calibration_loss(file: Path, model: str, task_name: str) -> float:
    """The loss of the decoded file on the calibration images."""
    task, network = make_task(task_name, []), load_into(file, make_model(model, []))
    return mean_loss(network, calibration(task, 512))


if __name__ == "__main__":
    main()
