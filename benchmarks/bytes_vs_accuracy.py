"""Bytes on disk against accuracy and agreement of a CIFAR ResNet, beside what other tools were measured to need.

    TERSENET_DATA=FOLDER python benchmarks/bytes_vs_accuracy.py WEIGHTS.safetensors --model resnet20 --out OUT

Every point is compressed by `tersenet compress` and judged by `tersenet eval` in processes of their own, from the file
on disk. `--split test` is the published measurement; choose settings on the default, `validation`. Writes OUT.csv and
OUT.png.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
MODES = {
    "vlcq, network's code, pair": ["--bn", "scale-shift"],
    "vlcq, bare checkpoint": [],
    "vlcq, bare checkpoint, pair": ["--bn", "scale-shift"],
    "rtn per channel": ["--method", "rtn"],
}


def run(*arguments: str) -> dict:
    """A tersenet command in a fresh process; its JSON."""
    done = subprocess.run([sys.executable, "-m", "tersenet", *arguments, "--json"], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"tersenet {' '.join(arguments)} failed: {done.stdout}")
    return json.loads(done.stdout)


def measure(mode: str, size: int, weights: Path, model: str, split: str, folder: Path) -> dict:
    """One point: compress to at most `size` bytes (rtn: `size` bits), then judge the file."""
    file, flags = folder / "point.terse", MODES[mode]
    budget = ["--bits", str(size)] if "rtn" in mode else ["--max-bytes", str(size)]
    network = ["--model", model] if "code" in mode else []
    started = time.perf_counter()
    made = run("compress", str(weights), "-o", str(file), "--overwrite", *flags, *budget, *network)
    seconds = time.perf_counter() - started
    task = ["--task", "cifar10", "--split", split]
    judged = run("eval", str(file), "--model", model, *task, "--against", str(weights))
    row = {"tool": f"tersenet {mode}", "bytes": made["bytes"], "accuracy": round(judged["metric"]["mean"], 4)}
    row |= {
        "agreement": round(judged["agreement"]["mean"], 4),
        "images": judged["agreement"]["n"],
        "seconds": round(seconds, 1),
    }
    print(*row.values(), sep="\t", flush=True)
    return row


def draw(rows: list[dict], peers: list[dict], title: str, path: Path) -> None:
    """Agreement over bytes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4.5))
    for tool in dict.fromkeys(row["tool"] for row in rows + peers):
        points = sorted((float(r["bytes"]), float(r["agreement"])) for r in rows + peers if r["tool"] == tool)
        style = "o-" if tool.startswith("tersenet") else "x--"
        axes.plot(*zip(*points, strict=True), style, label=tool, markersize=4, linewidth=1)
    axes.set(
        xscale="log",
        xlabel="bytes of the file on disk",
        ylabel="agreement with fp32 (top-1)",
        title=title,
        ylim=(0.6, 1.0),
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--bytes", type=int, nargs="+", default=[54_000, 66_000, 80_000, 100_000, 120_000])
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    arguments = parser.parse_args()
    if "TERSENET_DATA" not in os.environ:
        sys.exit("set TERSENET_DATA to the folder with cifar10_jpeg.npz")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for mode in arguments.modes:
            for size in [3, 4, 5, 6] if "rtn" in mode else arguments.bytes:
                rows.append(measure(mode, size, arguments.weights, arguments.model, arguments.split, Path(folder)))
    with arguments.out.with_suffix(".csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with (HERE / "results" / "peers.csv").open() as stream:
        peers = [row for row in csv.DictReader(stream) if row["network"] == arguments.model]
    title = f"{arguments.model}, {rows[0]['images']:,} {arguments.split} images (CIFAR-10, JPEG)"
    draw(rows, peers, title, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
