"""The grid of rows and columns: values, files, what it costs, and what is refused."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tersenet.core.grid import Outer, Uniform, factors
from tersenet.core.model import CompressedModel, QTensor
from tersenet.errors import FormatError, OutputError
from tersenet.files.checkpoint_write import write_checkpoint
from tersenet.files.grids import GRIDS
from tersenet.files.summary import verify
from tersenet.files.terse import load, save
from tersenet.report.size import storage
from tersenet.verifier import read

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "hostile")]
from forge import forge  # noqa: E402

from codes_reader import values  # noqa: E402


def outer(*shape: int, rows: bool = True, columns: bool = True, mantissa: int = 3) -> QTensor:
    make = torch.Generator().manual_seed(0)
    codes = torch.randint(-7, 8, shape, generator=make, dtype=torch.int8)
    numbers = [torch.randint(-9, 10, (size,), generator=make, dtype=torch.int8) for size in shape[:2]]
    grid = Outer(torch.tensor(0.3), numbers[0] if rows else None, numbers[1] if columns else None, mantissa)
    return QTensor(codes, grid)


CASES = {
    "matrix": outer(9, 7),
    "convolution": outer(6, 4, 3, 3),
    "depthwise": outer(8, 1, 5, 5, mantissa=0),
    "one row": outer(1, 300, mantissa=10),
    "rows alone": outer(9, 7, columns=False),
    "columns alone": outer(9, 7, 2, rows=False),
    "neither": outer(9, 7, rows=False, columns=False),
}


@pytest.mark.parametrize("case", CASES)
def test_it_comes_back_bit_for_bit_and_readers_made_from_the_page_agree(case: str, tmp_path: Path) -> None:
    entry, path = CASES[case], tmp_path / "x.terse"
    save(CompressedModel({"x": entry}), path)
    found = load(path).tensors["x"]
    assert isinstance(found, QTensor) and torch.equal(found.codes, entry.codes)
    expected = entry.dequantize()
    assert torch.equal(found.dequantize(), expected)
    assert read(str(path))["x"].tobytes() == expected.numpy().tobytes()
    write_checkpoint(load(path), tmp_path / "c.safetensors", codes=True)
    assert values(tmp_path / "c.safetensors")["x"].tobytes() == expected.numpy().tobytes()
    assert load_file(tmp_path / "c.safetensors")["x"].equal(entry.codes)
    summary = verify(path)
    assert summary.size == path.stat().st_size == sum(r.bytes for r in summary.rows) + sum(summary.overhead.values())


def test_a_value_is_a_code_times_its_rows_step_times_its_columns_factor() -> None:
    grid = Outer(torch.tensor(0.3), torch.tensor([0, 5]), torch.tensor([1, -8, 3]), 3)
    row = np.float32(0.3) * np.array([1, 1.625], np.float32)
    column = np.array([1.125, 0.5, 1.375], np.float32)
    expected = (np.float32(3) * row)[:, None] * column
    assert torch.equal(grid.decode(torch.full((2, 3), 3)), torch.from_numpy(expected))


@pytest.mark.parametrize("mantissa", [0, 3, 10])
def test_factors_double_every_two_to_the_mantissa(mantissa: int) -> None:
    numbers = torch.arange(-60, 61) * 2**mantissa
    assert torch.equal(factors(numbers, mantissa), torch.ldexp(torch.ones(121), torch.arange(-60, 61)))
    fine = factors(torch.arange(-40, 40), mantissa)
    assert bool((fine[1:] > fine[:-1]).all())


def test_rows_and_columns_cost_a_few_bits_each(tmp_path: Path) -> None:
    make = torch.Generator().manual_seed(1)
    codes = torch.randint(-7, 8, (2000, 64), generator=make, dtype=torch.int8)
    rows, columns = (torch.randint(-3, 4, (size,), generator=make, dtype=torch.int8) for size in (2000, 64))
    sizes = [
        save(CompressedModel({"x": QTensor(codes, grid)}), tmp_path / f"{name}.terse")
        for name, grid in (("one", Uniform(torch.tensor(0.3))), ("own", Outer(torch.tensor(0.3), rows, columns)))
    ]
    assert sizes[1] - sizes[0] < (2000 + 64) * 3 / 8 + 80  # seven different numbers: 2.8 bits


def test_inspect_says_what_has_factors(tmp_path: Path) -> None:
    model = CompressedModel({name: CASES[name] for name in ("matrix", "rows alone", "columns alone", "neither")})
    save(model, tmp_path / "x.terse")
    assert [row.grid.removeprefix("outer, f32 ") for row in verify(tmp_path / "x.terse").rows] == [
        "by rows and columns", "by rows", "by columns", "by nothing",
    ]  # fmt: skip
    found = storage(tmp_path / "x.terse")
    assert found.weights == sum(entry.codes.numel() for entry in model.tensors.values() if isinstance(entry, QTensor))


def grid(index: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = index["tensors"][0][3]
    return found


DAMAGE = {
    "no scale": lambda index: grid(index).pop("scale"),
    "no mantissa": lambda index: grid(index).pop("mantissa"),
    "a finer mantissa": lambda index: grid(index).update(mantissa=11),
    "an axis": lambda index: grid(index).update(axis=0),
    "rows of another tensor": lambda index: grid(index)["rows"].__setitem__(1, [7]),
    "rows as a plain field": lambda index: grid(index).update(rows=["i8", [9]]),
    "columns of a float type": lambda index: grid(index)["columns"].__setitem__(0, "f16"),
    "a scale for every row": lambda index: grid(index).update(scale=["f32", [9]]),
    "a tensor of one dimension": lambda index: index["tensors"][0].__setitem__(1, [63]),
    "a tensor without elements": lambda index: index["tensors"][0].__setitem__(1, [9, 0]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_does_not_go_together_is_refused(damage: str, tmp_path: Path) -> None:
    save(CompressedModel({"x": CASES["matrix"]}), tmp_path / "x.terse")
    data = (tmp_path / "x.terse").read_bytes()
    (tmp_path / "y.terse").write_bytes(forge(data, lambda index: DAMAGE[damage](index) and None))
    for reader in (verify, lambda path: load(path).tensors["x"]):
        with pytest.raises(FormatError):
            reader(tmp_path / "y.terse")


@pytest.mark.parametrize("far", [-481, 481])
def test_factors_beyond_sixty_octaves_are_refused(far: int, tmp_path: Path) -> None:
    grid = Outer(torch.tensor(1.0), torch.tensor([0, far], dtype=torch.int16), None, 3)
    with pytest.raises(OutputError, match=r"x.*factor"):
        save(CompressedModel({"x": QTensor(torch.ones(2, 2, dtype=torch.int8), grid)}), tmp_path / "x.terse")


def test_an_older_reader_refuses_it_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(CompressedModel({"x": CASES["matrix"]}), tmp_path / "x.terse")
    monkeypatch.delitem(GRIDS, "outer")
    with pytest.raises(FormatError, match=r"x: an unknown grid 'outer': upgrade tersenet"):
        load(tmp_path / "x.terse")
