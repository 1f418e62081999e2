"""Hugging Face folders: what is taken in, what stays out, and what may come out of a file."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import tersenet
from tersenet.api import compress_file
from tersenet.core.model import CompressedModel, KeptTensor
from tersenet.errors import CheckpointError, FormatError, OutputError
from tersenet.files.checkpoint import Checkpoint, open_checkpoint
from tersenet.files.checkpoint_write import write_checkpoint
from tersenet.files.names import check_paths
from tersenet.methods import get

STATE = {"a": torch.randn(16, 16), "b": torch.randn(16, 16)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with a configuration."""
    where = tmp_path / "model"
    where.mkdir()
    save_file(STATE, where / "model.safetensors")
    (where / "config.json").write_text("{}")
    return where


def names_of(where: Path, **reading: Any) -> set[str]:
    return set(open_checkpoint(Checkpoint(where, **reading)).attachments)


def test_a_file_that_lies_outside_is_left_out_and_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a key")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.txt").write_text("x")
    (folder / "notes.txt").symlink_to(tmp_path / "secret")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    (folder / "gone.txt").symlink_to(tmp_path / "nothing")
    (folder / "inside.txt").symlink_to(folder / "config.json")
    for attach in ((), ("*",)):
        with pytest.warns(UserWarning, match=r"left out: gone\.txt \(no regular file\); more, notes\.txt \(leads out"):
            assert names_of(folder, attach=attach) == {"config.json", "inside.txt"}


def test_a_snapshot_of_the_cache_is_read_through_its_links_and_no_others(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "1f"
    blobs.mkdir(parents=True), snapshot.mkdir(parents=True)
    save_file(STATE, blobs / "w")
    (blobs / "c").write_text("{}")
    (tmp_path / "models--a--c").mkdir()
    (tmp_path / "models--a--c" / "other").write_text("other")
    for name, target in {
        "model.safetensors": "blobs/w",
        "config.json": "blobs/c",
        "x.txt": "../models--a--c/other",
    }.items():
        (snapshot / name).symlink_to(Path("../..") / target)
    with pytest.warns(UserWarning, match=r"left out: x\.txt \(leads out of the folder\)"):
        source = open_checkpoint(snapshot)
    assert set(source.attachments) == {"config.json"} and set(source.specs) == set(STATE)


def test_a_shard_may_be_a_link_to_a_file_anywhere(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(tmp_path / "large")
    (folder / "model.safetensors").symlink_to(tmp_path / "large")
    assert torch.equal(open_checkpoint(folder).read("a"), STATE["a"])


RISKY = [
    "modeling_x.py",
    "training_args.bin",
    "optimizer.pt",
    "x.pkl",
    "a/b.SO",
    ".env",
    ".git/hooks/pre-commit",
    "c.ckpt",
]


@pytest.mark.filterwarnings("ignore:model. left out")
def test_code_pickles_and_hidden_files_come_in_only_if_asked_for(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in RISKY:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    with pytest.warns(UserWarning, match=r'b\.SO, modeling_x\.py \(can hold code\).*attach="GLOB"'):
        assert names_of(folder) == {"config.json"}
    assert names_of(folder, attach="*") == {"config.json", *RISKY}
    with pytest.warns(UserWarning, match="left out"):
        assert names_of(folder, attach=("*.py", ".env")) == {"config.json", "modeling_x.py", ".env"}


def test_other_weights_are_left_out_with_a_line_and_no_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("tf_model.h5", "model.fp16.safetensors", ".gitattributes"):
        (folder / name).write_bytes(b"x")
    with caplog.at_level(logging.INFO, "tersenet"):
        assert names_of(folder) == {"config.json"}
    (line,) = [record.getMessage() for record in caplog.records]
    assert "left out: .gitattributes, model.fp16.safetensors, tf_model.h5" in line


def test_what_was_asked_for_must_be_asked_for_again(folder: Path, tmp_path: Path) -> None:
    (folder / "modeling_x.py").write_text("print()")
    compress_file(Checkpoint(folder, attach="*.py"), tmp_path / "x.terse", get("rtn")())
    model = tersenet.load(tmp_path / "x.terse")
    with pytest.raises(FormatError, match=r"modeling_x\.py.*attach='modeling_x\.py'"):
        write_checkpoint(model, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    write_checkpoint(model, tmp_path / "back", attach="*.py")
    assert (tmp_path / "back" / "modeling_x.py").read_text() == "print()"
    write_checkpoint(model, tmp_path / "only.safetensors")


def test_an_adapter_beside_a_model_is_attached_unchanged(folder: Path, tmp_path: Path) -> None:
    save_file({"lora": torch.randn(16, 16)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")
    compress_file(folder, tmp_path / "x.terse", get("rtn")())
    model = tersenet.load(tmp_path / "x.terse")
    assert set(model.tensors) == set(STATE)
    write_checkpoint(model, tmp_path / "back")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (folder / name).read_bytes()


def test_an_adapter_beside_a_pickled_model_is_attached_too(folder: Path) -> None:
    torch.save(STATE, folder / "pytorch_model.bin")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")
    source = open_checkpoint(folder)
    assert set(source.specs) == set(STATE)
    assert set(source.attachments) == {"config.json", "adapter_config.json", "adapter_model.safetensors"}


def test_an_adapter_alone_is_a_checkpoint(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")
    source = open_checkpoint(folder)
    assert set(source.specs) == set(STATE) and source.layout["shards"] == {"adapter_model.safetensors": ["a", "b"]}


def sharded(where: Path, weight_map: dict[str, Any]) -> Path:
    """A folder of two shards, and an index that says what it likes."""
    where.mkdir()
    for shard, name in (("1.safetensors", "a"), ("2.safetensors", "b")):
        save_file({name: STATE[name]}, where / shard)
    (where / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return where


@pytest.mark.parametrize(
    ("weight_map", "says"),
    [
        ({"a": "1.safetensors", "b": "2.safetensors", "c": "2.safetensors"}, "names 1 tensors that are not there"),
        ({"a": "2.safetensors", "b": "1.safetensors"}, "tensor a is in|tensor 'a' is in"),
        ({"a": "../model/1.safetensors"}, "leads out"),
        ({"a": "1.safetensors", "b": 3}, "names no shards"),
        ({}, "names no shards"),
        ([], "not an index"),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_refused(tmp_path: Path, weight_map: Any, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        open_checkpoint(sharded(tmp_path / "model", weight_map))


HOSTILE = ["/x", "..", ".", "", "a/", "a//b", "../x", "a/../../x", ".. /x", "a\\b", "C:x", "C:\\x", "a\0", "a\nb",
           "a\x1b[2J", "a\ud800", "a\u202eb", "x" * 256, "/".join("a" * 40), "é" * 128, "\u2028"]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_name_that_is_no_file_of_the_folder_is_refused_both_ways(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a file called"):
        check_paths([name])
    for layout, attachments in (({"m.safetensors": ["w"]}, {name: b""}), ({name: ["w"]}, {})):
        model = CompressedModel(
            {"w": KeptTensor(torch.ones(2), torch.float32, "")}, layout={"shards": layout}, attachments=attachments
        )
        with pytest.raises(FormatError, match="it is damaged, or was not made by tersenet"):
            write_checkpoint(model, tmp_path / "back")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a\nb", "a\\b", "é" * 125 + "\u202e"], ids=ascii)
def test_a_folder_with_such_a_name_is_refused_with_advice(folder: Path, name: str) -> None:
    (folder / name).write_text("")
    with pytest.raises(CheckpointError, match="rename or move it"):
        open_checkpoint(folder)


LAYOUTS: dict[str, tuple[Any, dict[str, bytes], str]] = {
    "a tensor left out": ({"m.safetensors": ["a"]}, {}, "without 1 of the tensors"),
    "a tensor twice in one": ({"m.safetensors": ["a", "b", "a"]}, {}, "writes tensor 'a' twice"),
    "a tensor in two": ({"m.safetensors": ["a", "b"], "n.safetensors": ["a"]}, {}, "writes tensor 'a' twice"),
    "a tensor of nowhere": ({"m.safetensors": ["a", "b", "c"]}, {}, "no tensor of the file"),
    "no list": ({"m.safetensors": "ab"}, {}, "no tensor of the file"),
    "no text": ({"m.safetensors": [["a"]]}, {}, "no tensor of the file"),
    "a list": (["a", "b"], {}, "a layout that is none"),
    "code": ({"m.py": ["a", "b"]}, {}, "must end in"),
    "a folder": ({"a/m.safetensors": ["a", "b"]}, {}, "must end in"),
    "an attachment over a shard": ({"m.safetensors": ["a", "b"]}, {"m.safetensors": b"x"}, "two files called"),
    "an attachment in a shard": ({"m.safetensors": ["a", "b"]}, {"m.safetensors/x": b"x"}, "both a file and a folder"),
    "a false index": (
        {"m.safetensors": ["a", "b"]},
        {"model.safetensors.index.json": b'{"weight_map": {"a": "other.safetensors"}}'},
        "tensor 'a' is in",
    ),
    "an index of another shard": (
        {"m.safetensors": ["a", "b"]},
        {"model.safetensors.index.json": b'{"weight_map": {"c": "config.json"}}'},
        "no shard is called",
    ),
    "an index that is none": (
        {"m.safetensors": ["a", "b"]},
        {"model.safetensors.index.json": b"[]"},
        "index of shards",
    ),
}


@pytest.mark.parametrize(("shards", "attachments", "says"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_layout_that_is_no_partition_is_refused(
    shards: Any, attachments: dict[str, bytes], says: str, tmp_path: Path
) -> None:
    tensors = {name: KeptTensor(value, value.dtype, "") for name, value in STATE.items()}
    with pytest.raises(FormatError, match=says):
        write_checkpoint(
            CompressedModel(tensors, layout={"shards": shards}, attachments=attachments), tmp_path / "back"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_layout_that_is_no_partition_is_not_saved(tmp_path: Path) -> None:
    tensors = {name: KeptTensor(value, value.dtype, "") for name, value in STATE.items()}
    with pytest.raises(OutputError, match="no reader takes it: a layout without 1 of the tensors"):
        tersenet.save(CompressedModel(tensors, layout={"shards": {"m.safetensors": ["a"]}}), tmp_path / "x.terse")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["rtn", "vlcq"])
def test_a_folder_of_shards_has_them_back_whatever_compressed_it(method: str, tmp_path: Path) -> None:
    model = sharded(tmp_path / "model", {"a": "1.safetensors", "b": "2.safetensors"})
    tersenet.save(tersenet.compress(model, method), tmp_path / "x.terse")
    write_checkpoint(tersenet.load(tmp_path / "x.terse"), tmp_path / "back")
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == sorted(path.name for path in model.iterdir())
    for shard, name in (("1.safetensors", "a"), ("2.safetensors", "b")):
        assert set(load_file(tmp_path / "back" / shard)) == {name}


def test_tied_tensors_count_in_a_layout(tmp_path: Path) -> None:
    tensors = {"a": KeptTensor(STATE["a"], torch.float32, "")}
    for shards, right in (({"m.safetensors": ["a", "b"]}, True), ({"m.safetensors": ["a"]}, False)):
        model = CompressedModel(tensors, {"b": "a"}, layout={"shards": shards})
        if right:
            write_checkpoint(model, tmp_path / "back")
            assert set(load_file(tmp_path / "back" / "m.safetensors")) == {"a", "b"}
        else:
            with pytest.raises(FormatError, match="without 1"):
                write_checkpoint(model, tmp_path / "back", overwrite=True)


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    source, out = tmp_path / "hf", tmp_path / "keep"
    source.mkdir(), out.mkdir()
    save_file({"w": torch.randn(32, 32)}, source / "model.safetensors")
    (out / "thesis.txt").write_text("years of work")
    small = tersenet.compress(source, "rtn")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        write_checkpoint(small, out, overwrite=True)
    assert (out / "thesis.txt").read_text() == "years of work"


def test_a_forged_layout_is_a_format_error(tmp_path: Path) -> None:
    small = tersenet.compress(nn.Linear(64, 64), "rtn")
    for layout in ({"shards": {"a": ["nope"]}}, {"shards": 3}, {"metadata": {"a": 1}}):
        forged = tersenet.CompressedModel(small.tensors, layout=layout)
        with pytest.raises(FormatError):
            write_checkpoint(forged, tmp_path / "out.safetensors")
