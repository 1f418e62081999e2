"""Quantization-aware training of ResNet-20 on CIFAR-10: 4, 3, 2 bits for weights and inputs, each from the one before.

    TERSENET_DATA=FOLDER python benchmarks/qat_resnet20.py WEIGHTS.safetensors --work FOLDER --out OUT.csv

First the network is fine-tuned in full precision with the same budget; drops are against that, on the test split,
from the decoded file, in a process of its own. Every training resumes where it was stopped. A row is written when it is
done.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

FIELDS = ["method", "bits", "seed", "epochs", "bytes", "accuracy", "drop", "low", "high", "images"]


def run(*arguments: object) -> dict:
    """A tersenet command in a fresh process; its JSON."""
    command = [sys.executable, "-m", "tersenet", *map(str, arguments), "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def trained(source: Path, name: str, work: Path, *flags: object) -> Path:
    """The file of a training in `work`, made or finished if it is not there."""
    file, folder = work / f"{name}.terse", work / name
    if not file.is_file():
        begin = "--resume" if (folder / "run.json").is_file() else "--run"
        run("compress", source, "-o", file, "--model", "resnet20", "--task", "cifar10", begin, folder, *flags)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--methods", nargs="+", default=["apot", "lsq"])
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3, 2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--distill", type=float, default=0.0)
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    common = ["--epochs", given.epochs, "--lr", given.lr]
    fp32 = trained(given.weights, "fp32", given.work, "--method", "lsq", "--bits", 32, "--kept-dtype", "exact", *common)
    plain = given.work / "fp32.safetensors"
    if not plain.is_file():
        run("decompress", fp32, "-o", plain)
    rows = []
    for method in given.methods:
        for seed in given.seeds:
            start = given.work / "fp32"
            for bits in given.bits:
                name = f"{method}{bits}-seed{seed}"
                flags = ["--method", method, "--bits", bits, "--act-bits", bits, "--granularity", "channel"]
                flags += ["--seed", seed, "--distill", given.distill, "--from", start, *common]
                flags += ["--compile"] if given.compile else []
                file = trained(plain, name, given.work, *flags)
                start = given.work / name
                judged = run("eval", file, "--model", "resnet20", "--task", "cifar10", "--against", plain)
                drop = judged["drop"]
                size, mean = file.stat().st_size, judged["metric"]["mean"]
                ends = [round(drop[key], 4) for key in ("mean", "low", "high")]
                rows.append([method, bits, seed, given.epochs, size, round(mean, 4), *ends, drop["n"]])
                print(*rows[-1], sep="\t", flush=True)
                with given.out.open("w", newline="") as stream:
                    csv.writer(stream).writerows([FIELDS, *rows])


if __name__ == "__main__":
    main()
