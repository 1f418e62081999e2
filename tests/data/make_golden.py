"""Writes golden.terse (every coder, grid and way to keep a tensor) and golden_measured.terse. Run once per version."""

import json
from pathlib import Path

import numpy as np
import torch

from tersenet import Codebook, CompressedModel, KeptTensor, QTensor, Uniform
from tersenet.cards import card
from tersenet.codec.trellis import NEXT, code_of
from tersenet.core.activation import Activation
from tersenet.core.blocks import Blocks, bits
from tersenet.core.grid import BinaryBases, FixedPoint, Outer
from tersenet.core.levels import Integers, Points
from tersenet.core.model import Entry
from tersenet.files.results import Results, content_hash, record
from tersenet.files.terse import save


def entries() -> dict[str, Entry]:
    rng = np.random.default_rng(0)

    def gauss(*shape: int, width: float = 2.0) -> np.ndarray:
        return np.round(rng.standard_normal(shape) * width)

    def q(
        codes: np.ndarray, grid: Uniform | Codebook | FixedPoint | Outer | Blocks, kind: torch.dtype = torch.int8
    ) -> QTensor:
        return QTensor(torch.from_numpy(np.ascontiguousarray(codes)).to(kind), grid)

    def path(plain: bool) -> np.ndarray:
        state, codes = 0, []
        for k in gauss(400, width=1.3).astype(int).tolist():
            codes.append(code_of(k, state & 1, plain))
            state = NEXT[state][k & 1]
        return np.array(codes).reshape(20, 20).T

    scales = torch.tensor([0.5, 0.25, 0.125, 1.0, 2.0, 0.75])

    def bases(counts: np.ndarray, size: int, stride: int, mantissa: int) -> QTensor:
        draw = np.random.default_rng(2)
        codes = draw.integers(0, 2 ** counts[..., None].astype(int), (*counts.shape, size))
        codes = codes.reshape(len(counts), -1, stride, size).swapaxes(2, 3).reshape(len(counts), size, -1)
        coordinates = draw.integers(120 << mantissa, 125 << mantissa, counts.sum()).astype(np.int32)
        kind = np.int8 if counts.max() < 8 else np.int16
        fields = torch.from_numpy(counts.astype(np.int8)), torch.from_numpy(coordinates)
        return QTensor(torch.from_numpy(codes.astype(kind)), BinaryBases(*fields, mantissa, size, stride))

    spiky = gauss(20, 60)
    spiky[3, 4], spiky[10, 50] = 90, -70
    own = np.random.default_rng(1)  # the others are older
    mixed = own.standard_t(0.6, (40, 30)).clip(-30_000, 30_000).astype(int) * (own.random((40, 30)) < 0.2)
    mixed[0, 0] = -(2**15)
    late = np.random.default_rng(3)
    return {
        "window": q(gauss(6, 90), Uniform(scales, axis=0)),
        "groups": q(
            np.repeat(gauss(5, 40, width=0.8), 3, 1).clip(-1, 1), Uniform(scales[:5, None].half(), group_size=200)
        ),
        "pairs": q(np.repeat(gauss(5, 60, width=0.8), 2, 1).clip(-2, 2), Uniform(torch.tensor(0.1))),
        "split": q(gauss(30, 40, width=50), Uniform(torch.tensor(0.01), torch.tensor(3, dtype=torch.int32))),
        "wide": q(gauss(20, 20, width=9000), Uniform(torch.tensor(1e-4)), torch.int16),
        "exceptions": q(spiky, Uniform(torch.tensor(0.1), offset=torch.tensor(0.3))),
        "raw": q(rng.integers(0, 8, (6, 7)), Uniform(torch.tensor(0.5))),
        "zstd": q(np.tile(np.arange(16) * 7 % 16, (50, 4)), Uniform(torch.tensor(0.5))),
        "constant": q(np.full((4, 5, 3), -2), Uniform(torch.tensor(0.5))),
        "trellis zero": q(path(False), Uniform(torch.tensor(0.05))),
        "trellis plain": q(path(True), Uniform(torch.tensor(0.05))),
        "codebook": q(rng.integers(0, 4, (9, 30)), Codebook(torch.tensor([-1.0, -0.25, 0.25, 1.5]))),
        "codebooks": q(
            rng.integers(0, 2, (3, 50)), Codebook(torch.tensor([[0.0, 1.0], [2.0, 3.0], [-1.0, 1.0]]), axis=0)
        ),
        "scaled codebook": q(
            rng.integers(0, 5, (6, 30)),
            Codebook(torch.tensor([-10, -1, 0, 3, 8], dtype=torch.int8), scales.half(), torch.arange(6) / 8, axis=0),
        ),
        "fixed point": q(np.arange(-40, 56).reshape(8, 12), FixedPoint(-5)),
        "classes": q(mixed, FixedPoint(-10), torch.int16),
        "bases": bases(np.array([[2, 0, 1], [0, 0, 8]]), 40, 1, 10),
        "bases of taps": bases(np.array([[1, 0, 0, 3], [0, 1, 0, 0]]), 24, 2, 3),
        "no bases": bases(np.zeros((3, 2), np.int64), 10, 1, 0),
        "rows and columns": q(
            late.integers(-5, 6, (6, 7, 2)),
            Outer(torch.tensor(0.01), torch.arange(-9, 9, 3).short(), torch.arange(7).short() - 3, 3),
        ),
        "columns": q(
            late.integers(-5, 6, (5, 9)),
            Outer(torch.tensor(0.5).half(), None, torch.arange(-4, 5, dtype=torch.int8), 0),
        ),
        "blocks": q(
            late.integers(-8, 8, (3, 20, 2)),
            Blocks(bits(torch.arange(-3.0, 3).reshape(3, 2).half()), bits(torch.arange(6.0).reshape(3, 2).half() / 8)),
        ),
        "blocks of nf4": q(late.integers(0, 16, (2, 70)), Blocks(bits(torch.full((2, 2), 0.3)), None, 64, 1)),
        "kept": KeptTensor(torch.from_numpy(gauss(9)).half(), torch.float32, "fewer than 2 dimensions"),
        "kept zstd": KeptTensor(torch.arange(300) // 50, torch.int64, "dtype int64"),
        "kept constant": KeptTensor(torch.ones(40), torch.float32, "fewer than 2 dimensions"),
        "kept bf16": KeptTensor(torch.tensor([1.5, -2.0]).bfloat16(), torch.bfloat16, "fewer than 2 dimensions"),
    }


def model() -> CompressedModel:
    """The model in the golden file."""
    inputs = {"conv1": Activation(Integers(-8, 7), 0.3125), "conv2": Activation(Points((0, 1, 2, 4, 8)), 0.125)}
    files = {"config.json": b'{"a": 1}' * 20}
    return CompressedModel(entries(), {"tied": "raw"}, {"method": "golden"}, {}, files, activations=inputs)


def measured(path: Path) -> None:
    """Write a file that has all that cards are made of, and its card beside it."""
    provenance = {
        "method": "golden",
        "fields": {"bits": 4},
        "input": "0123456789abcdef0123456789abcdef",
        "given": {"license": "mit"},
        "shapes": {"input": [[1, 8, 8]], "uses": [16, 1, None], "outputs": [96, 6, None]},
    }
    kept = KeptTensor(torch.arange(12.0).reshape(3, 4).half(), torch.float32, "excluded")
    chosen = {name: entries()[name] for name in ("window", "codebook")} | {"left.weight": kept}
    inputs = {"window": Activation(Integers(0, 15), 0.3125)}
    save(CompressedModel(chosen, provenance=provenance, activations=inputs, results=[]), path, overwrite=True)
    three = (0.875, 0.75, 0.9375)
    found = Results(
        content_hash(path), "test", "accuracy", 64, three, 0.90625, (0.03125, -0.01, 0.07), (3, 0.125), "ab" * 8
    )
    record(path, found.as_json())
    path.with_suffix(".card.json").write_text(json.dumps(card(path), indent=1) + "\n")


if __name__ == "__main__":
    here = Path(__file__).parent
    print(save(model(), here / "golden.terse", overwrite=True, effort="best"))
    measured(here / "golden_measured.terse")
