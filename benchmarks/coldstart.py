"""From a file to a module that is ready, in a fresh process: a `.terse` file beside safetensors.

    python benchmarks/coldstart.py WEIGHTS.safetensors --model resnet20

CPU seconds of the whole process (imports included) and of the load alone; one thread, interleaved, medians of 5.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROUNDS = 5
LOADS = {
    "tersenet": "import tersenet; tersenet.load_into({path!r}, net)",
    "safetensors": "from safetensors.torch import load_file; net.load_state_dict(load_file({path!r}), strict=False)",
}
SCRIPT = """
import json, time, torch
torch.set_num_threads(1)
from tersenet.lab.models import build
net = build({model!r})
started = time.process_time()
{load}
print(json.dumps([time.process_time(), time.process_time() - started]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--model", required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        terse = Path(folder) / "x.terse"
        command = [sys.executable, "-m", "tersenet", "compress", str(arguments.weights), "-o", str(terse)]
        subprocess.run([*command, "--target-bits", "4"], check=True)
        paths = {"tersenet": terse, "safetensors": arguments.weights}
        times: dict[str, list[list[float]]] = {name: [] for name in LOADS}
        for _ in range(ROUNDS):
            for name, load in LOADS.items():
                script = SCRIPT.format(model=arguments.model, load=load.format(path=str(paths[name])))
                done = subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True)
                times[name].append(json.loads(done.stdout))
        for name, rounds in times.items():
            total, load_only = (statistics.median(column) for column in zip(*rounds, strict=True))
            print(f"{name}\t{paths[name].stat().st_size} bytes\tprocess {total:.3f} s\tload {load_only:.4f} s")


if __name__ == "__main__":
    main()
