"""Checkpoints as tensor sources: `.safetensors`, a Hugging Face folder, what torch.save wrote, a live module.

Nothing in a checkpoint is executed.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from ..core.method import TensorSource
from ..core.model import TensorSpec
from ..errors import CheckpointError
from .folder import open_folder
from .foreign import kind_of
from .pickled import open_pickle
from .prefixes import renamed
from .safe import FileSource, open_files
from .state import StateSource, from_state
from .wrapping import wrap


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint at `path`, and how to read it where its content alone does not tell.

    `key` names the state dict among several ("ema", "model.state_dict"), `strip_prefix` what stands in front of the
    network's own names ("" keeps all names as they are), `ignore_keys` one or more globs of tensors to leave out,
    `attach` one or more globs of files of a folder to take in although they hold code or pickles, or are hidden.

    >>> Checkpoint("run.ckpt", key="state_dict", ignore_keys="criterion.*").file.name
    'run.ckpt'
    """

    path: str | Path
    key: str | None = None
    strip_prefix: str | None = None
    ignore_keys: str | tuple[str, ...] = ()
    attach: str | tuple[str, ...] = ()

    @property
    def file(self) -> Path:
        """The path as a `Path`."""
        return Path(self.path)


Where = str | Path | Checkpoint


def as_tuple(globs: str | tuple[str, ...]) -> tuple[str, ...]:
    """One glob, or several, as a tuple."""
    return (globs,) if isinstance(globs, str) else tuple(globs)


def checkpoint_at(where: Where) -> Checkpoint:
    """`where` as a `Checkpoint`."""
    return where if isinstance(where, Checkpoint) else Checkpoint(where)


def open_checkpoint(where: Where, module: nn.Module | None = None) -> TensorSource:
    """The checkpoint at `where`, with the names that `module` knows.

    `module`, where given, tells the channel axes, the prefix in front of its names, and which buffers it no longer
    has (see `prefixes.renamed`). What was detected is logged, in one line each.

    **Raises** `CheckpointError` if there is nothing there that can be read safely, or more than one network.
    """
    checkpoint = checkpoint_at(where)
    source = _opened(checkpoint)
    common = ("module.", "model.") if "pytorch-lightning_version" in wrap(source.layout, {}) else ("module.",)
    try:
        named, said = renamed(source, module, checkpoint.strip_prefix, as_tuple(checkpoint.ignore_keys), common)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
    if said:
        logging.getLogger("tersenet").info("%s: %s", checkpoint.file.name, said)
    return named if module is None else replace(named, specs=_with_axes(named.specs, module))


def _opened(checkpoint: Checkpoint) -> "FileSource | StateSource":
    where = checkpoint.file
    if where.is_dir():
        source: FileSource | StateSource = open_folder(where, as_tuple(checkpoint.attach))
    elif not where.is_file():
        raise CheckpointError(f"{where}: no such file or folder; give a .safetensors, .pt, .pth or a model folder")
    elif where.stat().st_size == 0:
        raise CheckpointError(f"{where} is empty (0 bytes): the download or the copy has failed")
    elif where.suffix == ".terse":
        raise CheckpointError(f"{where} is already compressed: decompress it first (tersenet decompress)")
    elif kind_of(where) != "safetensors":
        return open_pickle(where, checkpoint.key)
    else:
        source = open_files({where.name: where})
    if checkpoint.key is not None:
        raise CheckpointError(f"{where} is one state dict without wrapping: leave out key={checkpoint.key!r}")
    return source


def open_module(module: nn.Module) -> StateSource:
    """The parameters and buffers of a live module."""
    source = from_state(module.state_dict(), {})
    return replace(source, specs=_with_axes(source.specs, module))


def _with_axes(specs: Mapping[str, TensorSpec], module: nn.Module) -> dict[str, TensorSpec]:
    """`specs` with axis 1 for the weights of transposed convolutions and of Hugging Face's Conv1D."""
    transposed = {
        f"{path}.weight" if path else "weight"
        for path, part in module.named_modules()
        if type(part).__name__.startswith("ConvTranspose") or type(part).__name__ == "Conv1D"
    }
    return {name: replace(spec, axis=1) if name in transposed else spec for name, spec in specs.items()}
