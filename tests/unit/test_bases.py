"""The grid of sums of binary bases: values, files, what they cost, and what is refused."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tersenet.core import pieces
from tersenet.core.grid import BinaryBases
from tersenet.core.model import CompressedModel, QTensor
from tersenet.errors import FormatError, OutputError
from tersenet.files.summary import verify
from tersenet.files.terse import load, save
from tersenet.report.size import storage
from tersenet.verifier import read

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "hostile")]
from forge import forge  # noqa: E402


def numbers(values: Tensor, mantissa: int) -> Tensor:
    return values.float().view(torch.int32) >> (23 - mantissa)


def sums(counts: Any, size: int, stride: int = 1, mantissa: int = 10) -> QTensor:
    """Random bases for groups of `size` weights; counts are `[rows, groups]`."""
    rng = np.random.default_rng(0)
    counts = np.asarray(counts)
    codes = rng.integers(0, 2 ** counts[..., None], (*counts.shape, size)).astype(np.int16)
    codes = codes.reshape(len(counts), -1, stride, size).swapaxes(2, 3).reshape(len(counts), -1)
    coordinates = numbers(torch.from_numpy(rng.uniform(0.01, 1, counts.sum())), mantissa)
    grid = BinaryBases(torch.from_numpy(counts.astype(np.int8)), coordinates, mantissa, size, stride)
    return QTensor(torch.from_numpy(codes), grid)


CASES = {
    "consecutive": sums([[2, 0, 1], [0, 3, 0]], 50),
    "of taps": sums([[2, 0, 1, 0], [0, 3, 0, 1]], 16, stride=2),
    "eight": sums([[8, 1]], 30, mantissa=0),
    "none": sums([[0, 0], [0, 0]], 20),
    "single weights": sums([[1, 0, 2], [1, 1, 0]], 1),
}


def grid_of(entry: QTensor) -> BinaryBases:
    assert isinstance(entry.grid, BinaryBases)
    return entry.grid


@pytest.mark.parametrize("case", CASES)
def test_planes_and_coordinates_come_back_bit_for_bit_and_a_second_reader_agrees(case: str, tmp_path: Path) -> None:
    entry, path = CASES[case], tmp_path / "x.terse"
    save(CompressedModel({"x": entry}), path)
    found = load(path).tensors["x"]
    assert isinstance(found, QTensor) and torch.equal(found.codes.short(), entry.codes)
    for name, field in vars(grid_of(entry)).items():
        other = getattr(found.grid, name)
        assert torch.equal(other, field) if isinstance(field, Tensor) else other == field
    assert torch.equal(found.dequantize(), entry.dequantize())
    assert read(str(path))["x"].tobytes() == entry.dequantize().numpy().tobytes()
    summary = verify(path)
    assert summary.size == path.stat().st_size == sum(r.bytes for r in summary.rows) + sum(summary.overhead.values())


def test_a_weight_is_the_sum_of_its_groups_signs_times_coordinates() -> None:
    coordinates = numbers(torch.tensor([0.5, 0.25, 2.0]), 3)
    grid = BinaryBases(torch.tensor([[2, 0], [0, 1]]), coordinates, 3, 2, 1)
    found = grid.decode(torch.tensor([[0b11, 0b01, 0, 0], [0, 0, 1, 0]]))
    assert found.tolist() == [[0.75, 0.25, 0.0, 0.0], [0.0, 0.0, 2.0, -2.0]]
    taps = BinaryBases(torch.tensor([[1, 1]]), numbers(torch.tensor([1.0, 4.0]), 0), 0, 2, 2)
    assert taps.decode(torch.tensor([[1, 1, 0, 0]])).tolist() == [[1.0, 4.0, -1.0, -4.0]]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rows", [1, 2])
def test_large_tensors_are_decoded_in_pieces(case: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = CASES[case]
    if rows == 1:  # one row, which is cut inside of groups
        grid = grid_of(entry)
        one = BinaryBases(grid.counts.reshape(1, -1), grid.coordinates, grid.mantissa, grid.group_size, grid.stride)
        entry = QTensor(entry.codes.reshape(1, -1, 1), one)
    whole = entry.dequantize()
    for piece in (71, 33, 7, 1):
        monkeypatch.setattr(pieces, "PIECE", piece)
        assert torch.equal(entry.dequantize(), whole)


def test_groups_without_bases_cost_almost_nothing(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).random((100, 100)) < 0.02
    size = save(CompressedModel({"x": sums(counts.astype(int), 64)}), tmp_path / "x.terse")
    assert size < counts.sum() * (64 / 8 + 2) + counts.size * 0.2 / 8 + 700  # of 640,000 weights


def test_coordinates_of_few_bits_cost_less_than_fp16(tmp_path: Path) -> None:
    fine, coarse = (
        save(CompressedModel({"x": sums(np.ones((64, 32), int), 8, mantissa=m)}), tmp_path / f"{m}.terse")
        for m in (10, 3)
    )
    assert 8 * (fine - coarse) / (64 * 32) > 6.5 and fine < 64 * 32 * (8 / 8 + 2) + 600


def test_storage_counts_a_bit_for_every_basis(tmp_path: Path) -> None:
    save(CompressedModel({"x": CASES["of taps"]}), tmp_path / "x.terse")
    found = storage(tmp_path / "x.terse")
    assert (found.nonzeros, found.weights) == (4 * 16, 8 * 16)
    assert found.dense == found.beside + found.weights * 3 // 8


def entry(index: dict[str, Any]) -> list[Any]:
    return index["tensors"][0]


DAMAGE = {
    "no coordinates": lambda index: entry(index)[3].pop("coordinates"),
    "no mantissa": lambda index: entry(index)[3].pop("mantissa"),
    "a mantissa beyond fp16": lambda index: entry(index)[3].update(mantissa=11),
    "coordinates beyond fp32": lambda index: entry(index)[3].update(mantissa=3),
    "groups that do not divide": lambda index: entry(index)[3].update(group_size=40),
    "a stride that does not divide": lambda index: entry(index)[3].update(stride=7),
    "groups of nothing": lambda index: entry(index)[3].update(group_size=0),
    "a plane left out": lambda index: entry(index)[4].pop(),
    "a plane of another length": lambda index: entry(index)[4][0].__setitem__(1, [64]),
    "a tensor without dimensions": lambda index: entry(index).__setitem__(1, []),
    "a tensor without elements": lambda index: entry(index).__setitem__(1, [2, 0]),
    "counts of another type": lambda index: entry(index)[3]["counts"].__setitem__(0, "i16"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_does_not_go_together_is_refused(damage: str, tmp_path: Path) -> None:
    save(CompressedModel({"x": CASES["consecutive"]}), tmp_path / "x.terse")
    data = (tmp_path / "x.terse").read_bytes()
    (tmp_path / "y.terse").write_bytes(forge(data, lambda index: DAMAGE[damage](index) and None))
    for reader in (verify, lambda path: load(path).tensors["x"]):
        with pytest.raises(FormatError):
            reader(tmp_path / "y.terse")


def test_what_no_reader_takes_is_not_written(tmp_path: Path) -> None:
    good = CASES["consecutive"]
    grid = grid_of(good)
    wrong = {
        "a basis too many": QTensor(good.codes | 4, grid),
        "nine bases": QTensor(good.codes, BinaryBases(grid.counts + 7, grid.coordinates, 10, 50, 1)),
        "other coordinates": QTensor(good.codes, BinaryBases(grid.counts, grid.coordinates[1:], 10, 50, 1)),
        "a coordinate of 0": QTensor(good.codes, BinaryBases(grid.counts, grid.coordinates * 0, 10, 50, 1)),
        "a negative coordinate": QTensor(good.codes, BinaryBases(grid.counts, -grid.coordinates, 10, 50, 1)),
        "other groups": QTensor(good.codes, BinaryBases(grid.counts, grid.coordinates, 10, 30, 1)),
    }
    for entry in wrong.values():
        with pytest.raises(OutputError):
            save(CompressedModel({"x": entry}), tmp_path / "x.terse")
