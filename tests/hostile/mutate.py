"""Random edits of valid files, every hash made right again: the structure-aware half of fuzzing.

    python tests/hostile/mutate.py SECONDS [SEED]

runs for a while and prints what `judge` finds, with the seeds.
"""

import copy
import json
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "hostile")]

from attacks import ATTACKS  # noqa: E402
from forge import assemble, take_apart  # noqa: E402

from tersenet.core.model import CompressedModel, QTensor  # noqa: E402
from tersenet.errors import FormatError, OutputError, SizeLimitError  # noqa: E402
from tersenet.files.checkpoint_write import write_checkpoint  # noqa: E402
from tersenet.files.layout import parse_index  # noqa: E402
from tersenet.files.summary import summarize, verify  # noqa: E402
from tersenet.files.terse import load  # noqa: E402
from tersenet.report.size import storage  # noqa: E402
from tersenet.verifier import read  # noqa: E402
from tersenet.verifier.grids import DTYPES, ORDER, TYPES  # noqa: E402
from tersenet.verifier.index import MEMBERS  # noqa: E402

NUMBERS = (0, 1, -1, 2, 3, 7, 31, 32, 33, 127, 128, 255, 256, 65536, 1 << 20, 1 << 31, (1 << 31) - 1, 1 << 48, 1 << 63)
OTHERS = (None, True, 0.5, -0.0, 1e300, "", "a", "\ud800", "\x1b[2J", [], {}, [0], [[]], {"a": []})
WORDS = [
    *DTYPES,
    *ORDER,
    *MEMBERS,
    *TYPES,
    "axis",
    "group_size",
    "exponent",
    "activations",
    "data",
    "integers",
    "points",
]
WORDS += ["bases", "counts", "coordinates", "mantissa", "stride", "shards", "metadata", "accgrad", "nonzeros", "pair"]


def mutant(seeds: list[bytes], rng: random.Random) -> bytes:
    """One of the files with a few edits of its index and perhaps of its sections."""
    index, sections = take_apart(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        where = rng.random()
        if where < 0.75 or not sections:
            index = edited(index, rng)
        elif where < 0.85 and len(sections) > (number := critical(index)):
            sections[number] = zstd(edited(unzstd(sections[number]), rng))
        else:
            number = rng.randrange(len(sections))
            sections[number] = flipped(sections[number], rng)
    if rng.random() < 0.8:
        fit(index, sections)
    return assemble(index, sections)


def critical(index: Any) -> int:
    """Which section holds activations, if the index still says so; else a number that none has."""
    found = index.get("sections") if isinstance(index, dict) else None
    every = enumerate(found if isinstance(found, list) else [])
    return next((i for i, each in every if isinstance(each, list) and each[1:] == ["activations", True]), 1 << 30)


def edited(value: Any, rng: random.Random) -> Any:
    """JSON with one node replaced, dropped, doubled, renamed or swapped."""
    whole = [copy.deepcopy(value)]
    holder, key = whole, 0
    while isinstance(inner := holder[key], list | dict) and inner and rng.random() < 0.9:
        holder, key = inner, rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
    old, action = holder[key], rng.random()
    if action < 0.15 and holder is not whole:
        del holder[key]
    elif action < 0.25 and isinstance(holder, list) and holder is not whole:
        holder.insert(key, copy.deepcopy(old))
    elif action < 0.3 and isinstance(holder, dict):
        holder[rng.choice(WORDS)] = holder.pop(key)
    elif action < 0.35 and isinstance(old, list):
        rng.shuffle(old)
    else:
        holder[key] = replacement(old, rng)
    return whole[0]


def replacement(old: Any, rng: random.Random) -> Any:
    """Something like `old`, or anything."""
    if type(old) is int and rng.random() < 0.5:
        return old + rng.choice((-1, 1, 2, old))
    if isinstance(old, list) and rng.random() < 0.5:
        return [rng.choice(NUMBERS[:12]) for _ in range(rng.randrange(4))]
    if isinstance(old, str) and rng.random() < 0.6:
        return rng.choice(WORDS)
    return rng.choice(NUMBERS + OTHERS)


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Bytes with a few changed."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 10))):
        changed[rng.randrange(len(changed))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    return bytes(changed)


def fit(index: Any, sections: list[bytes]) -> None:
    """Write the sections' true sizes into the index, where it still has a list of them."""
    listed = index.get("sections") if isinstance(index, dict) else None
    if isinstance(listed, list):
        for i, section in enumerate(sections[: len(listed)]):
            if isinstance(listed[i], list) and listed[i]:
                listed[i][0] = len(section)
            elif type(listed[i]) is int:
                listed[i] = len(section)


def zstd(value: Any) -> bytes:
    return zstandard.ZstdCompressor().compress(json.dumps(value).encode())


def unzstd(data: bytes) -> Any:
    try:
        return json.loads(zstandard.ZstdDecompressor().decompress(data))
    except (zstandard.ZstdError, ValueError):  # an earlier edit
        return {}


def judge(path: Path) -> list[str]:
    """What is wrong with how the file at `path` is read: untyped errors, and readers that disagree."""
    faults, ends = [], {}
    for name, work in {
        "summarize": summarize,
        "storage": storage,
        "verify": verify,
        "load": decoded,
        "write": write,
    }.items():
        try:
            ends[name] = work(path)
        except FormatError as error:
            ends[name] = error
            if str(path) not in str(error):
                faults.append(f"{name}: no file in {error}")
        except OutputError as error:
            ends[name] = error
            if name != "write":
                faults.append(f"{name}: {error!r}")
        except Exception as error:
            faults.append(f"{name}: {type(error).__name__}: {error}")
    ours, whole = ends.get("load"), ends.get("verify")
    if isinstance(ours, Exception) != isinstance(whole, Exception):
        faults.append(f"verify: {whole!r:.200}, load: {ours!r:.200}")
    if isinstance(ours, SizeLimitError):
        return faults
    try:
        theirs: Any = {name: value for name, value in read(str(path)).items() if not name.startswith("input of ")}
    except Exception as error:
        theirs = error
    if isinstance(theirs, Exception) != isinstance(ours, Exception):
        faults.append(f"ours: {ours!r:.300}, theirs: {theirs!r:.300}")
    elif isinstance(ours, dict) and {k: v.tobytes() for k, v in theirs.items()} != ours:
        faults.append("other values")
    return faults


def decoded(path: Path) -> dict[str, bytes]:
    """The bytes of all tensors (quantised ones in fp32) and attachments, and that all of it becomes a state dict."""
    model = load(path)
    found = {name: as_bytes(model, name) for name in model.tensors}
    model.state_dict()
    found |= {alias: found[name] for alias, name in model.aliases.items()}
    return found | {"file:" + name: content for name, content in model.attachments.items()}


def as_bytes(model: CompressedModel, name: str) -> bytes:
    entry = model.tensors[name]
    value = entry.grid.decode(entry.codes) if isinstance(entry, QTensor) else entry.tensor
    return bytes(np.asarray(value.contiguous().reshape(-1).view(torch.uint8)).tobytes())


def write(path: Path) -> None:
    """Decompress into a folder that goes away."""
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(load(path), Path(folder) / "out")
        if [each.name for each in Path(folder).iterdir()] != ["out"]:
            raise AssertionError("a file outside")


def seeds() -> list[bytes]:
    """Valid files of every kind: every coder, grid and way to keep a tensor, together and alone, and a few attacks."""
    golden = (TESTS / "data" / "golden.terse").read_bytes()
    index, sections = take_apart(golden)
    files = [golden]
    for number, entry in enumerate(index["tensors"]):  # each tensor alone, so that edits hit it
        files.append(alone(index, sections, number, entry))
    files += [
        ATTACKS[name]()
        for name in ("group_1d", "att_hidden", "layout_omits_tensor", "recorded_negative", "axis_dim_zero")
    ]
    return files


def alone(index: Any, sections: list[bytes], number: int, entry: list[Any]) -> bytes:
    """The golden file with only one of its tensors."""

    sizes = [record.size for record in parse_index({"sections": [], "tensors": index["tensors"]}).records.values()]
    data = b"".join(part for part, kind in zip(sections, index["sections"], strict=True) if isinstance(kind, int))
    start = sum(sizes[:number])
    part = data[start : start + sizes[number]]
    return assemble({"sections": [len(part)] if part else [], "tensors": [entry]}, [part] if part else [])


def main() -> None:
    """Run until the time is over."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    stop, seed, files = time.monotonic() + float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0, seeds()
    found, done = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.terse"
        while time.monotonic() < stop:
            path.write_bytes(mutant(files, random.Random(seed + done)))
            for fault in judge(path):
                print(f"seed {seed + done}: {fault}".replace(str(path), "FILE")[:400], flush=True)
                found += 1
            done += 1
    print(f"{done} files, {found} faults")


if __name__ == "__main__":
    main()
