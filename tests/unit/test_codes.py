"""Codes on disk are enough: every value and every rounding of an input is made from them with numpy alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import tersenet
from codes_reader import read, roundings, values
from tersenet.core.activation import Activation
from tersenet.core.blocks import Blocks, bits
from tersenet.core.grid import BinaryBases, Codebook, FixedPoint, Uniform
from tersenet.core.levels import Integers, Points
from tersenet.core.model import CompressedModel, Entry, KeptTensor, QTensor
from tersenet.errors import OutputError
from tersenet.files.checkpoint_write import write_checkpoint


def codes(*shape: int, low: int = -8, high: int = 7, kind: torch.dtype = torch.int8) -> Tensor:
    return torch.randint(low, high + 1, shape).to(kind)


def plain(tensor: Tensor) -> np.ndarray:
    """The array of a tensor, bfloat16 as its bits."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


ENTRIES: dict[str, Entry] = {
    "one scale": QTensor(codes(8, 50), Uniform(torch.tensor(0.3)), torch.float16),
    "axis 1, all fields": QTensor(
        codes(6, 4, 3, 3), Uniform(torch.rand(4), torch.arange(4, dtype=torch.int32), torch.rand(4), axis=1)
    ),
    "axis 0, scalar zero point": QTensor(
        codes(6, 4), Uniform(torch.rand(6).half(), torch.tensor(3, dtype=torch.int32), torch.tensor(0.1), axis=0)
    ),
    "groups": QTensor(
        codes(5, 7, 10), Uniform(torch.rand(5, 3), torch.ones(5, 3, dtype=torch.int32), torch.rand(5, 3), group_size=32)
    ),
    "a group longer than a row": QTensor(codes(5, 7), Uniform(torch.rand(5, 1), group_size=1 << 31), torch.bfloat16),
    "bfloat16 scales": QTensor(codes(5, 70), Uniform(torch.rand(5).bfloat16(), axis=0), torch.bfloat16),
    "codebook": QTensor(codes(9, 31, low=0, high=5), Codebook(torch.randn(6)), torch.float64),
    "codebooks": QTensor(codes(9, 31, low=0, high=4), Codebook(torch.randn(9, 5).half(), axis=0)),
    "levels": QTensor(
        codes(9, 31, low=0, high=2),
        Codebook(torch.tensor([-4, 0, 9], dtype=torch.int16), torch.rand(31), torch.rand(31), axis=1),
    ),
    "fixed": QTensor(codes(6, 6, low=-30000, high=30000, kind=torch.int16), FixedPoint(-13)),
    "bases": QTensor(
        torch.tensor([[[3, 1], [0, 0]], [[1, 0], [2, 1]]], dtype=torch.int8),
        BinaryBases(torch.tensor([[2, 1], [2, 1]], dtype=torch.int8), torch.arange(990, 996).short(), 3, 2, 2),
    ),
    "blocks": QTensor(
        codes(5, 7, 10), Blocks(bits(torch.randn(5, 3).half()), bits(torch.randn(5, 3).half()), 32), torch.bfloat16
    ),
    "blocks of nf4": QTensor(codes(5, 70, low=0, high=15), Blocks(bits(torch.rand(5, 2)), None, 64, 1)),
    "large": QTensor(codes(6, 6, low=-(2**31), high=2**31 - 1, kind=torch.int32), Uniform(torch.tensor(1e-9))),
    "no rows": QTensor(codes(0, 4), Uniform(torch.tensor(0.5))),
    "kept as fp16": KeptTensor(torch.randn(33).half(), torch.float32, ""),
    "kept as bf16": KeptTensor(torch.randn(33).bfloat16(), torch.float32, ""),
    "counter": KeptTensor(torch.tensor(12345678901), torch.int64, ""),
    "mask": KeptTensor(torch.full((3, 3), -torch.inf).triu(1), torch.float32, ""),
}  # fmt: skip
INPUTS = {
    "a": Activation(Integers(0, 15), 0.37),
    "b": Activation(Integers(-8, 7), 1e-3),
    "c": Activation(Points((-9, -3, 0, 1, 4, 16)), 0.11),
    "d": Activation(Points((0, 1, 1 << 20)), 0.5),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_checkpoint(
        CompressedModel(ENTRIES, {"tied": "one scale"}, activations=INPUTS, batch_norm="scale-shift"),
        tmp_path / "c.safetensors",
        codes=True,
    )
    return tmp_path / "c.safetensors"


@pytest.mark.parametrize("name", [*ENTRIES, "tied"])
def test_numpy_makes_the_values_of_every_kind_of_grid(name: str, file: Path) -> None:
    expected, found = plain(ENTRIES.get(name, ENTRIES["one scale"]).dequantize()), values(file)[name]
    assert found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("path", INPUTS)
def test_numpy_rounds_inputs_as_the_network_does(path: str, file: Path) -> None:
    halves = torch.arange(-40, 80) * 0.5 * INPUTS[path].scale
    inputs = torch.cat([torch.randn(5000) * 3, halves])
    assert roundings(file)[path](inputs.numpy()).tobytes() == INPUTS[path](inputs).numpy().tobytes()


def test_the_metadata_says_what_is_tied_and_what_became_of_batch_norm(file: Path) -> None:
    about = read(file)[2]
    assert about["aliases"] == {"tied": "one scale"} and about["batch_norm"] == "pair"
    assert about["tensors"]["groups"] == {"dtype": "F32", "kind": "uniform", "group_size": 32}


def test_codes_have_the_names_of_the_checkpoint(tmp_path: Path) -> None:
    model = CompressedModel({"w": ENTRIES["fixed"]}, layout={"renamed": {"w": "module.w"}})
    write_checkpoint(model, tmp_path / "c.safetensors", codes=True)
    assert set(values(tmp_path / "c.safetensors")) == {"module.w"}


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    clash: dict[str, Entry] = {"w": ENTRIES["one scale"], "w:scale": ENTRIES["counter"]}
    with pytest.raises(OutputError, match="w:scale"):
        write_checkpoint(CompressedModel(clash), tmp_path / "c.safetensors", codes=True)


class Tied(nn.Module):
    """An embedding that is also the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(40, 16), nn.Linear(16, 40, bias=False)
        self.head.weight = self.embed.weight


def test_codes_include_tied_tensors_and_refuse_what_they_cannot_name(tmp_path: Path) -> None:
    write_checkpoint(tersenet.compress(Tied(), "rtn"), tmp_path / "c.safetensors", codes=True)
    assert {"embed.weight", "head.weight"} <= set(load_file(tmp_path / "c.safetensors"))
    both = {"w": torch.randn(32, 32), "w:scale": torch.ones(3)}
    torch.save(both, tmp_path / "both.pt")
    small = tersenet.compress(tmp_path / "both.pt", "rtn")
    for target in ("c2.safetensors", "c2.pt"):
        with pytest.raises(OutputError):
            write_checkpoint(small, tmp_path / target, codes=True)
