"""Every grid is a class and a row of the table; a grid with more than one array of codes needs nothing else."""

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tersenet.cli import main as command_line
from tersenet.core import grid as grids
from tersenet.core import pieces
from tersenet.core.model import CompressedModel, QTensor
from tersenet.errors import FormatError, OutputError, SizeLimitError
from tersenet.files.grids import GRIDS, kind_of
from tersenet.files.summary import summarize, verify
from tersenet.files.terse import load, save
from tersenet.report.size import storage

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("outside", "hostile")]
from forge import forge  # noqa: E402
from sums_of_signs import ROW, SumsOfSigns  # noqa: E402

SIZE = 64


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The grid from outside is a class and a row."""
    monkeypatch.setattr(grids, "SumsOfSigns", SumsOfSigns, raising=False)
    monkeypatch.setitem(GRIDS, "sums", ROW)


def sums(groups: int = 40, share: float = 0.3, most: int = 3) -> QTensor:
    """Four rows of weights; only a `share` of the groups has bases."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1, most + 1, (4, groups // 4)) * (rng.random((4, groups // 4)) < share)
    counts[0, 0] = most
    codes = rng.integers(0, 2 ** counts[..., None], (*counts.shape, SIZE)).astype(np.int16)
    coordinates = torch.from_numpy(rng.random(counts.sum()).astype(np.float16))
    grid = SumsOfSigns(torch.from_numpy(counts.astype(np.int8)), coordinates, SIZE)
    return QTensor(torch.from_numpy(codes).reshape(4, -1), grid)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save(CompressedModel({"a.weight": sums()}), tmp_path / "a.terse")
    return tmp_path / "a.terse"


def test_every_grid_has_a_row_that_names_its_fields() -> None:
    ours = [each for each in grids.Grid.__subclasses__() if each.__module__.startswith("tersenet.core.")]
    assert {each.__name__ for each in ours} == {row.grid for kind, row in GRIDS.items() if kind != "sums"}
    for each in ours:
        row = next(row for row in GRIDS.values() if row.grid == each.__name__)
        assert {field.name for field in fields(each)} == {*row.fields, *row.integers}  # type: ignore[arg-type]


def test_several_arrays_of_codes_and_a_coded_field_come_back(file: Path) -> None:
    expected, found = sums(), load(file).tensors["a.weight"]
    assert isinstance(found, QTensor) and isinstance(found.grid, SumsOfSigns) and kind_of(found.grid) == "sums"
    assert torch.equal(found.codes, expected.codes) and torch.equal(found.grid.counts, expected.grid.counts)
    assert torch.equal(found.dequantize(), expected.dequantize()) and found.dequantize().abs().sum() > 0


def test_inspect_and_verify_show_it_and_its_bytes_add_up(file: Path) -> None:
    found = verify(file)
    (row,) = found.rows
    assert row.grid == "sums, f16 for groups of 64" and row.coder == "raw"
    assert sum(each.bytes for each in found.rows) + sum(found.overhead.values()) == file.stat().st_size
    assert summarize(file) == found


def test_groups_without_bases_cost_almost_nothing(tmp_path: Path) -> None:
    entry = sums(groups=4000, share=0.02, most=1)
    size = save(CompressedModel({"a": entry}), tmp_path / "a.terse")
    bases = int(entry.grid.counts.sum())
    assert entry.codes.numel() == 256_000 and size < bases * (SIZE / 8 + 2) + 4000 * 0.2 / 8 + 600


def test_storage_counts_what_the_row_says(file: Path) -> None:
    counts = sums().grid.counts
    found = storage(file)
    assert found.nonzeros == int((counts > 0).sum()) * SIZE < found.weights == counts.numel() * SIZE
    assert found.dense == found.beside + found.weights * int(counts.max()) // 8


def test_codes_are_written_with_every_field(file: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="0"):
        command_line(["decompress", str(file), "-o", str(tmp_path / "c.safetensors"), "--as", "codes"])
    assert set(load_file(tmp_path / "c.safetensors")) == {"a.weight", "a.weight:counts", "a.weight:coordinates"}


def test_large_tensors_are_decoded_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sums().dequantize()
    for piece in (1000, 100, 50):
        monkeypatch.setattr(pieces, "PIECE", piece)
        assert torch.equal(sums().dequantize(), whole)


def entry(index: dict[str, Any]) -> list[Any]:
    return index["tensors"][0]


def counted(index: dict[str, Any]) -> list[Any]:
    return entry(index)[3]["counts"]


DAMAGE = {
    "coordinates left out": lambda index: entry(index)[3].pop("coordinates"),
    "other coordinates": lambda index: entry(index)[3].update(coordinates=["f16", [2]]),
    "groups of another size": lambda index: entry(index)[3].update(group_size=32),
    "a plane left out": lambda index: entry(index)[4].pop(),
    "a plane of another length": lambda index: entry(index)[4][0].__setitem__(1, [64]),
    "planes that are one array": lambda index: entry(index).__setitem__(4, ["i8", 0, 1, [1]]),
    "one array in the tensor's shape": lambda index: entry(index).__setitem__(slice(4, 5), ["i8", 1, 2, []]),
    "counts that are not coded": lambda index: entry(index)[3].update(counts=["i8", [4, 10]]),
    "counts of an unknown coder": lambda index: counted(index).__setitem__(2, 77),
    "counts of a float type": lambda index: counted(index).__setitem__(0, "f16"),
    "counts in chunks of nothing": lambda index: counted(index).append(0),
    "counts of another kind": lambda index: counted(index).append([]),
    "more members": lambda index: entry(index).insert(4, []),
    "another grid in this form": lambda index: entry(index).__setitem__(3, {"kind": "uniform", "scale": ["f32", []]}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_does_not_go_together_is_refused(damage: str, file: Path, tmp_path: Path) -> None:
    (tmp_path / "x.terse").write_bytes(forge(file.read_bytes(), lambda index: DAMAGE[damage](index) and None))
    for read in (verify, lambda path: load(path).tensors["a.weight"]):
        with pytest.raises(FormatError):
            read(tmp_path / "x.terse")


def test_what_no_reader_takes_is_not_written(tmp_path: Path) -> None:
    good = sums()
    grid = SumsOfSigns(good.grid.counts, good.grid.coordinates[1:], SIZE)
    for wrong in (
        QTensor(good.codes, grid),
        QTensor(good.codes, SumsOfSigns(-good.grid.counts, grid.coordinates, SIZE)),
    ):
        with pytest.raises(OutputError, match="weight"):
            save(CompressedModel({"a.weight": wrong}), tmp_path / "x.terse")


def test_a_grid_without_a_row_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(GRIDS, "sums")
    with pytest.raises(OutputError, match=r"SumsOfSigns.*Uniform, Codebook, FixedPoint"):
        save(CompressedModel({"a.weight": sums()}), tmp_path / "x.terse")
    assert not list(tmp_path.iterdir())


def test_what_a_coded_field_decodes_to_counts_against_the_limit(file: Path, tmp_path: Path) -> None:
    def claim(index: dict[str, Any]) -> None:
        _, _, _, params, chunks = counted(index)
        entry(index)[3]["counts"] = ["i8", [4, 1 << 28], 1, params + sum(chunks), []]
        entry(index)[1], entry(index)[3]["group_size"] = [4, 1 << 28], 1

    (tmp_path / "x.terse").write_bytes(forge(file.read_bytes(), claim))
    with pytest.raises(SizeLimitError):
        load(tmp_path / "x.terse")
