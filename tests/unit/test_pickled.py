"""What torch.save wrote is read safely and right; what is no checkpoint is told what it is."""

import io
import pickle
import random
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tersenet
from tersenet import Checkpoint
from tersenet.errors import CheckpointError, TersenetError
from tersenet.files import pickled
from tersenet.files.checkpoint import open_checkpoint

torch.manual_seed(0)
STATE = {f"layer{i}.weight": torch.randn(50, 30) for i in range(6)}


def repacked(
    path: Path, compressed: Callable[[str], int], content: Callable[[str, bytes], bytes] | None = None
) -> None:
    """The zip archive written again, each entry by the method that `compressed` gives it."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data if content is None else content(name, data), compressed(name))


@pytest.mark.parametrize("which", ["", "data/3", "data.pkl"], ids=["all", "one weight", "the pickle"])
def test_a_deflated_archive_is_read_right(tmp_path: Path, which: str) -> None:
    torch.save({"model": STATE}, tmp_path / "x.pt")
    repacked(tmp_path / "x.pt", lambda name: zipfile.ZIP_DEFLATED if name.endswith(which) else zipfile.ZIP_STORED)
    source = open_checkpoint(tmp_path / "x.pt")
    assert all(torch.equal(source.read(name), value) for name, value in STATE.items())


def test_a_stored_archive_is_mapped_and_the_format_before_torch_1_6_is_read(tmp_path: Path, monkeypatch: Any) -> None:
    mapped, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *a, mmap, **k: mapped.append(mmap) or load(*a, mmap=mmap, **k))
    torch.save(STATE, tmp_path / "new.pt")
    torch.save(STATE, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    new, old = open_checkpoint(tmp_path / "new.pt"), open_checkpoint(tmp_path / "old.pt")
    assert mapped == [True, False]
    assert new.digest() == old.digest()


class Runs:
    """An object whose unpickling writes a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.place, "executed")


class Shell:
    """An object whose unpickling runs a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("false",)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_in_a_pickle_is_executed(tmp_path: Path, old: bool, protocol: int) -> None:
    for bad in (Runs(tmp_path / "made"), Shell(), {"model": STATE, "x": Runs(tmp_path / "made")}, eval, [Shell()]):
        torch.save(bad, tmp_path / "x.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=not old)
        with pytest.raises(CheckpointError, match=r"x\.pt"):
            open_checkpoint(tmp_path / "x.pt")
    assert not (tmp_path / "made").exists()


def test_a_checkpoint_with_foreign_objects_is_told_the_line_that_works(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": STATE, "model": nn.Linear(3, 2), "epoch": 2}, "x.pt")
    with pytest.raises(CheckpointError, match=r"holds more than tensors \(torch.nn.modules.linear.Linear\)") as caught:
        open_checkpoint("x.pt")
    run_advice(str(caught.value))
    assert set(open_checkpoint(Checkpoint("weights.pt", key="state_dict")).specs) == set(STATE)
    assert set(open_checkpoint(Checkpoint("weights.pt", key="model")).specs) == {"weight", "bias"}


def run_advice(message: str) -> None:
    """Run the line of code in an error message."""
    exec(message.partition('python -c "')[2].rpartition('"')[0], {})


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
def test_a_whole_module_is_told_the_line_that_works(tmp_path: Path, monkeypatch: Any, old: bool) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(nn.Linear(3, 2), "x.pt", _use_new_zipfile_serialization=not old)
    with pytest.raises(CheckpointError, match=r"is a whole pickled torch\.nn\.modules\.linear\.Linear") as caught:
        open_checkpoint("x.pt")
    run_advice(str(caught.value))
    assert set(open_checkpoint("weights.pt").specs) == {"weight", "bias"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_told_the_line_that_works(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.save(torch.jit.trace(nn.Linear(3, 2), torch.ones(1, 3)), "x.pt")
    for name in ("x.pt", "x"):
        Path("x.pt").rename(name)
        with pytest.raises(CheckpointError, match="TorchScript archive") as caught:
            open_checkpoint(name)
    run_advice(str(caught.value))
    assert set(open_checkpoint("weights.pt").specs) == {"weight", "bias"}


def test_numpy_arrays_are_told_the_line_that_works(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", weight=np.ones((3, 2), np.float32))
    with pytest.raises(CheckpointError, match="archive of NumPy arrays") as caught:
        open_checkpoint("x.npz")
    run_advice(str(caught.value))
    assert set(open_checkpoint("weights.pt").specs) == {"weight"}


ONNX = bytes.fromhex("0808120770797463") + b"orch\x1a\x032.1:\x00" + bytes(40)  # ir_version 8, producer "pytorch"


def zipped(**parts: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.onnx", ONNX, r"an ONNX model.*onnx\.load\('x\.onnx'\)"),
        ("x.pt", ONNX, r"an ONNX model"),
        ("x.h5", b"\x89HDF\r\n\x1a\n" + bytes(50), r"HDF5.*keras\.models\.load_model\('x\.h5'\)"),
        ("x.keras", zipped(**{"config.json": b"{}", "model.weights.h5": b""}), r"a Keras model.*load_model"),
        ("x.ckpt.index", b"\0" * 40, r"TensorFlow checkpoint.*list_variables\('x\.ckpt'\)"),
        ("x.ckpt.data-00000-of-00001", b"\1" * 40, r"TensorFlow checkpoint.*list_variables\('x\.ckpt'\)"),
        ("saved_model.pb", b"\x08\x01\x12\x90", r"TensorFlow"),
        ("x.tflite", b"\x1c\0\0\0TFL3" + bytes(20), "TensorFlow Lite"),
        ("x.gguf", b"GGUF\3\0\0\0" + bytes(20), r"GGUF file.*from_pretrained"),
        ("x.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        ("x.pt.gz", b"\x1f\x8b\x08" + bytes(20), "packed with gzip"),
        ("x.tar", bytes(257) + b"ustar" + bytes(300), "tar archive"),
        ("x.zip", zipped(readme=b"hello"), r"zip archive, but no torch checkpoint \(it holds readme\)"),
        ("x.pkl", pickle.dumps({"w": 1.0}, 4), r"x\.pkl is damaged or no torch checkpoint"),
        ("x.html", b"<!DOCTYPE html><html>not found</html>", r"begins with b'<!DOCTYPE ht'"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.count(".") < 3 and len(value) < 20 else "",
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
def test_a_truncated_or_damaged_pickle_is_a_typed_error_or_opens(tmp_path: Path, old: bool) -> None:
    content = {"model": {"a": torch.randn(3, 4), "b": torch.arange(5)}, "epoch": 1, "name": "x"}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=not old)
    whole, draw, refused = (tmp_path / "x.pt").read_bytes(), random.Random(0), 0
    cuts = [whole[: draw.randrange(1, len(whole) - 1)] for _ in range(60)]
    flips = []
    for _ in range(240):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        flips.append(bytes(flipped))
    for data in [*cuts, *flips]:
        (tmp_path / "y.pt").write_bytes(data)
        try:
            source = open_checkpoint(tmp_path / "y.pt")
            for name in source.specs:
                source.read(name)
        except TersenetError as error:
            assert "y.pt" in str(error)
            refused += 1
    assert refused > 60


def test_nested_content_neither_recurses_nor_explodes(tmp_path: Path) -> None:
    loop: dict[str, Any] = {"model": STATE}
    loop["again"], loop["list"] = loop, [[]]
    loop["list"][0].append(loop["list"])
    laughs: Any = ["ha"] * 10
    for _ in range(12):
        laughs = [laughs] * 10
    wide: Any = STATE
    for _ in range(3):
        wide = {f"k{i}": wide for i in range(60)}
    for name, extra in {"loop": loop, "laughs": laughs}.items():
        torch.save({"model": STATE, name: extra}, tmp_path / "x.pt")
        assert set(open_checkpoint(tmp_path / "x.pt").specs) == set(STATE)
    torch.save({"model": STATE, "deep": 77}, tmp_path / "x.pt")
    nest = b"]" * 100_000 + b"a" * 99_999
    repacked(tmp_path / "x.pt", lambda name: zipfile.ZIP_STORED, lambda name, part: part.replace(b"KM", nest))
    assert open_checkpoint(tmp_path / "x.pt").layout["content"] == {"model": {}}
    torch.save({"model": STATE, "wide": wide}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"x\.pt: it holds more than 1000 networks"):
        open_checkpoint(tmp_path / "x.pt")


def test_a_small_file_never_claims_large_tensors(tmp_path: Path, monkeypatch: Any) -> None:
    torch.save({"w": torch.zeros(1).expand(1 << 20, 1 << 12)}, tmp_path / "view.pt")
    with pytest.raises(CheckpointError, match=r"claims 17,179,869,184 bytes"):
        open_checkpoint(tmp_path / "view.pt")
    monkeypatch.setattr(pickled, "FREE", 1 << 20)
    torch.save({"w": torch.zeros(1 << 20)}, tmp_path / "bomb.pt")
    repacked(tmp_path / "bomb.pt", lambda name: zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"claims 4,19\d,\d+ bytes of content"):
        open_checkpoint(tmp_path / "bomb.pt")


def test_a_storage_that_claims_more_than_its_entry_is_refused(tmp_path: Path) -> None:
    for old in (False, True):
        torch.save({"w": torch.arange(1500.0)}, tmp_path / "x.pt", _use_new_zipfile_serialization=not old)
        data = (tmp_path / "x.pt").read_bytes()
        assert b"M\xdc\x05" in data
        forged = data.replace(b"M\xdc\x05", b"J\xff\xff\xff\x7f")
        if old:
            (tmp_path / "x.pt").write_bytes(forged)
        else:
            repacked(
                tmp_path / "x.pt",
                lambda name: zipfile.ZIP_STORED,
                lambda name, part: part.replace(b"M\xdc\x05", b"J\xff\xff\xff\x7f"),
            )
        with pytest.raises(CheckpointError, match=r"x\.pt"):
            open_checkpoint(tmp_path / "x.pt")


def test_no_call_with_a_number_allocates(tmp_path: Path) -> None:
    torch.save({"model": STATE, "x": 77}, tmp_path / "x.pt")
    call = b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R"
    repacked(tmp_path / "x.pt", lambda name: zipfile.ZIP_STORED, lambda name, part: part.replace(b"KM", call))
    with pytest.raises(CheckpointError, match=r"x\.pt asks for a bytearray"):
        open_checkpoint(tmp_path / "x.pt")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_two_entries_of_one_name_is_refused(tmp_path: Path) -> None:
    torch.save({"model": STATE}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt", "a") as archive:
        archive.writestr("X/data.pkl", b"")
    with pytest.raises(CheckpointError, match=r"two entries of one name"):
        open_checkpoint(tmp_path / "x.pt")


def test_an_ordered_dict_with_its_metadata_is_a_plain_state_dict(tmp_path: Path) -> None:
    state = nn.Sequential(nn.Linear(3, 2)).state_dict()
    assert isinstance(state, OrderedDict) and hasattr(state, "_metadata")
    torch.save(state, tmp_path / "x.pt")
    assert open_checkpoint(tmp_path / "x.pt").layout == {}


def test_garbage_is_called_damaged_not_dangerous(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(bytes(range(256)) * 20)
    with pytest.raises(CheckpointError, match="damaged"):
        tersenet.compress(tmp_path / "x.pt", "rtn")
