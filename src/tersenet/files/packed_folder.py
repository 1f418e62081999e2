"""A compressed Hugging Face folder: the tensors in one container, the other files beside it as they are.

`config.json` and `README.md` say there how the weights are read, so the originals lie in the container, as does an
index of shards that are not there any more. The container's name is none that transformers takes for weights: without
tersenet it finds no weights, instead of a network that is random.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..core.model import CompressedModel, Item, KeptTensor, QTensor
from ..errors import UsageError
from .atomic import replacing_folder
from .folder import other_files
from .folder_readme import QUANT_METHOD, README, readme
from .names import CONTAINER, INDEXES

CONFIG = "config.json"
CHANGED = (CONFIG, README, *INDEXES)
Write = Callable[[BinaryIO, Iterable[Item], CompressedModel], int]


def names_folder(path: str | Path) -> bool:
    """Whether an output is a folder: text that ends in a slash, or a folder that is there.

    >>> names_folder("small/"), names_folder("small.terse")
    (True, False)
    """
    return str(path).endswith(("/", os.sep)) or os.path.isdir(path)


def file_beside(folder: str | Path) -> Path:
    """The file that a search for the folder keeps its best result in.

    >>> str(file_beside("small/"))
    'small.terse'
    """
    place = Path(folder)
    return place.with_name(f"{place.name}.terse")


def is_packed(path: Path) -> bool:
    """Whether a path is that of a `.terse` file, of a compressed folder, or of the container in one."""
    return path.suffix == ".terse" or path.name == CONTAINER or os.path.isfile(path / CONTAINER)


def write_packed(
    path: str | Path, pieces: Iterable[Item], envelope: CompressedModel, write: Write, *, overwrite: bool
) -> int:
    """Make the folder `path`: the container by `write`, whose size in bytes is returned, and the files beside it.

    **Raises** `UsageError` if `envelope` is not of a folder that transformers loads, `OutputError`.
    """
    check_packable(envelope.attachments)
    dtypes: list[torch.dtype] = []

    def noted() -> Iterable[Item]:
        for name, piece in pieces:
            if isinstance(piece, QTensor | KeptTensor):
                dtypes.append(piece.dtype)
            yield name, piece

    inner = {name: content for name, content in envelope.attachments.items() if name in CHANGED}
    with replacing_folder(path, overwrite=overwrite) as folder:
        with folder.file(CONTAINER) as stream:
            size = write(stream, noted(), replace(envelope, attachments=inner))
        beside = {name: content for name, content in envelope.attachments.items() if name not in inner}
        beside[CONFIG] = _config(envelope.attachments[CONFIG], dtypes)
        beside[README] = readme(envelope, _parsed(envelope.attachments[CONFIG]).get("architectures"))
        for name, content in beside.items():
            with folder.file(name) as stream:
                stream.write(content)
    return size


def unpacked(folder: Path, model: CompressedModel) -> CompressedModel:
    """The model in the container of `folder`, with the files that lie beside it."""
    beside = {name: content for name, content in other_files(folder, [CONTAINER]).items() if name not in CHANGED}
    return replace(model, attachments=beside | dict(model.attachments))


def check_packable(attachments: Mapping[str, bytes]) -> None:
    """**Raises** `UsageError` unless there is a config.json, of a network that is not quantised already."""
    if CONFIG not in attachments:
        raise UsageError(
            f"the output is a folder, which is for Hugging Face folders, and there is no {CONFIG}: name a file, such "
            "as small.terse"
        )
    content = _parsed(attachments[CONFIG])
    for part in (content, *content.values()):
        if isinstance(part, dict) and (already := part.get("quantization_config")):
            method = already.get("quant_method") if isinstance(already, dict) else already
            raise UsageError(
                f"{CONFIG} says that the weights are quantised ({method}), which a folder "
                "cannot say beside ours: give the network as it was before, or name a file, such as small.terse"
            )


def _parsed(config: bytes) -> dict[str, Any]:
    try:
        content = json.loads(config)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{CONFIG} is no JSON ({error}): repair it, or name a file, such as small.terse") from error
    if not isinstance(content, dict):
        raise UsageError(f"{CONFIG} is no JSON object: repair it, or name a file, such as small.terse")
    return content


def _config(original: bytes, dtypes: list[torch.dtype]) -> bytes:
    """The config with what transformers needs to find the weights' reader, and their dtype: where it does not say, that
    of the first that are floats, which transformers takes as well."""
    content = _parsed(original)
    content.pop("transformers_weights", None)
    named = content.get("dtype") or content.get("torch_dtype")
    first = next((dtype for dtype in dtypes if dtype.is_floating_point), torch.float32)
    content["dtype"] = named or str(first).removeprefix("torch.")
    content["quantization_config"] = {"quant_method": QUANT_METHOD}
    return json.dumps(content, indent=2).encode() + b"\n"
