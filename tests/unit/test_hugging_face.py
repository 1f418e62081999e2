"""`--model auto`: the class that config.json names, found in a folder, beside a file, or in a `.terse` file."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tersenet.cli import main
from tersenet.cli.factory import make_model
from tersenet.errors import UsageError


class TinyModel(nn.Module):
    """What a config of `size` builds."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(config.size, config.size)
        self.register_buffer("position_ids", torch.arange(config.size), persistent=False)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.linear(x)}


class AutoConfig:
    """As transformers has it, for configs of one number."""

    @staticmethod
    def from_pretrained(folder: str, **changes: Any) -> Any:
        content = json.loads((Path(folder) / "config.json").read_text("utf-8"))
        return types.SimpleNamespace(**content | changes)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as Hugging Face has it, with a buffer that the class does not store any more."""
    fake = types.SimpleNamespace(AutoConfig=AutoConfig, TinyModel=TinyModel, __version__="0")
    monkeypatch.setitem(sys.modules, "transformers", fake)
    place = tmp_path / "model"
    place.mkdir()
    torch.manual_seed(0)
    state = {**nn.Linear(20, 20).state_dict(prefix="linear."), "position_ids": torch.arange(20)}
    save_file(state, place / "model.safetensors")
    (place / "config.json").write_text(json.dumps({"architectures": ["TinyModel"], "size": 20}))
    return place


TASK = (
    "import torch\nfrom tersenet import Task\ndef task():\n    x = torch.randn(40, 20)\n    return Task(*[[x]] * 4)\n"
)


def test_a_folder_is_compressed_and_judged_without_any_code(folder: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "mine.py").write_text(TASK)
    task, small = f"{tmp_path}/mine.py:task", str(tmp_path / "small.terse")
    for method in (["vlcq", "--calibrate", "--target-bits", "6"], ["lsq", "--epochs", "1", "--distill", "1"]):
        with pytest.raises(SystemExit) as stop:
            main(
                [
                    "compress",
                    str(folder),
                    "-o",
                    small,
                    "--method",
                    *method,
                    "--model",
                    "auto",
                    "--task",
                    task,
                    "--overwrite",
                ]
            )
        assert not stop.value.code
    for against in ([], ["--against", str(folder)]):
        if against:
            with pytest.raises(SystemExit) as stop:
                main(["eval", small, "--model", "auto", "--task", task, *against])
            assert not stop.value.code
    assert "agreement (same class)" in capsys.readouterr().out


def test_the_config_is_found_in_the_folder_beside_a_file_and_with_changes(folder: Path) -> None:
    for where, beside in (("auto", folder), ("auto", folder / "model.safetensors"), (str(folder), folder.parent)):
        assert isinstance(make_model(where, [], beside), TinyModel)
    net = make_model("auto", ["size=7"], folder)
    assert net.linear.weight.shape == (7, 7) and not net.training  # type: ignore[union-attr]


def test_what_is_missing_is_said(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"no config\.json in or beside"):
        make_model("auto", [], tmp_path / "net.pt")
    config = folder / "config.json"
    config.write_text(json.dumps({"architectures": ["NoSuchModel"]}))
    with pytest.raises(UsageError, match="has no class NoSuchModel"):
        make_model("auto", [], folder)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match="pip install transformers"):
        make_model("auto", [], folder)
    monkeypatch.undo()
    config.write_text("{}")
    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(AutoConfig=AutoConfig, __version__="0"))
    with pytest.raises(UsageError, match="names no class"):
        make_model("auto", [], folder)
