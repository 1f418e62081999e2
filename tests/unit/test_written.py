"""What no reader would take is not written; what is written decodes in pieces to the same values."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tersenet import codec
from tersenet.core import pieces
from tersenet.core.activation import Activation
from tersenet.core.blocks import Blocks, bits
from tersenet.core.grid import Codebook, FixedPoint, Grid, Outer, Uniform
from tersenet.core.levels import Integers
from tersenet.core.model import CompressedModel, Entry, KeptTensor, QTensor
from tersenet.core.pieces import decode_to
from tersenet.errors import OutputError, SizeLimitError, TersenetError
from tersenet.files.boundary import reading
from tersenet.files.terse import load, save
from tersenet.report.escape import plain
from tersenet.report.size import GAPS, _survey

CODES = torch.arange(12, dtype=torch.int8).reshape(3, 4) % 3
HALF = torch.tensor(0.5)


def quantised(grid: Grid, codes: torch.Tensor = CODES) -> CompressedModel:
    return CompressedModel({"layer.weight": QTensor(codes, grid)})


def kept(tensor: torch.Tensor, dtype: torch.dtype) -> CompressedModel:
    return CompressedModel({"layer.weight": KeptTensor(tensor, dtype, "a reason")})


def envelope(**more: Any) -> CompressedModel:
    return CompressedModel({"a": QTensor(CODES, Uniform(HALF))}, **more)


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth > 1 else []


WRONG: dict[str, tuple[CompressedModel, str]] = {
    "scales of another length": (quantised(Uniform(torch.ones(4), axis=0)), "layer.weight.*another shape"),
    "scales without an axis": (quantised(Uniform(torch.ones(3))), "layer.weight.*another shape"),
    "groups of another size": (quantised(Uniform(torch.ones(3, 3), group_size=2)), "layer.weight.*another shape"),
    "an axis that is not there": (quantised(Uniform(torch.ones(3), axis=2)), "layer.weight.*axis 2"),
    "a scale that is not finite": (quantised(Uniform(torch.tensor(float("inf")))), "layer.weight.*scale"),
    "a scale of zero": (quantised(Uniform(torch.zeros(3), axis=0)), "layer.weight.*scale"),
    "an offset that is not a number": (
        quantised(Uniform(HALF, offset=torch.tensor(float("nan")))),
        "layer.weight.*offset",
    ),
    "zero points that are floats": (quantised(Uniform(HALF, torch.tensor(1.0))), "layer.weight.*f32"),
    "zero points beyond 32 bits": (quantised(Uniform(HALF, torch.tensor(2**40))), "layer.weight.*zero_point"),
    "codes outside the codebook": (quantised(Codebook(torch.tensor([0.0, 1.0]))), "layer.weight.*codebook"),
    "an exponent beyond fp32": (quantised(FixedPoint(200)), "layer.weight.*exponent"),
    "a complex tensor kept for an integer": (
        kept(torch.ones(2, dtype=torch.complex64), torch.int8),
        "layer.weight.*c64",
    ),
    "a bool that is neither": (kept(torch.tensor([7], dtype=torch.uint8).view(torch.bool), torch.bool), "layer.weight"),
    "a tied name of nothing": (envelope(aliases={"b": "c"}), "alias"),
    "a provenance with NaN": (envelope(provenance={"loss": float("nan")}), "index"),
    "a provenance that is no JSON": (envelope(provenance={"made": {1, 2}}), "index"),
    "a provenance without end": (envelope(provenance={"x": nested(70)}), "64 deep"),
    "half a character": (envelope(provenance={"by": "\ud800"}), "index"),
    "an activation of scale zero": (envelope(activations={"conv": Activation(Integers(0, 3), 1e-60)}), "conv"),
    "a batch norm of another kind": (envelope(batch_norm="merge"), "merge"),
    "an attachment with NUL in its name": (envelope(attachments={"a\0b": b""}), "control characters"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_no_reader_takes_is_not_written(wrong: str, tmp_path: Path) -> None:
    model, said = WRONG[wrong]
    with pytest.raises(OutputError, match=said):
        save(model, tmp_path / "x.terse")
    assert not list(tmp_path.iterdir())


ODD: dict[str, Entry] = {
    "empty quantised": QTensor(torch.zeros(0, 3, dtype=torch.int8), Uniform(HALF)),
    "no dimensions": QTensor(torch.tensor(2, dtype=torch.int8), Uniform(HALF)),
    "codebook of 64-bit integers": QTensor(CODES, Codebook(torch.tensor([-1, 0, 3]), HALF)),
    "zero point of 64 bits": QTensor(CODES, Uniform(HALF, torch.tensor(3))),
    "scale in fp64": QTensor(CODES, Uniform(HALF.double())),
    "scale in bf16": QTensor(CODES, Uniform(HALF.bfloat16())),
    "infinite mask": KeptTensor(torch.tensor([float("-inf"), 0.0]), torch.float32, "a mask"),
    "complex": KeptTensor(torch.ones(3, dtype=torch.complex128), torch.complex128, "dtype complex128"),
    "fp8": KeptTensor(torch.ones(3).to(torch.float8_e4m3fn), torch.float8_e4m3fn, "dtype float8_e4m3fn"),
    "bf16 for fp64": KeptTensor(torch.ones(3).bfloat16(), torch.float64, "smaller"),
    "empty kept": KeptTensor(torch.zeros(3, 0), torch.float32, "no elements"),
    "bool": KeptTensor(torch.tensor([True, False, True]), torch.bool, "dtype bool"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_tensors_are_written_and_come_back(name: str, tmp_path: Path) -> None:
    save(CompressedModel({"x": ODD[name]}), tmp_path / "x.terse")
    back = load(tmp_path / "x.terse").tensors["x"].dequantize()
    expected = ODD[name].dequantize()
    assert back.dtype == expected.dtype and back.shape == expected.shape
    assert back.reshape(-1).view(torch.uint8).equal(expected.reshape(-1).view(torch.uint8))


SHAPES = [(5000,), (1, 3000), (3, 500), (1, 1, 7, 200), (40, 50), (4, 1, 300), (1, 129, 5)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_decoding_in_pieces_gives_the_same_values(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 64)
    make = torch.Generator().manual_seed(0)
    codes = torch.randint(-3, 4, shape, dtype=torch.int8, generator=make)

    def field(*size: int) -> torch.Tensor:
        return torch.rand(size, generator=make) + 0.5

    every: list[Grid] = [Uniform(HALF), FixedPoint(-3)]
    if len(shape) > 1:
        rows, columns = (torch.randint(-9, 9, (size,), generator=make) for size in shape[:2])
        every += [Outer(HALF, rows, columns, 3), Outer(HALF, rows, None, 0), Outer(HALF, None, columns, 10)]
    for group in (32, 100):
        groups = shape[0], -(-(codes.numel() // shape[0]) // group)
        every += [
            Blocks(bits(field(*groups)), bits(field(*groups)), group),
            Blocks(bits(field(*groups).half()), None, group),
        ]
    for axis, size in enumerate(shape):
        every += [Uniform(field(size), torch.tensor(3), field(size), axis=axis)]
        every += [Codebook(field(7), field(size), HALF, axis=axis), Codebook(field(size, 7), axis=axis)]
    row = codes.numel() // shape[0]
    for group in (1, 3, 50, 64, 65, 128, 1000, 1 << 48):
        units = -(-row // group)
        every.append(Uniform(field(shape[0], units), torch.arange(units).expand(shape[0], -1), HALF, group_size=group))
    for grid in every:
        own = codes + 3 if isinstance(grid, Codebook) else codes
        assert torch.equal(decode_to(grid, own, torch.float16), grid.decode(own).half()), grid


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32])
def test_integers_at_the_ends_of_their_type_survive(kind: type) -> None:
    """The window of symbols may reach beyond the type although no integer does."""
    rng, ends = np.random.default_rng(0), np.iinfo(kind)
    for end in (ends.max, ends.min):
        codes = np.where(rng.random(20_000) < 0.97, end, rng.integers(ends.min, ends.max, 20_000)).astype(kind)
        assert np.array_equal(codec.decode(codec.encode(codes), codes.shape, kind), codes)


def test_a_trellis_path_with_far_exceptions_survives_and_decodes_chunk_by_chunk() -> None:
    from tersenet.codec.trellis import NEXT, code_of

    indices = np.round(np.random.default_rng(0).standard_normal(20_000) * 1.3).astype(int)
    indices[::500], indices[1::700] = 62, -62
    state, path = 0, []
    for k in indices.tolist():
        path.append(code_of(k, state & 1, False))
        state = NEXT[state][k & 1]
    codes = np.ascontiguousarray(np.array(path, np.int8).reshape(200, 100).T)
    for chunk in (999, 1000, 1 << 20):
        stream = codec.encode(codes, chunk_symbols=chunk)
        assert stream.params[0] & 16 and np.array_equal(codec.decode(stream, codes.shape, np.int8), codes)
        assert codec.extremes(stream, codes.shape, np.int8) == (codes.min(), codes.max())
        assert np.array_equal(np.concatenate(list(codec.pieces(stream, codes.shape, np.int8))), codes.reshape(-1))


@pytest.mark.parametrize("kind", ["sparse", "dense", "mixed", "zeros", "ones", "far"])
@pytest.mark.parametrize("chunk", [1000, 4096, 1 << 20])
def test_gaps_are_counted_across_chunks(kind: str, chunk: int) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 5, 50_000).astype(np.int8)
    codes[rng.random(50_000) < {"sparse": 0.99, "mixed": 0.5, "far": 0.9999}.get(kind, 0)] = 0
    codes = {"zeros": codes * 0, "ones": codes * 0 + 1}.get(kind, codes)
    codes[20_000:30_000] *= kind != "mixed"
    found = _survey(codec.pieces(codec.encode(codes, chunk_symbols=chunk), codes.shape, "int8"))
    gaps = np.diff(np.flatnonzero(codes), prepend=-1) - 1
    assert (*found.ends, found.nonzeros) == (codes.min(), codes.max(), np.count_nonzero(codes))
    assert found.bridges == tuple(int((gaps >> bits).sum()) for bits in GAPS)


@pytest.mark.parametrize(
    "error", [KeyError("x"), IndexError(), OverflowError("big"), RecursionError(), RuntimeError("torch")]
)
def test_whatever_reading_raises_leaves_as_an_error_that_names_file_and_part(error: Exception) -> None:
    with pytest.raises(TersenetError, match=r"x\.terse.*tensor 'a'"), reading("x.terse", "tensor 'a'"):
        raise error


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_memory_that_runs_out_is_a_limit(error: Exception) -> None:
    with pytest.raises(SizeLimitError, match=r"x\.terse: there is not enough memory"), reading("x.terse", "index"):
        raise error


def test_a_tensor_that_the_file_does_not_have_is_a_key_error(tmp_path: Path) -> None:
    save(quantised(Uniform(HALF)), tmp_path / "x.terse")
    with pytest.raises(KeyError):
        load(tmp_path / "x.terse").tensors["other"]


def test_text_for_the_terminal_is_one_line_without_control_characters() -> None:
    assert plain("a\x1b]0;x\x07\n\u202eb\u009bc\ud800é") == r"a\x1b]0;x\x07\n\u202eb\x9bc\ud800é"
    assert plain("x" * 50, 10) == "xxxxxxxxxx... (40 more)"
