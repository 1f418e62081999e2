"""Checkpoints of every kind are read without running code, and written back as they were."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import nn

import tersenet
from tersenet.core.model import CompressedModel, KeptTensor
from tersenet.errors import CheckpointError, FormatError, OutputError
from tersenet.files.checkpoint import open_checkpoint, open_module
from tersenet.files.checkpoint_write import write_checkpoint

STATE = {
    "a.weight": torch.randn(4, 3),
    "b": torch.arange(6, dtype=torch.int64).reshape(2, 3),
    "c": torch.randn(2, 2).bfloat16(),
    "d": torch.tensor(True),
    "e": torch.zeros(0, 5),
}


def kept(path: Path) -> CompressedModel:
    """The checkpoint as a compressed model that keeps everything."""
    source = open_checkpoint(path)
    tensors = {name: KeptTensor(source.read(name), spec.dtype, "test") for name, spec in source.specs.items()}
    return CompressedModel(tensors, source.aliases, {}, source.layout, source.attachments)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def test_a_safetensors_file_comes_back_equal_with_its_metadata(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "x.safetensors", {"format": "pt", "made": "by hand"})
    write_checkpoint(kept(tmp_path / "x.safetensors"), tmp_path / "y.safetensors")
    assert same(load_file(tmp_path / "y.safetensors"), STATE)
    from safetensors import safe_open

    with safe_open(tmp_path / "y.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt", "made": "by hand"}


def test_a_sharded_folder_comes_back_file_by_file(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    shards = {"model-1.safetensors": ["a.weight", "b"], "model-2.safetensors": ["c", "d", "e"]}
    for shard, names in shards.items():
        save_file({name: STATE[name] for name in names}, folder / shard, {"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": {n: s for s, names in shards.items() for n in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text("{}")
    (folder / "tokens").mkdir()
    (folder / "tokens" / "vocab.txt").write_bytes(b"\x00\xffa")
    write_checkpoint(kept(folder), tmp_path / "back")
    assert sorted(p.relative_to(folder) for p in folder.rglob("*")) == sorted(
        p.relative_to(tmp_path / "back") for p in (tmp_path / "back").rglob("*")
    )
    for shard, names in shards.items():
        assert same(load_file(tmp_path / "back" / shard), {name: STATE[name] for name in names})
    assert (tmp_path / "back" / "tokens" / "vocab.txt").read_bytes() == b"\x00\xffa"


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"epoch": 3, "state_dict": s}], ids=["plain", "wrapped"])
def test_a_pickled_state_dict_is_found_and_tied_tensors_stay_tied(tmp_path: Path, wrap) -> None:
    shared = torch.randn(3, 3)
    torch.save(wrap({"module.a": shared, "module.b": shared, "module.c": shared.t()}), tmp_path / "x.pt")
    source = open_checkpoint(tmp_path / "x.pt")
    assert list(source.specs) == ["a", "c"] and source.aliases == {"b": "a"}
    assert torch.equal(source.read("c"), shared.t())


def test_a_pickle_that_needs_code_is_refused_with_the_line_that_converts_it(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"could run any code.*weights_only=False"):
        open_checkpoint(tmp_path / "x.pt")


def test_transposed_convolutions_have_their_channels_on_axis_1() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 4, 3))
    axes = {name: spec.axis for name, spec in open_module(net).specs.items()}
    assert (axes["0.weight"], axes["1.weight"]) == (0, 1)


def shaped(shape: list[int]) -> bytes:
    """A safetensors file with a tensor of no elements."""
    header = json.dumps({"e": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.safetensors", b"", "is empty"),
        ("text.safetensors", b"hello, this is no checkpoint at all", "not a readable safetensors file"),
        ("shape.safetensors", shaped([0, 1 << 63]), r"tensor e has shape \[0, 9223372036854775808\], which no tensor"),
        ("product.safetensors", shaped([0, 1 << 62, 1 << 62]), "which no tensor can have"),
        ("short.pt", b"PK\x03\x04", "damaged or no torch checkpoint"),
        ("list.pt", pickle.dumps([1, 2], 2), "damaged|no state dict|could run any code"),
    ],
)
def test_a_bad_file_is_explained(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        open_checkpoint(tmp_path / name)


def test_a_missing_file_and_a_missing_shard_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        open_checkpoint(tmp_path / "nothing.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    with pytest.raises(CheckpointError, match=r"gone\.safetensors"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "."])
def test_a_hostile_file_name_never_leaves_the_output_folder(tmp_path: Path, name: str) -> None:
    model = CompressedModel({}, layout={"shards": {"m.safetensors": []}}, attachments={name: b"x"})
    with pytest.raises(FormatError, match=r"leads out|no name"):
        write_checkpoint(model, tmp_path / "back")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_kept_without_overwrite(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"precious")
    with pytest.raises(OutputError, match="overwrite=True"):
        write_checkpoint(CompressedModel({}), tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == b"precious"


class Tied(nn.Module):
    """An embedding that is also the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(40, 16), nn.Linear(16, 40, bias=False)
        self.head.weight = self.embed.weight


def test_a_tied_tensor_that_the_checkpoint_left_out_is_no_mismatch(tmp_path: Path) -> None:
    net = Tied()
    save_model(net, str(tmp_path / "x.safetensors"))
    tersenet.save(tersenet.compress(tmp_path / "x.safetensors", "rtn", module=Tied()), tmp_path / "x.terse")
    with torch.device("meta"):
        empty = Tied()
    for target in (Tied(), empty):
        back = tersenet.load(tmp_path / "x.terse").apply_to(target)
        assert back.head.weight is back.embed.weight and not back.head.weight.is_meta


def test_a_renamed_terse_file_is_recognised(tmp_path: Path) -> None:
    tersenet.save(tersenet.compress(nn.Linear(64, 64), "rtn"), tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="compressed"):
        tersenet.compress(tmp_path / "x.safetensors", "rtn")
