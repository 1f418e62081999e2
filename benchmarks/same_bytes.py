"""Whether tersenet still writes the same bytes: every method in its modes, hashed, against an earlier run.

    OMP_NUM_THREADS=1 python benchmarks/same_bytes.py --write before.json
    OMP_NUM_THREADS=1 python benchmarks/same_bytes.py --against before.json

Prints `name sha256 bytes` of every file; with `--against`, lists what differs and leaves with exit code 1 if anything
does. The network is a DigitsNet trained for two epochs here (seeded, one thread), so hashes are comparable on one
machine with one set of versions; with TERSENET_DATA set, a ResNet-20 is compressed as well.
"""

import argparse
import copy
import hashlib
import io
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

import tersenet
from tersenet.cli import main as command_line
from tersenet.core.task import Task
from tersenet.lab import digits
from tersenet.lab.models import build

CODE = ["--model", "digits"]
DATA = [*CODE, "--task", "digits"]
RTN = ["--method", "rtn"]
SHORT = ["--epochs", "1", "--act-bits", "4"]
GRADIENTS = ["--method", "accgrad", *DATA, "--epochs", "3", "--warmup", "1"]

# What is compressed (a checkpoint of `checkpoints`), and with which options.
COMPRESS: dict[str, tuple[str, list[str]]] = {
    "rtn tensor": ("net", [*RTN, "--granularity", "tensor", "--bits", "8"]),
    "rtn channel": ("net", [*RTN, "--bits", "4"]),
    "rtn channel affine": ("net", [*RTN, "--bits", "4", "--affine"]),
    "rtn tensor affine": ("net", [*RTN, "--granularity", "tensor", "--affine", "--bits", "5"]),
    "rtn group": ("net", [*RTN, "--granularity", "group", "--group-size", "64", "--bits", "3"]),
    "rtn group affine": ("net", [*RTN, "--granularity", "group", "--group-size", "64", "--affine"]),
    "rtn 1 bit": ("net", [*RTN, "--bits", "1"]),
    "rtn pair": ("net", [*RTN, "--bits", "6", "--bn", "pair"]),
    "rtn fold": ("net", [*RTN, *CODE, "--bits", "4", "--bn", "fold"]),
    "rtn equalise": ("net", [*RTN, *CODE, "--bits", "4", "--bn", "fold", "--equalise", "--granularity", "tensor"]),
    "rtn globs, exact sides": ("net", [*RTN, "--include", "conv*", "--exclude", "conv2*", "--side", "exact"]),
    "rtn layer bits": ("net", [*RTN, "--layer-bits", "{bits}"]),
    "rtn .pt": ("pt", RTN),
    "rtn folder": ("folder", RTN),
    "rtn best effort": ("net", [*RTN, "--bits", "5", "--effort", "best"]),
    "rtn max bytes": ("net", [*RTN, *DATA, "--max-bytes", "30000"]),
    "vlcq bare": ("net", ["--target-bits", "3"]),
    "vlcq nominal": ("net", ["--nominal-bits", "2.5"]),
    "vlcq bare pair": ("net", ["--bn", "pair"]),
    "vlcq layer bits": ("net", ["--target-bits", "4", "--layer-bits", "{bits}"]),
    "vlcq folder": ("folder", ["--target-bits", "4"]),
    "vlcq .pt": ("pt", ["--target-bits", "4"]),
    "vlcq model": ("net", [*CODE, "--target-bits", "2.5", "--images", "32"]),
    "vlcq model pair": ("net", [*CODE, "--target-bits", "2", "--images", "32", "--bn", "pair"]),
    "vlcq model fold": ("net", [*CODE, "--target-bits", "3", "--images", "32", "--bn", "fold"]),
    "vlcq calibrate": ("net", [*DATA, "--target-bits", "2", "--calibrate", "--images", "64", "--bn", "pair"]),
    "vlcq max bytes": ("net", [*DATA, "--max-bytes", "20000"]),
    "lapq l2": ("net", ["--method", "lapq", *DATA, "--search", "l2", "--bits", "4"]),
    "lapq powell": (
        "net",
        ["--method", "lapq", *DATA, "--bits", "3", "--act-bits", "4", "--evaluations", "40", "--samples", "64"],
    ),
    "lapq fold": (
        "net",
        ["--method", "lapq", *DATA, "--search", "lp", "--bn", "fold", "--equalise", "--samples", "64"],
    ),
    "lapq no zero level": ("net", ["--method", "lapq", *DATA, "--search", "l2", "--no-zero-level", "--bn", "pair"]),
    "lsq": ("net", ["--method", "lsq", *DATA, *SHORT, "--bits", "3"]),
    "lsq stages": ("net", ["--method", "lsq", *DATA, "--epochs", "1", "--bits", "2", "--stages", "4", "--bn", "pair"]),
    "lsq distill, freeze": ("net", ["--method", "lsq", *DATA, *SHORT, "--distill", "0.5", "--remedy", "freeze"]),
    "pot": ("net", ["--method", "pot", *DATA, *SHORT, "--bits", "3", "--granularity", "channel"]),
    "apot": ("net", ["--method", "apot", *DATA, *SHORT, "--ends", "same", "--estimator", "qea"]),
    "imprint": ("net", ["--method", "imprint", *DATA, *SHORT, "--average-bits", "5"]),
    "imprint optimum": (
        "net",
        ["--method", "imprint", *DATA, "--epochs", "0", "--score", "fisher", "--allocation", "optimum"],
    ),
    "accgrad post": ("net", [*GRADIENTS, "--mode", "post"]),
    "accgrad in": ("net", [*GRADIENTS, "--mode", "in", "--share", "0.6", "--low-bits", "2"]),
    "accgrad combined": ("net", [*GRADIENTS, "--bits", "4", "--bits", "6", "--share", "0.6", "--refine", "1"]),
    "accgrad ratio": ("net", [*GRADIENTS, "--target-ratio", "12", "--signal", "grad-magnitude", "--bn", "pair"]),
    "auto max bytes": ("net", []),  # see `run`
}


def checkpoints(network: nn.Module, folder: Path) -> dict[str, Path]:
    """The network as a safetensors file, a `.pt`, and a folder of two shards with attachments."""
    state = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    places = {"net": folder / "net.safetensors", "pt": folder / "net.pt", "folder": folder / "hf"}
    save_file(state, places["net"], {"format": "pt"})
    torch.save(network.state_dict(), places["pt"])
    places["folder"].mkdir()
    names, shards = list(state), {}
    for number, part in enumerate((names[:8], names[8:]), 1):
        shard = f"model-{number:05d}-of-00002.safetensors"
        shards |= dict.fromkeys(part, shard)
        save_file({name: state[name] for name in part}, places["folder"] / shard, {"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": shards}
    (places["folder"] / "model.safetensors.index.json").write_text(json.dumps(index))
    (places["folder"] / "config.json").write_text('{"model_type": "digits"}')
    (places["folder"] / "vocab.txt").write_text("zero\none\n")
    return places


def run(*arguments: str | Path) -> None:
    """A tersenet command in this process, silently. **Raises** `RuntimeError` with what it said if it fails."""
    said = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(said):
        try:
            command_line([str(argument) for argument in arguments])
        except SystemExit as stop:
            if stop.code:
                raise RuntimeError(f"tersenet {' '.join(map(str, arguments))}: {said.getvalue()}") from None


def attached(network: nn.Module, task: Task, place: Path) -> None:
    """A training loop of one's own: attach, anneal, penalty, freeze."""
    module = copy.deepcopy(network).train()
    batches = list(task.split("train"))
    tersenet.attach(module, "lsq", [inputs for inputs, _ in batches[:2]], bits=3, act_bits=4, remedy="dampen")
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    for done, (inputs, targets) in enumerate(batches):
        tersenet.anneal(module, done / len(batches), 0.01)
        loss = task.loss(module(inputs), targets) + tersenet.penalty(module)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tersenet.save(tersenet.freeze(module.eval()), place)


def in_python(network: nn.Module, task: Task, method: str, fields: dict[str, object], place: Path) -> None:
    """`compress` of a live module, and `save`."""
    given = {"task": task} if fields.pop("task", False) else {}
    tersenet.save(tersenet.compress(copy.deepcopy(network), method, **given, **fields), place)  # type: ignore[arg-type]


def jobs(network: nn.Module, task: Task, folder: Path) -> Iterator[tuple[str, Path, Callable[[], None]]]:
    """Name, output and what writes it."""
    places = checkpoints(network, folder)
    bits = folder / "bits.json"
    bits.write_text(json.dumps({"conv2.weight": 6, "conv*": 3}))
    for number, (name, (source, options)) in enumerate(COMPRESS.items()):
        place = folder / f"{number}.terse"
        filled = [option.format(bits=bits) for option in options]
        head = ("compress", places[source], "-o", place, *filled)
        if name.startswith("auto"):
            head = ("auto", places[source], "-o", place, *DATA, "--max-bytes", "12000")
        yield name, place, partial(run, *head)
    loop, live = folder / "loop.terse", folder / "live.terse"
    yield "python attach and freeze", loop, partial(attached, network, task, loop)
    yield "python rtn of a module", live, partial(in_python, network, task, "rtn", {"bits": 4}, live)
    tuned, fields = folder / "tuned.terse", {"task": True, "calibrate": True, "target_bits": 3, "images": 64}
    yield "python vlcq of a module", tuned, partial(in_python, network, task, "vlcq", fields, tuned)
    for name, source, back in (("values", 1, "back.safetensors"), ("values .pt file", 12, "pt.safetensors")):
        output = folder / back
        yield f"decompress {name}", output, partial(run, "decompress", folder / f"{source}.terse", "-o", output)
    hf = folder / "back" / "model-00002-of-00002.safetensors"
    yield "decompress folder", hf, partial(run, "decompress", folder / "13.terse", "-o", folder / "back")
    if "TERSENET_DATA" in os.environ:
        real = Path(os.environ["TERSENET_DATA"]) / "weights" / "resnet20.safetensors"
        for number, options in enumerate(
            ([], [*RTN, "--granularity", "group"], ["--bn", "pair", "--target-bits", "2"])
        ):
            place = folder / f"real{number}.terse"
            name = " ".join(["resnet20", *options])
            yield name, place, partial(run, "compress", real, "-o", place, *options)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="save the hashes here")
    parser.add_argument("--against", type=Path, help="compare with the hashes saved here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    task = digits.make_task()
    torch.manual_seed(0)
    network = digits.train(build("digits"), task, epochs=2)
    found: dict[str, list[str | int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, place, write in jobs(network, task, Path(folder)):
            write()
            found[name] = [hashlib.sha256(place.read_bytes()).hexdigest(), place.stat().st_size]
            print(name, *found[name], sep="\t", flush=True)
    if arguments.write:
        arguments.write.write_text(json.dumps(found, indent=1))
    if not arguments.against:
        return 0
    before = json.loads(arguments.against.read_text())
    shared = [name for name in found if name in before]
    changed = [name for name in shared if found[name] != before[name]]
    for name in changed:
        print(f"differs: {name}, {before[name][1]} bytes before, {found[name][1]} now")
    print(f"{len(shared) - len(changed)} of {len(shared)} files are the same")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
