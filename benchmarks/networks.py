"""Networks of other kinds than CIFAR's: a sentence encoder, a language model, a pitch CNN, an LSTM speaker encoder.

Each is compressed to a number of bytes by the command, in a process of its own whose minutes and memory are counted,
and its file is judged here. Networks and judges are `nets.py` in the folder of `TERSENET_DATA`; rows that are in the
table already are not made again.

    python benchmarks/networks.py --work FOLDER [--only minilm]
"""

import argparse
import csv
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import tersenet

sys.path.insert(0, os.environ.get("TERSENET_DATA", "data"))
import nets

TABLE = Path(__file__).parent / "results" / "networks.csv"
FIELDS = ("network", "tool", "most", "bytes", "judged", "minutes", "peak_mb")
SIZES = {
    "voice": (700_000, 560_000),
    "minilm": (11_400_000, 8_600_000, 5_700_000),
    "smollm2": (67_000_000, 50_300_000),
    "crepe": (246_000, 185_000),
}
Judge = Callable[[dict[str, torch.Tensor]], dict[str, float]]


def voice() -> tuple[Path, Judge]:
    """Cosine of the embeddings of voices that nothing was chosen on."""
    net, original = nets.voice_module(), nets.voice_module()
    state = torch.load(nets.voice(), map_location="cpu", weights_only=False)["model_state"]
    names = list(original.state_dict())
    original.load_state_dict({name: state[name] for name in names})

    def judge(found: dict[str, torch.Tensor]) -> dict[str, float]:
        net.load_state_dict({name: found[name] for name in names})
        return {"cosine": nets.voice_closeness(net, original)}

    return nets.voice(), judge


def crepe() -> tuple[Path, Judge]:
    """Relative squared error of the outputs on voices that nothing was chosen on."""
    net, original = nets.crepe_module(), nets.crepe_module()
    original.load_state_dict(torch.load(nets.crepe(), map_location="cpu"))

    def judge(found: dict[str, torch.Tensor]) -> dict[str, float]:
        net.load_state_dict(found)
        return {"error": nets.crepe_error(net, original)}

    return nets.crepe(), judge


def minilm() -> tuple[Path, Judge]:
    """Cosine and nearest neighbours of 500 sentences."""
    from transformers import AutoModel

    folder = nets.minilm()
    net = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    theirs = nets.embeddings(net, folder)

    def judge(found: dict[str, torch.Tensor]) -> dict[str, float]:
        _load(net, found)
        return nets.closeness(nets.embeddings(net, folder), theirs)

    return folder / "model.safetensors", judge


def smollm2() -> tuple[Path, Judge]:
    """Divergence, perplexity and top token of 12 windows."""
    from transformers import AutoModelForCausalLM

    folder = nets.smollm2()
    net = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    reference = nets.language(net, folder)[1]

    def judge(found: dict[str, torch.Tensor]) -> dict[str, float]:
        _load(net, found)
        return {
            key: value for key, value in nets.language(net, folder, reference=reference)[0].items() if key != "tokens"
        }

    return folder / "model.safetensors", judge


def _load(net: torch.nn.Module, found: dict[str, torch.Tensor]) -> None:
    """Load what the network has of `found`; only tied tensors may be missing."""
    missing = net.load_state_dict(found, strict=False).missing_keys
    tied = {"lm_head.weight"} if getattr(net.config, "tie_word_embeddings", False) else set()
    if not set(missing) <= tied:
        raise SystemExit(f"the file lacks {missing}")


def made(checkpoint: Path, most: int, file: Path) -> tuple[float, float]:
    """Compress to `file`: minutes of the clock, and peak memory in MB."""
    command = [sys.executable, "-m", "tersenet", "compress", checkpoint, "-o", file, "--max-bytes", most, "--overwrite"]
    start = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(map(str, command))} failed")
    return (time.perf_counter() - start) / 60, usage.ru_maxrss / 1024


def main() -> None:
    """Make the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the files")
    parser.add_argument("--only", default="", help="network")
    parser.add_argument("--table", type=Path, default=TABLE, help="CSV that rows are appended to")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    if given.table.exists():
        with given.table.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
    done = {(row["network"], row["most"]) for row in rows if row["tool"] == "vlcq"}
    for network, sizes in SIZES.items():
        missing = [most for most in sizes if (network, str(most)) not in done and given.only in ("", network)]
        checkpoint, judge = (
            {"voice": voice, "crepe": crepe, "minilm": minilm, "smollm2": smollm2}[network]()
            if missing
            else (Path(), None)
        )
        for most in missing:
            file = given.work / f"{network}_{most}.terse"
            minutes, peak = made(checkpoint, most, file)
            assert judge is not None
            judged = "; ".join(f"{key} {value:.4g}" for key, value in judge(tersenet.load(file).state_dict()).items())
            rows.append(
                dict(
                    zip(
                        FIELDS,
                        (network, "vlcq", most, file.stat().st_size, judged, f"{minutes:.1f}", f"{peak:.0f}"),
                        strict=True,
                    )
                )
            )
            print(*rows[-1].values(), flush=True)
            with given.table.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)


if __name__ == "__main__":
    main()
