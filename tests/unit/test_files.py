"""A file gives back the same tensors bit for bit, says exactly where its bytes are, and never costs the old file."""

import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import tersenet
from tersenet.core.grid import Codebook, Uniform
from tersenet.core.method import Job
from tersenet.core.model import CompressedModel, Entry, KeptTensor, QTensor
from tersenet.errors import OutputError, TersenetError
from tersenet.files.summary import summarize, verify
from tersenet.files.terse import load, measure, save


def codes(*shape: int, low: int = -3, high: int = 4, kind: torch.dtype = torch.int8) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(len(shape)), dtype=kind)


def kept(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> KeptTensor:
    return KeptTensor(tensor, dtype or tensor.dtype, "fewer than 2 dimensions")


ENTRIES: dict[str, Entry] = {
    "tensor": QTensor(codes(8, 50), Uniform(torch.tensor(0.25)), torch.float16),
    "affine": QTensor(
        codes(6, 4, 3, 3), Uniform(torch.rand(4), torch.arange(4, dtype=torch.int32), torch.rand(4), axis=1)
    ),
    "group": QTensor(codes(5, 70, low=0, high=2), Uniform(torch.rand(5, 3).half(), group_size=32), torch.bfloat16),
    "codebook": QTensor(codes(9, 31, low=0, high=5), Codebook(torch.randn(5))),
    "codebooks": QTensor(codes(9, 31, low=0, high=5), Codebook(torch.randn(9, 5).half(), axis=0), torch.float64),
    "wide": QTensor(codes(40, 40, low=-30_000, high=30_000, kind=torch.int16), Uniform(torch.tensor(1e-4))),
    "wider": QTensor(codes(20, 20, low=-(2**31), high=2**31 - 1, kind=torch.int32), Uniform(torch.tensor(1e-9))),
    "constant": QTensor(torch.full((3, 3, 3), -2, dtype=torch.int8), Uniform(torch.tensor(1.0))),
    "no rows": QTensor(torch.zeros(0, 4, dtype=torch.int8), Uniform(torch.tensor(1.0))),
    "vector": kept(torch.randn(33).half(), torch.float32),
    "zeros": kept(torch.zeros(100)),
    "minus zero and zero": kept(torch.tensor([0.0, -0.0])),
    "nan": kept(torch.tensor([float("nan"), float("inf"), 1.0]).bfloat16()),
    "flag": kept(torch.tensor(True)),
    "empty": kept(torch.zeros(0, 3)),
    "counter": kept(torch.tensor(12345678901)),
    "complex": kept(torch.randn(4, dtype=torch.complex64)),
    "fp8": kept(torch.randn(16).to(torch.float8_e4m3fn)),
    "large": QTensor(codes(600, 1000), Uniform(torch.rand(600).half(), axis=0)),
    "ünï/cödé": kept(torch.ones(2)),
}
MODEL = CompressedModel(
    ENTRIES,
    aliases={"tied": "tensor"},
    provenance={"method": "test", "fields": {"bits": 3}},
    layout={"shards": {"a.safetensors": ["tensor"], "b.safetensors": [n for n in (*ENTRIES, "tied") if n != "tensor"]}},
    attachments={"config.json": b"{}", "vocab/words.txt": bytes(range(256)) * 9},
    batch_norm="scale-shift",
)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def same(a: Entry, b: Entry) -> bool:
    if isinstance(a, KeptTensor) and isinstance(b, KeptTensor):
        pairs = [(a.tensor, b.tensor)]
        return (
            a.reason == b.reason
            and a.dtype == b.dtype
            and all(x.dtype == y.dtype and bits(x) == bits(y) for x, y in pairs)
        )
    assert isinstance(a, QTensor) and isinstance(b, QTensor) and type(a.grid) is type(b.grid)
    fields = [(vars(a.grid)[key], vars(b.grid)[key]) for key in vars(a.grid)]
    equal = all(
        (torch.equal(x, y) and x.dtype == y.dtype) if isinstance(x, torch.Tensor) else x == y for x, y in fields
    )
    return equal and torch.equal(a.codes, b.codes) and a.codes.dtype == b.codes.dtype and a.dtype == b.dtype


@pytest.mark.parametrize("effort", ["fast", "best"])
def test_every_tensor_comes_back_bit_for_bit(tmp_path: Path, effort: str) -> None:
    save(MODEL, tmp_path / "x.terse", effort=effort)
    back = load(tmp_path / "x.terse")
    assert list(back.tensors) == list(ENTRIES)
    for name, entry in ENTRIES.items():
        assert same(entry, back.tensors[name]), name
        assert back.tensors[name].shape == entry.shape == back.specs[name].shape
    for field in ("aliases", "provenance", "layout", "attachments", "batch_norm"):
        assert getattr(back, field) == getattr(MODEL, field)
    assert torch.equal(back.state_dict()["tied"], MODEL.state_dict()["tensor"])


def test_the_reported_bytes_are_the_size_of_the_file_on_disk(tmp_path: Path) -> None:
    size = save(MODEL, tmp_path / "x.terse")
    summary = summarize(tmp_path / "x.terse")
    assert size == (tmp_path / "x.terse").stat().st_size == measure(MODEL.tensors.items(), MODEL) == summary.size
    assert sum(row.bytes for row in summary.rows) + sum(summary.overhead.values()) == size
    assert summary.original_bytes == sum(
        t.numel() * t.element_size() for n, t in load(tmp_path / "x.terse").state_dict().items() if n != "tied"
    )
    assert verify(tmp_path / "x.terse") == summary


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    save(MODEL, tmp_path / "a.terse")
    save(load(tmp_path / "a.terse"), tmp_path / "b.terse")
    assert (tmp_path / "a.terse").read_bytes() == (tmp_path / "b.terse").read_bytes()


def test_a_file_is_a_valid_safetensors_file_with_one_byte_tensor(tmp_path: Path) -> None:
    size = save(MODEL, tmp_path / "x.terse")
    with safe_open(tmp_path / "x.terse", "pt") as opened:
        assert list(opened.keys()) == ["terse"]
        assert opened.metadata() == {"format": "terse", "version": "1"}
        assert opened.get_tensor("terse").dtype == torch.uint8
        assert opened.get_tensor("terse").numel() == size - 192


def test_an_empty_model_is_a_file_too(tmp_path: Path) -> None:
    save(CompressedModel({}), tmp_path / "x.terse")
    assert dict(load(tmp_path / "x.terse").tensors) == {}


def test_side_information_of_a_4_bit_network_is_under_3_percent(tmp_path: Path) -> None:
    from tersenet.files.checkpoint import open_module
    from tersenet.lab.models import build
    from tersenet.methods.rtn import Rtn

    torch.manual_seed(0)
    source, method = open_module(build("resnet20")), Rtn(bits=4, granularity="tensor")
    size = save(method.model(source, method.compress(Job(source))), tmp_path / "x.terse")
    found = summarize(tmp_path / "x.terse")
    beside = sum(row.grid_bytes + row.table_bytes for row in found.rows if row.grid)
    assert sum(found.overhead.values()) + beside < 0.03 * size


def test_an_error_of_what_is_written_passes_through_and_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.terse"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="exists"):
        save(MODEL, path)

    class Broken(dict[str, Entry]):
        def items(self):  # type: ignore[no-untyped-def]
            yield "tensor", ENTRIES["tensor"]
            raise FileNotFoundError("images/0.png")

    with pytest.raises(FileNotFoundError, match=r"images/0.png"):
        save(CompressedModel(Broken()), path, overwrite=True)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["x.terse"]


def test_an_output_name_that_is_too_long_is_a_typed_error(checkpoint: Path, tmp_path: Path) -> None:
    small = tersenet.compress(checkpoint, "rtn")
    with pytest.raises(TersenetError):
        tersenet.save(small, tmp_path / ("x" * 400))
    tersenet.save(small, tmp_path / ("x" * 250))
