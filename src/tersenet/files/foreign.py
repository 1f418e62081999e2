"""What a checkpoint is, told by its content: names such as `.pth.tar` or none at all tell nothing."""

import zipfile
from pathlib import Path
from typing import Literal

from ..errors import CheckpointError

_SAVE = "import torch; torch.save({}, 'weights.pt')"
_HEADS = {
    b"\x89HDF\r\n\x1a\n": (
        "an HDF5 file (Keras, TensorFlow)",
        "import keras; "
        + _SAVE.format("{{w.path: torch.tensor(w.numpy()) for w in keras.models.load_model('{name}').weights}}"),
    ),
    b"GGUF": (
        "a GGUF file",
        "from transformers import AutoModelForCausalLM as A; "
        "A.from_pretrained('{folder}', gguf_file='{name}').save_pretrained('folder')",
    ),
    b"\x93NUMPY": ("one NumPy array", "import numpy; " + _SAVE.format("{{'x': torch.tensor(numpy.load('{name}'))}}")),
}
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_ONNX = "import onnx.numpy_helper as n; " + _SAVE.format(
    "{{t.name: torch.tensor(n.to_array(t)) for t in n.onnx.load('{name}').graph.initializer}}"
)
_SCRIPT = _SAVE.format("torch.jit.load('{name}', 'cpu').state_dict()")
_EXPORT = _SAVE.format("torch.export.load('{name}').state_dict")
_ARRAYS = "import numpy; " + _SAVE.format("{{k: torch.tensor(v) for k, v in numpy.load('{name}').items()}}")
_KERAS = _HEADS[b"\x89HDF\r\n\x1a\n"][1]
_TENSORFLOW = "import tensorflow as tf; " + _SAVE.format(
    "{{n: torch.tensor(tf.train.load_variable('{stem}', n)) for n, _ in tf.train.list_variables('{stem}')}}"
)


def kind_of(path: Path) -> Literal["safetensors", "zip", "pickle"]:
    """Which of the kinds that can be read the file at `path` is.

    **Raises** `CheckpointError` that says what it is instead, and the line of code that makes a checkpoint of it.
    """
    with path.open("rb") as stream:
        head = stream.read(512)
    if path.suffix == ".safetensors" or (head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40):
        return "safetensors"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        _check_zip(path)
        return "zip"
    if head.startswith(b"\x80"):
        return "pickle"
    for start, (what, line) in _HEADS.items():
        if head.startswith(start):
            raise _foreign(path, what, line)
    for start, packer in _PACKED.items():
        if head.startswith(start):
            raise CheckpointError(f"{path} is packed with {packer}: unpack it first")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a pointer of Git LFS, not the file itself: fetch it with git lfs pull")
    if head[4:8] == b"TFL3":
        raise CheckpointError(f"{path} is a TensorFlow Lite model: give the checkpoint it was made from")
    if path.suffix in (".index", ".meta", ".pb") or ".data-0" in path.name:
        raise _foreign(path, "part of a TensorFlow checkpoint", _TENSORFLOW)
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x3a", b"\x42")):
        raise _foreign(path, "an ONNX model", _ONNX)
    if head[257:262] == b"ustar":
        raise CheckpointError(f"{path} is a tar archive: unpack it and give the checkpoint inside")
    raise CheckpointError(
        f"{path} is damaged or no checkpoint (it begins with {head[:12]!r}): give what torch.save or safetensors wrote"
    )


def _check_zip(path: Path) -> None:
    names = [entry.filename for entry in entries(path)]
    inside = [name.partition("/")[2] for name in names]
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        raise _foreign(path, "a TorchScript archive (a program with its weights)", _SCRIPT)
    if "archive_format" in inside or any(name.startswith("serialized_exported_program") for name in names):
        raise _foreign(path, "a program saved with torch.export", _EXPORT)
    if names and all(name.endswith(".npy") for name in names):
        raise _foreign(path, "an archive of NumPy arrays", _ARRAYS)
    if "model.weights.h5" in names:
        raise _foreign(path, "a Keras model", _KERAS)
    if "data.pkl" not in inside:
        some = ", ".join(names[:3]) or "nothing"
        raise CheckpointError(f"{path} is a zip archive, but no torch checkpoint (it holds {some}): unpack it first")


def entries(path: Path) -> list[zipfile.ZipInfo]:
    """The directory of a zip archive. **Raises** `CheckpointError` for one that is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = archive.infolist()
    except Exception as error:  # zipfile raises many kinds for a forged directory
        raise CheckpointError(f"{path} is damaged or no torch checkpoint ({error}): fetch or save it again") from error
    if len({entry.filename.lower() for entry in found}) < len(found):
        raise CheckpointError(f"{path} has two entries of one name, as no writer makes them: fetch or save it again")
    return found


def _foreign(path: Path, what: str, line: str) -> CheckpointError:
    code = line.format(
        name=path.name, folder=path.parent, stem=path.name.partition(".data-0")[0].removesuffix(".index")
    )
    return CheckpointError(f'{path} is {what}, not a checkpoint. This makes one of it: python -c "{code}"')
