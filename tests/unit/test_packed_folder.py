"""A compressed folder: what lies in it, what is refused, and that commands take it where they take a file."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tersenet
from tersenet import methods
from tersenet.api import compress_file
from tersenet.cli import main
from tersenet.errors import FormatError, OutputError, UsageError
from tersenet.files.checkpoint_write import write_checkpoint
from tersenet.files.names import CONTAINER
from tersenet.search.within import compress_within

RTN = methods.get("rtn")(bits=4)
CONFIG = {"architectures": ["TinyModel"], "torch_dtype": "bfloat16"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as Hugging Face has it."""
    place = tmp_path / "net"
    place.mkdir()
    torch.manual_seed(0)
    save_file(nn.Linear(20, 20).bfloat16().state_dict(), place / "model.safetensors", {"format": "pt"})
    (place / "config.json").write_text(json.dumps(CONFIG))
    (place / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    (place / "vocab.txt").write_text("a\nb\n")
    return place


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_has_the_weights_in_one_container_and_the_rest_beside_it(folder: Path, tmp_path: Path) -> None:
    size = compress_file(folder, f"{tmp_path}/small/", RTN)
    found = files(tmp_path / "small")
    assert set(found) == {CONTAINER, "config.json", "README.md", "vocab.txt"} and len(found[CONTAINER]) == size
    assert found["vocab.txt"] == b"a\nb\n"
    config = json.loads(found["config.json"])
    assert config == CONFIG | {"dtype": "bfloat16", "quantization_config": {"quant_method": "terse"}}
    readme = found["README.md"].decode()
    assert readme.startswith("---\nlicense: mit\n---\n\n# Compressed with tersenet") and readme.endswith("# Mine\n")
    assert "import tersenet" in readme and "from transformers import TinyModel" in readme


def test_the_dtype_is_that_of_the_first_floats_where_the_config_does_not_say(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").write_text("{}")
    compress_file(folder, f"{tmp_path}/small/", RTN)
    assert json.loads((tmp_path / "small" / "config.json").read_text())["dtype"] == "bfloat16"


def test_everything_comes_back(folder: Path, tmp_path: Path) -> None:
    compress_file(folder, f"{tmp_path}/small/", RTN)
    compress_file(folder, tmp_path / "small.terse", RTN)
    for place in ("small", "small.terse"):
        write_checkpoint(tersenet.load(tmp_path / place), tmp_path / f"{place}.plain")
    one, other = (files(tmp_path / f"{place}.plain") for place in ("small", "small.terse"))
    assert one == other and {key: one[key] for key in one if key != "model.safetensors"} == {
        key: value for key, value in files(folder).items() if key != "model.safetensors"
    }


def test_commands_take_the_folder_as_they_take_the_file(folder: Path, tmp_path: Path, capsys: Any) -> None:
    small = f"{tmp_path}/small/"
    for command in (["compress", str(folder), "-o", small, "--method", "rtn"], ["inspect", small], ["verify", small]):
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert not stop.value.code
    assert "everything decodes" in capsys.readouterr().out
    net = tersenet.load_into(tmp_path / "small", nn.Linear(20, 20).bfloat16())
    assert torch.equal(net.weight, tersenet.load(tmp_path / "small").state_dict()["weight"])


def test_a_search_makes_the_folder_of_its_best_file(folder: Path, tmp_path: Path) -> None:
    outcome = compress_within(folder, f"{tmp_path}/small/", RTN, max_bytes=1300)
    assert outcome.holds and (tmp_path / "small.terse").stat().st_size == outcome.best.bytes
    ours, theirs = (tersenet.load(tmp_path / place).state_dict() for place in ("small", "small.terse"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(OutputError, match="exists"):
        compress_within(folder, f"{tmp_path}/small/", RTN, max_bytes=1300)


def test_a_folder_is_for_a_network_that_transformers_loads(folder: Path, tmp_path: Path) -> None:
    small = f"{tmp_path}/small/"
    with pytest.raises(UsageError, match=r"there is no config\.json"):
        compress_file(folder / "model.safetensors", small, RTN)
    with pytest.raises(UsageError, match=r"there is no config\.json"):
        tersenet.save(tersenet.compress(nn.Linear(20, 20), "rtn"), small)
    for said, message in (
        ({"quantization_config": {"quant_method": "awq"}}, "quantised \\(awq\\)"),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "quantised \\(fp8\\)"),
        ([], "no JSON object"),
    ):
        (folder / "config.json").write_text(json.dumps(said))
        with pytest.raises(UsageError, match=message):
            compress_file(folder, small, RTN)
    assert not (tmp_path / "small").exists()


def test_what_is_there_stays_unless_it_may_be_replaced(folder: Path, tmp_path: Path) -> None:
    small = f"{tmp_path}/small/"
    compress_file(folder, small, RTN)
    with pytest.raises(OutputError, match="exists"):
        compress_file(folder, small, RTN)
    compress_file(folder, small, RTN, overwrite=True)
    (tmp_path / "small" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"other files \(mine.txt\)"):
        compress_file(folder, small, RTN, overwrite=True)
    with pytest.raises(OutputError, match="what is read"):
        compress_file(folder, f"{folder}/", RTN, overwrite=True)


def test_a_folder_without_a_container_is_no_compressed_one(folder: Path) -> None:
    with pytest.raises(FormatError, match=CONTAINER):
        tersenet.load(folder)
