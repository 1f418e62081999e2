"""Tables that were computed are told from weights that were trained, and kept exactly."""

import logging
import math
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import tersenet
from every_method import EVERY, example
from tersenet.api import compress_file, open_inputs
from tersenet.core.model import KeptTensor, QTensor
from tersenet.core.task import Task
from tersenet.errors import WeightError
from tersenet.files.summary import summarize
from tersenet.methods import get
from tersenet.network.tables import is_table

CASES = Path(__file__).parents[2] / "benchmarks"
TABLES: dict[str, Callable[[], Tensor]] = runpy.run_path(str(CASES / "computed.py"))["TABLES"]
OTHERS = runpy.run_path(str(CASES / "trained.py"))
WEIGHTS: dict[str, Callable[[], Tensor]] = OTHERS["WEIGHTS"]
FRESH: dict[str, Callable[[], Tensor]] = OTHERS["FRESH"]
MISSED = {
    "sinusoids on an 8 x 8 grid",
    "resampling 160 to 441",
    "resampling 441 to 160",
    "random Fourier features 2 x 256",
}
POSITIONS = torch.arange(2048.0).reshape(512, 4) * 8
MASK = torch.full((64, 64), -math.inf).triu(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", sorted(set(TABLES) - MISSED))
def test_a_computed_tensor_is_a_table(name: str) -> None:
    assert is_table(TABLES[name]())


@pytest.mark.parametrize("name", WEIGHTS)
def test_what_looks_trained_is_none(name: str) -> None:
    assert not is_table(WEIGHTS[name]())


def test_what_was_only_initialised_with_structure_is_one() -> None:
    assert [name for name, build in FRESH.items() if not is_table(build())] == ["zeros but for one row"]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    "shape", [(16, 16), (2, 128), (64, 4), (8, 8, 2, 2), (1, 1, 256), (32, 3, 3, 3), (256, 8)], ids=str
)
def test_no_small_weight_is_one_by_chance(shape: tuple[int, ...], seed: int) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(shape)
    assert not any(is_table(value) for value in (weight, weight.bfloat16(), weight.sign(), (weight * 1.2).round()))


def test_the_networks_of_the_lab_have_no_tables(checkpoint: Path) -> None:
    source, _ = open_inputs(checkpoint, None)
    assert not any(spec.computed for spec in source.specs.values())


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkpoint with a weight, a table of positions, a mask of -inf and rates as a vector."""
    rates = 10000.0 ** -(torch.arange(32) / 32)
    save_file({"w": torch.randn(64, 64), "pos": POSITIONS, "mask": MASK, "rates": rates}, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


@pytest.mark.parametrize("method", ["rtn", "vlcq"])
def test_tables_of_a_bare_checkpoint_come_back_exactly(method: str, bare: Path, tmp_path: Path) -> None:
    size = compress_file(bare, tmp_path / "x.terse", get(method)())
    model = tersenet.load(tmp_path / "x.terse")
    state, original = model.state_dict(), open_inputs(bare, None)[0]
    assert isinstance(model.tensors["w"], QTensor) and size < 16_000
    assert all(torch.equal(state[name], original.read(name)) for name in ("pos", "mask", "rates"))
    reasons = {row.name: row.reason for row in summarize(tmp_path / "x.terse").rows}
    assert reasons["pos"] == reasons["mask"] == reasons["rates"] == "table, kept as f32"


def test_one_line_names_them_with_their_bytes(bare: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "tersenet"):
        tersenet.compress(bare, "rtn")
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("3 tensors of 24,704 bytes") and "pos (table, 8,192 bytes)" in line


def test_include_makes_a_table_a_weight(bare: Path) -> None:
    model = tersenet.compress(bare, "rtn", include=("pos", "w"))
    assert isinstance(model.tensors["pos"], QTensor)
    with pytest.raises(WeightError, match="mask"):
        tersenet.compress(bare, "rtn", include=("mask",))


def test_exclude_does_not_round_a_table(bare: Path) -> None:
    assert torch.equal(tersenet.compress(bare, "rtn", exclude=("*",)).state_dict()["pos"], POSITIONS)


class Buffered(nn.Module):
    """A classifier of digits with a random projection and a mask as buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 32), nn.Linear(32, 10)
        self.second, self.third = nn.Linear(32, 32), nn.Linear(32, 32)
        self.register_buffer("projection", torch.randn(64, 64) / 8)
        self.register_buffer("mask", MASK.clone())

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1) @ self.projection + self.mask.exp()[0]
        return self.last(torch.relu(self.third(torch.relu(self.second(torch.relu(self.first(x)))))))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", EVERY)
def test_no_method_touches_a_buffer_of_the_module(name: str, task: Task) -> None:
    network, few = Buffered().eval(), replace(task, train=list(task.split("train"))[:2])
    model = tersenet.compress(network, example(name), module=network, task=few)
    assert isinstance(model.tensors["second.weight"], QTensor)
    for name in ("projection", "mask"):
        entry = model.tensors[name]
        assert isinstance(entry, KeptTensor) and entry.reason == "buffer"
        assert torch.equal(entry.dequantize(), network.get_buffer(name))


def test_a_buffer_is_kept_even_if_it_is_included() -> None:
    assert isinstance(tersenet.compress(Buffered(), "rtn", include=("*",)).tensors["projection"], KeptTensor)


def test_a_parameter_that_is_trained_is_a_weight_and_a_frozen_table_is_none() -> None:
    network = nn.Module()
    network.trained, network.frozen = nn.Parameter(POSITIONS), nn.Parameter(POSITIONS.clone(), False)
    source, _ = open_inputs(network, None)
    assert (source.specs["trained"].computed, source.specs["frozen"].computed) == ("", "table")


def test_statistics_of_batch_norm_are_no_buffers_to_keep_exactly() -> None:
    source, _ = open_inputs(nn.BatchNorm2d(64), None)
    assert not any(spec.computed for spec in source.specs.values())
