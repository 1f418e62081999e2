"""Speed and rate of the codec on one thread, beside zstd-3 on packed codes and constriction's ANS coder.

    python benchmarks/codec.py [--symbols 8388608] [--out FILE.csv]

CPU time of the process, rivals interleaved round by round, medians; million weights per second. "fp32" decodes to
values in memory that is already there. `TERSENET_ISA` chooses the path. constriction is left out if it is absent.
"""

import argparse
import csv
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zstandard

from tersenet import codec
from tersenet.codec import kernels

ROUNDS = 5
NOTHING = np.empty(0, np.float32)


def arrays(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    gauss = rng.standard_normal(count)
    return {
        "4 bit (gauss, 15 levels)": np.clip(np.round(gauss * 2.5), -7, 7).astype(np.int8),
        "8 bit (gauss, 255 levels)": np.clip(np.round(gauss * 40), -127, 127).astype(np.int8),
        "ternary (gauss)": np.clip(np.round(gauss * 0.7), -1, 1).astype(np.int8),
        "2 bit (laplace, unbounded)": np.round(rng.laplace(size=count) * 0.7).astype(np.int8),
    }


def rivals(codes: np.ndarray) -> dict[str, tuple[Callable, Callable]]:
    """Name -> (encode, decode of what encode returned)."""
    low, width = int(codes.min()), (int(codes.max()) - int(codes.min())).bit_length()
    out = np.zeros(codes.size, np.float32)
    zero, scale = np.empty(0, np.int32), np.ones(1, np.float32)
    pack = lambda: kernels.pack((codes.astype(np.int16) - low).astype(np.uint32), width)  # noqa: E731
    packed = pack()
    found: dict[str, tuple[Callable, Callable]] = {
        "tersenet": (lambda: codec.encode(codes), lambda s: codec.decode(s, codes.shape, codes.dtype)),
        "tersenet to fp32": (
            lambda: codec.encode(codes),
            lambda s: codec.decode_uniform(s, scale, zero, NOTHING, codes.size, out),
        ),
        "zstd-3, packed (unpacking not counted)": (
            lambda: zstandard.ZstdCompressor(level=3).compress(packed),
            lambda data: zstandard.ZstdDecompressor().decompress(data),
        ),
    }
    try:
        import constriction
    except ImportError:
        return found
    symbols = codes.astype(np.int32) - low
    share = np.bincount(symbols) / codes.size
    model = constriction.stream.model.Categorical(share, perfect=False)

    def ans() -> np.ndarray:
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(symbols, model)
        return coder.get_compressed()

    found["constriction ANS"] = (
        ans,
        lambda data: constriction.stream.stack.AnsCoder(data).decode(model, codes.size),
    )
    return found


def seconds(work: Callable, *arguments: object) -> tuple[float, object]:
    started = time.process_time()
    result = work(*arguments)
    return time.process_time() - started, result


def size(stream: object) -> int:
    return stream.size if isinstance(stream, codec.Stream) else len(memoryview(stream).cast("B"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, default=1 << 23)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    for name, codes in arrays(arguments.symbols).items():
        coders = rivals(codes)
        times: dict[str, tuple[list[float], list[float]]] = {rival: ([], []) for rival in coders}
        sizes = {}
        for _ in range(ROUNDS):
            for rival, (encode, decode) in coders.items():
                taken, encoded = seconds(encode)
                times[rival][0].append(taken)
                times[rival][1].append(seconds(decode, encoded)[0])
                sizes[rival] = size(encoded)
        for rival, (enc, dec) in times.items():
            speeds = [codes.size / statistics.median(each) / 1e6 for each in (enc, dec)]
            rows.append([name, rival, f"{8 * sizes[rival] / codes.size:.4f}", *(f"{speed:.0f}" for speed in speeds)])
            print(*rows[-1], sep="\t", flush=True)
    if arguments.out:
        with arguments.out.open("w", newline="") as stream:
            csv.writer(stream).writerows([["codes", "coder", "bits per weight", "encode M/s", "decode M/s"], *rows])


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
