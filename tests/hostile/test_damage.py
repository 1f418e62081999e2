"""Damaged and malicious files: every one ends in a typed error; none crashes, hangs, or gives other tensors."""

from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard
from forge import forge as forged

from tersenet.core.activation import Activation
from tersenet.core.grid import Codebook, Uniform
from tersenet.core.levels import Integers, Points
from tersenet.core.model import CompressedModel, KeptTensor, QTensor
from tersenet.errors import ChecksumError, FormatError, SizeLimitError, TersenetError, VersionError
from tersenet.files.layout import ALIGN, HEADER, PREFIX, parse_activations
from tersenet.files.summary import verify
from tersenet.files.terse import load, save


def small_model() -> CompressedModel:
    generator = torch.Generator().manual_seed(0)
    entries = {
        "a": QTensor(
            torch.randint(-3, 4, (8, 40), generator=generator, dtype=torch.int8),
            Uniform(torch.arange(1, 9) / 8, axis=0),
        ),
        "b": QTensor(
            torch.randint(0, 3, (5, 9), generator=generator, dtype=torch.int8), Codebook(torch.tensor([-1.0, 0.0, 2.0]))
        ),
        "c": KeptTensor(torch.randn(7, generator=generator), torch.float32, "fewer than 2 dimensions"),
        "d": KeptTensor(torch.zeros(64), torch.float32, "fewer than 2 dimensions"),
    }
    inputs = {"conv": Activation(Integers(0, 15), 0.5), "fc": Activation(Points((0, 1, 2, 4)), 0.25)}
    return CompressedModel(entries, {"e": "a"}, attachments={"config.json": b'{"x": 1}'}, activations=inputs)


WRONG_ACTIVATIONS = {
    "no object": [],
    "no list": {"a": 3},
    "empty": {"a": []},
    "unknown kind": {"a": ["floats", 1.0, [0, 1]]},
    "no scale": {"a": ["integers", None, [0, 1]]},
    "negative scale": {"a": ["integers", -1.0, [0, 1]]},
    "infinite scale": {"a": ["integers", 1e39, [0, 1]]},
    "three ends": {"a": ["integers", 1.0, [0, 1, 2]]},
    "turned ends": {"a": ["integers", 1.0, [1, 0]]},
    "levels that are floats": {"a": ["points", 1.0, [0, 1.5]]},
    "huge levels": {"a": ["points", 1.0, [0, 1 << 60]]},
}


@pytest.mark.parametrize("content", WRONG_ACTIVATIONS.values(), ids=WRONG_ACTIVATIONS.keys())
def test_forged_activations_are_refused(content: Any) -> None:
    with pytest.raises(ValueError):
        parse_activations(content)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "small.terse"
    save(small_model(), path)
    return path


def values(model: CompressedModel) -> dict[str, torch.Tensor]:
    return {name: entry.dequantize() for name, entry in model.tensors.items()}


def read_all(path: Path) -> dict[str, torch.Tensor]:
    verify(path)
    return values(load(path))


def test_every_flipped_byte_is_found(file: Path, tmp_path: Path) -> None:
    data, path = file.read_bytes(), tmp_path / "x.terse"
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(FormatError):
            read_all(path)


def test_every_truncation_is_found(file: Path, tmp_path: Path) -> None:
    data, path = file.read_bytes(), tmp_path / "x.terse"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(FormatError):
            read_all(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(FormatError):
        read_all(path)


def forge(file: Path, path: Path, change: Any, version: int = 1) -> Path:
    """The file with its index changed by `change(index)` and every checksum made right again."""
    path.write_bytes(forged(file.read_bytes(), change, version=version))
    return path


def tensors(index: dict[str, Any]) -> list[Any]:
    return index["tensors"]


def put(*where: int, value: Any) -> Any:
    def change(index: dict[str, Any]) -> None:
        target: Any = tensors(index)
        for step in where[:-1]:
            target = target[step]
        target[where[-1]] = value

    return change


ATTACKS: dict[str, Any] = {
    "no object": lambda index: [],
    "no tensors": lambda index: {"sections": index["sections"]},
    "unknown member": lambda index: {**index, "code": "import os"},
    "section too long": lambda index: {**index, "sections": [index["sections"][0] + ALIGN]},
    "section of minus one": lambda index: {**index, "sections": [-1]},
    "two sections in one place": lambda index: {**index, "sections": index["sections"] * 2},
    "sections as text": lambda index: {**index, "sections": "all"},
    "unknown critical section": lambda index: {**index, "sections": [[index["sections"][0], "moon", True]]},
    "duplicate name": lambda index: tensors(index).append(tensors(index)[0]),
    "tensor left out": lambda index: tensors(index).pop(),
    "name that is a number": put(0, 0, value=7),
    "negative dimension": put(0, 1, value=[-8, -40]),
    "dimension that is a float": put(0, 1, value=[8.0, 40]),
    "dimension that is true": put(0, 1, value=[True, 320]),
    "other shape": put(0, 1, value=[8, 41]),
    "unknown dtype": put(0, 2, value="f128"),
    "unknown grid": put(0, 3, value={"kind": "spline"}),
    "grid without scale": put(0, 3, value={"kind": "uniform"}),
    "axis out of range": put(0, 3, value={"kind": "uniform", "axis": 9, "scale": ["f32", [8]]}),
    "scale of another length": put(0, 3, value={"kind": "uniform", "axis": 0, "scale": ["f32", [9]]}),
    "scale as integers": put(0, 3, value={"kind": "uniform", "axis": 0, "scale": ["i128", [8]]}),
    "groups of zero": put(0, 3, value={"kind": "uniform", "group_size": 0, "scale": ["f32", [8, 1]]}),
    "exponent beyond fp32": put(0, 3, value={"kind": "fixed", "exponent": 127}),
    "exponent that is no integer": put(0, 3, value={"kind": "fixed", "exponent": 0.5}),
    "fixed point with a scale": put(0, 3, value={"kind": "fixed", "exponent": 0, "scale": ["f32", []]}),
    "uniform with an exponent": put(0, 3, value={"kind": "uniform", "exponent": 0, "scale": ["f32", []]}),
    "unknown coder": put(0, 5, value=9),
    "huge parameters": put(0, 6, value=1 << 40),
    "negative chunk": put(0, 7, value=[-5]),
    "chunk beyond the section": put(0, 7, value=[1 << 30]),
    "no chunks": put(0, 7, value=[]),
    "many chunks": put(0, 7, value=[0] * 100_000),
    "codes too narrow": put(0, 4, value="u8"),
    "kept in an unknown way": put(2, 5, value=3),
    "kept bytes of another size": put(2, 6, value=24),
    "kept dtype of another size": put(2, 3, value="f64"),
    "constant of another dtype": put(3, 3, value="f16"),
    "alias of nothing": lambda index: {**index, "aliases": {"e": "z"}},
    "alias of an alias": lambda index: {**index, "aliases": {"e": "f", "f": "e"}},
    "alias of a number": lambda index: {**index, "aliases": {"e": 1}},
    "attachment of another size": lambda index: {**index, "files": {"config.json": [17, 1 << 20]}},
    "infinity": lambda index: b'{"sections":[Infinity],"tensors":[]}',
    "deep nesting": lambda index: b"[" * 100_000,
    "no JSON": lambda index: b"\xff\xfe",
    "zstd bomb": lambda index: zstandard.ZstdCompressor(level=19).compress(bytes(1 << 29)),
    "no zstd size": lambda index: zstandard.ZstdCompressor(write_content_size=False).compress(b"{}" * 500),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_forged_index_with_right_checksums_is_refused(attack: str, file: Path, tmp_path: Path) -> None:
    path = forge(file, tmp_path / "x.terse", ATTACKS[attack])
    with pytest.raises(TersenetError) as caught:
        read_all(path)
    assert str(path) in str(caught.value)


def test_the_forger_itself_changes_nothing_by_default(file: Path, tmp_path: Path) -> None:
    back = read_all(forge(file, tmp_path / "x.terse", lambda index: None))
    assert all(torch.equal(back[name], tensor) for name, tensor in values(small_model()).items())


def test_an_unknown_section_that_is_not_critical_is_skipped(file: Path, tmp_path: Path) -> None:
    def note(index: dict[str, Any]) -> None:
        index["sections"].append([5, "note", False])

    (tmp_path / "x.terse").write_bytes(forged(file.read_bytes(), note, lambda sections: [*sections, b"hello"]))
    assert read_all(tmp_path / "x.terse").keys() == values(small_model()).keys()


def test_a_newer_version_is_refused_by_name(file: Path, tmp_path: Path) -> None:
    with pytest.raises(VersionError, match=r"format version 2.*upgrade"):
        load(forge(file, tmp_path / "x.terse", lambda index: None, version=2))


def test_a_small_file_that_claims_terabytes_allocates_nothing(file: Path, tmp_path: Path) -> None:
    def claim(index: dict[str, Any]) -> None:
        tensors(index)[3][1] = [10**13]

    path = forge(file, tmp_path / "x.terse", claim)
    with pytest.raises(SizeLimitError, match="max_output=40000000"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"x", b"hello" * 100, bytes(1000)], ids=["empty", "one", "text", "zeros"])
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.terse").write_bytes(content)
    with pytest.raises(FormatError, match=r"x\.terse"):
        load(tmp_path / "x.terse")


def test_a_checkpoint_a_folder_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1000)}, tmp_path / "x.safetensors")
    with pytest.raises(FormatError, match=r"is a safetensors checkpoint.*tersenet compress"):
        load(tmp_path / "x.safetensors")
    with pytest.raises(FormatError, match="cannot be read"):
        load(tmp_path)
    with pytest.raises(FormatError, match="cannot be read"):
        load(tmp_path / "nothing.terse")


def test_damage_in_one_tensor_is_found_when_it_is_read(file: Path, tmp_path: Path) -> None:
    data = bytearray(file.read_bytes())
    data[HEADER + PREFIX + 3] ^= 1
    (tmp_path / "x.terse").write_bytes(data)
    with pytest.raises(ChecksumError, match="between bytes"):
        load(tmp_path / "x.terse").tensors["a"]
