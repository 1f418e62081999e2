"""How long `from_pretrained` takes on a compressed Hugging Face folder, and how much memory, beside the original
and fp16.

    python benchmarks/loading.py FOLDER [--method rtn] [--rounds 3]

Every load is a process of its own, which has imported everything before it is timed; the best of the rounds counts.
Memory is the process's peak (resident set, counted anew from before the load) above what it had before; Linux only. A
safetensors file is mapped, so that its tensors are resident once they are used, which is why all of them are read.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

LOAD = """
import json, sys, time
import tersenet, torch, transformers
folder, kind, dtype = sys.argv[1:]
build = getattr(transformers, kind)
def resident(what):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024
transformers.utils.logging.disable_progress_bar()
with open("/proc/self/clear_refs", "w") as stream:
    stream.write("5")
before, began = resident("VmRSS"), time.perf_counter()
net = build.from_pretrained(folder, dtype=dtype)
seconds = time.perf_counter() - began
total = sum(p.sum().double().item() for p in net.parameters())  # every page is read
tensors = sum(p.numel() * p.element_size() for p in net.parameters())
print(json.dumps({"seconds": seconds, "memory": resident("VmHWM") - before, "tensors": tensors, "total": total}))
"""


def loaded(folder: Path, kind: str, dtype: str, rounds: int) -> dict[str, float]:
    """The best of some loads."""
    command = [sys.executable, "-c", LOAD, str(folder), kind, dtype]
    runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(rounds)]
    return min(runs, key=lambda run: run["seconds"]) | {"memory": min(run["memory"] for run in runs)}


def size(folder: Path) -> int:
    """The bytes of the files with weights."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def main() -> None:
    """Compress, save as fp16, load each, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--method", default="rtn")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    config = json.loads((given.folder / "config.json").read_text("utf-8"))
    kind = (config.get("architectures") or ["AutoModel"])[0]
    import torch
    import transformers

    with tempfile.TemporaryDirectory() as work:
        small, half = Path(work, "small"), Path(work, "half")
        command = [sys.executable, "-m", "tersenet", "compress", str(given.folder), "-o", f"{small}/"]
        subprocess.run([*command, "--method", given.method], check=True, stdout=subprocess.DEVNULL)
        getattr(transformers, kind).from_pretrained(given.folder, dtype=torch.float16).save_pretrained(half)
        print("| folder | bytes | dtype | seconds | peak memory, MB | tensors, MB |\n|---|---|---|---|---|---|")
        for name, folder, dtype in (
            ("original", given.folder, "auto"),
            ("fp16", half, "float16"),
            (f"compressed ({given.method})", small, "auto"),
            (f"compressed ({given.method})", small, "float16"),
        ):
            run = loaded(folder, kind, dtype, given.rounds)
            figures = f"{run['seconds']:.2f} | {run['memory'] / 1e6:.0f} | {run['tensors'] / 1e6:.0f}"
            print(f"| {name} | {size(folder):,} | {dtype} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
