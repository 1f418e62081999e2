"""The golden file of version 1 opens forever, and a reader written from docs/format.md alone agrees with ours."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tersenet.core.model import QTensor
from tersenet.files.terse import load, save
from tersenet.verifier import read

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "data")]
from make_golden import model  # noqa: E402

GOLDEN = TESTS / "data" / "golden.terse"


def check(path: Path) -> None:
    theirs, ours = read(str(path)), load(path)
    inputs = {f"input of {path}" for path in ours.activations}
    assert theirs.keys() == {*ours.tensors, *ours.aliases, *inputs, *("file:" + name for name in ours.attachments)}
    for path, activation in ours.activations.items():
        assert theirs[f"input of {path}"][1] == activation.scale
    for name, entry in ours.tensors.items():
        if isinstance(entry, QTensor):
            assert np.array_equal(theirs[name], entry.grid.decode(entry.codes).numpy()), name
        else:
            stored = entry.tensor.view(torch.uint16) if entry.tensor.dtype == torch.bfloat16 else entry.tensor
            assert np.array_equal(theirs[name], stored.numpy()) and theirs[name].dtype == stored.numpy().dtype, name
    for name, content in ours.attachments.items():
        assert theirs["file:" + name].tobytes() == content


def test_the_golden_file_still_decodes_to_what_was_written() -> None:
    expected, found = model(), load(GOLDEN)
    assert found.activations == expected.activations
    assert found.aliases == expected.aliases and found.attachments == expected.attachments
    assert list(found.tensors) == list(expected.tensors)
    for name, entry in expected.tensors.items():
        assert torch.equal(found.tensors[name].dequantize(), entry.dequantize()), name


def test_the_golden_file_holds_every_coder_and_grid() -> None:
    from tersenet.files.reader import Reader

    records = Reader(GOLDEN).index.records.values()
    assert {part.coder for record in records for part in record.codes} == {0, 1, 2, 3}
    assert {record.grid for record in records} == {"uniform", "codebook", "fixed", "outer", "blocks", "bases", ""}
    assert {record.storage for record in records if not record.grid} == {0, 1, 2}


def test_a_reader_written_from_the_page_alone_agrees_on_the_golden_file() -> None:
    check(GOLDEN)


@pytest.mark.parametrize("effort", ["fast", "best"])
def test_a_reader_written_from_the_page_alone_agrees_on_a_fresh_file(tmp_path: Path, effort: str) -> None:
    save(model(), tmp_path / "x.terse", effort=effort)
    check(tmp_path / "x.terse")


def test_a_reader_written_from_the_page_alone_agrees_on_many_states(tmp_path: Path) -> None:
    from tersenet import CompressedModel, QTensor, Uniform

    codes = torch.randn(300, 400, generator=torch.Generator().manual_seed(0)).mul(2).round().to(torch.int8)
    save(CompressedModel({"x": QTensor(codes, Uniform(torch.tensor(0.5)))}), tmp_path / "x.terse")
    check(tmp_path / "x.terse")


def test_the_golden_card_is_still_that_of_its_file() -> None:
    from tersenet import card
    from tersenet.files.results import results_of
    from tersenet.verifier import check as compare

    file = GOLDEN.with_name("golden_measured.terse")
    saved = json.loads(file.with_suffix(".card.json").read_text("utf-8"))
    found = results_of(file)
    assert found is not None and found.n == 64 and found.worst == (3, 0.125)
    assert compare(file, saved) == [] and compare(file, card(file)) == []
    assert {key: card(file)[key] for key in ("identity", "weights", "left_out", "result")} == {
        key: saved[key] for key in ("identity", "weights", "left_out", "result")
    }
