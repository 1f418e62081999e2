"""Coverage-guided fuzzing of all that reads files: `make fuzz`, or one target with libFuzzer's options:

    python tests/fuzz/fuzz.py reader|codec|checkpoint [-max_total_time=SECONDS] [CORPUS or INPUT ...]

A finding is an exception that is not tersenet's, native and reference decoders that differ, `verify` and `load` that
differ, a file outside the folder written to, a second too many (`-timeout`), or memory (`-rss_limit_mb`).
"""

import contextlib
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import atheris
import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
with atheris.instrument_imports(include=["tersenet"]):
    import changes
    import seeds
    from streams import from_bytes

    from tersenet import codec
    from tersenet.codec import CodecError, native
    from tersenet.codec.stream import Stream
    from tersenet.core.model import QTensor
    from tersenet.errors import TersenetError
    from tersenet.files.checkpoint import open_checkpoint
    from tersenet.files.checkpoint_write import write_checkpoint
    from tersenet.files.summary import summarize, verify
    from tersenet.files.terse import load
    from tersenet.report.size import storage

LIMITS = ["-rss_limit_mb=2000", "-timeout=30", "-max_len=65536", "-print_final_stats=1"]
SLOW = 20_000  # integers from which on the reference decoder is not asked
MOST = 1 << 22  # integers in a stream
CHECKPOINTS = ("x.safetensors", "x.pt", "model.safetensors.index.json", "pytorch_model.bin.index.json")
Outcome = bytes | None


def read(data: bytes, folder: Path) -> None:
    """All that the commands do with a file."""
    path = folder / "in" / "x.terse"
    path.write_bytes(data)
    with contextlib.suppress(TersenetError):
        summarize(path)
    with contextlib.suppress(TersenetError):
        storage(path)
    verified = True
    try:
        verify(path)
    except TersenetError:
        verified = False
    try:
        model = load(path)
        for entry in model.tensors.values():
            if isinstance(entry, QTensor):
                entry.dequantize()
    except TersenetError as error:
        if verified:
            raise AssertionError(f"verify finds nothing wrong, but it cannot be loaded: {error}") from error
        return
    if not verified:
        raise AssertionError("it can be loaded, but verify refuses it")
    for name in ("x.safetensors", "x.pt", "x"):
        with contextlib.suppress(TersenetError):
            write_checkpoint(model, folder / "out" / name)
    found = {each.name for each in folder.iterdir()} | {each.name for each in (folder / "out").iterdir()}
    if found - {"in", "out", "x.safetensors", "x.pt", "x"}:
        raise AssertionError(f"files beside the target: {found}")


def decode(data: bytes, folder: Path) -> None:
    """Every path of the decoder gives the same integers, or the same refusal."""
    found = from_bytes(data)
    if found is None or found[0].count > MOST or found[1][0] < 0:
        return
    stream, shape, kind = found
    paths = ["reference"] if stream.count <= SLOW else []
    if native.native() is not None:
        paths += ["avx512", "avx2", "scalar"][["avx512", "avx2", "scalar"].index(native.native().best_isa()) :]
    whole = [on(path, lambda: codec.decode(stream, shape, kind)) for path in paths]
    if len(set(whole)) > 1:
        raise AssertionError(f"decoders differ: {dict(zip(paths, whole, strict=True))}")
    values = [on(path, lambda: to_values(stream)) for path in paths]
    if len(set(values)) > 1:
        raise AssertionError(f"decoders to fp32 differ: {dict(zip(paths, values, strict=True))}")


def to_values(stream: Stream) -> np.ndarray:
    scale, zero = np.array([0.5, 3, 0.1], np.float32), np.array([0, 2**31 - 1, -5], np.int32)
    return codec.decode_uniform(stream, scale, zero, np.array([0, 1, 2], np.float32), 5)


def on(path: str, work: Callable[[], np.ndarray]) -> Outcome:
    """What `work` gives with this instruction set; None if it is refused."""
    os.environ["TERSENET_ISA"] = path
    native.native.cache_clear()
    try:
        return work().tobytes()
    except CodecError:
        return None
    finally:
        del os.environ["TERSENET_ISA"]
        native.native.cache_clear()


def open_(data: bytes, folder: Path) -> None:
    """A checkpoint is read to its last tensor, or refused."""
    kind, content = CHECKPOINTS[data[0] % len(CHECKPOINTS)], data[1:]
    path = folder / "in" / kind
    path.write_bytes(content)
    whole = folder / "in" if kind.endswith(".json") else path
    if whole != path:
        (folder / "in" / "model.safetensors").write_bytes(seeds.checkpoints()[0][1:])
    with contextlib.suppress(TersenetError):
        source = open_checkpoint(whole)
        for name in source.specs:
            source.read(name)
        source.digest()


TARGETS = {
    "reader": (read, changes.file, seeds.files),
    "codec": (decode, changes.stream, seeds.streams),
    "checkpoint": (open_, changes.checkpoint, seeds.checkpoints),
}


def main() -> None:
    target, *arguments = sys.argv[1:]
    work, change, seed = TARGETS[target]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp(prefix="tersenet-fuzz-"))

    def once(data: bytes) -> None:
        if data:
            for name in ("in", "out"):
                shutil.rmtree(folder / name, ignore_errors=True)
                (folder / name).mkdir()
            work(data, folder)

    if all(each.startswith("-") for each in arguments):
        corpus = Path("build/fuzz") / target
        corpus.mkdir(parents=True, exist_ok=True)
        for number, each in enumerate(seed()):
            (corpus / f"seed-{number}").write_bytes(each)
        arguments += [str(corpus), f"-artifact_prefix=build/fuzz/{target}-"]
    atheris.Setup([sys.argv[0], *LIMITS, *arguments], once, custom_mutator=changes.structured(change))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
