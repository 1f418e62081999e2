"""From a network or a checkpoint to a compressed model: the one entrance for every method."""

import warnings
from collections import deque
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from . import methods
from .analysis.results import measure, split_of
from .core.fields import check_value
from .core.method import Job, Method, RunFolder, TensorSource
from .core.model import CompressedModel, KeptTensor
from .core.task import Task
from .errors import InputError, UsageError
from .files.atomic import check_output
from .files.checkpoint import Checkpoint, Where, checkpoint_at, open_checkpoint, open_module
from .files.packed_folder import check_packable, is_packed, names_folder
from .files.results import record
from .files.terse import Effort, Writing, check_writing, write
from .files.terse import load as open_terse
from .files.transformers_names import fitted
from .network.tables import marked, say_computed
from .network.uses import described
from .training.processes import is_main


def compress(
    what: nn.Module | Where,
    method: str | Method = methods.DEFAULT_METHOD,
    *,
    module: nn.Module | None = None,
    task: Task | None = None,
    run: RunFolder | None = None,
    **fields: Any,
) -> CompressedModel:
    """Compress a module, or the checkpoint at a path, and return the result (in memory; see `tersenet.save`).

    A `Checkpoint` says how to read one that does not tell itself: `Checkpoint("run.pt", key="ema")`. `method` is a name
    with its hyper-parameters as `fields`, or a `Method`. `module` is the network a checkpoint belongs to: its weights
    are replaced by the checkpoint's. `task` is passed on without its test split. `run` is where
    a training keeps its checkpoints, and what it starts from.

    **Raises** `InputError`, `UsageError`, `BudgetError`.

    >>> import torch
    >>> small = compress(torch.nn.Linear(64, 64), "rtn", bits=4)
    >>> sorted(small.state_dict())
    ['bias', 'weight']
    """
    if of_checkpoint := sorted({"key", "strip_prefix", "ignore_keys"} & set(fields)):
        raise UsageError(f"{of_checkpoint[0]} is of the checkpoint, not of the method: give Checkpoint(path, ...)")
    chosen = chosen_method(method, fields)
    opened, network = open_inputs(what, module)
    source = described(opened, network, task)
    check_method(chosen, source, run)
    say_computed(source, chosen)
    return chosen.model(source, chosen.compress(Job(source, network, task and task.for_method(), run)))


def chosen_method(method: str | Method, fields: dict[str, Any]) -> Method:
    """The method that a call names. **Raises** `UsageError`."""
    if isinstance(method, str):
        return methods.get(method)(**fields)
    check_is_method(method)
    if fields:
        raise UsageError(f"the method has its fields already: leave out {', '.join(f'{name}=' for name in fields)}")
    return method


def identified(method: Method, effort: str) -> dict[str, Any]:
    """What tells a method with its fields from others. **Raises** `UsageError` for what is no method or no effort."""
    check_is_method(method)
    check_value("effort", Effort, effort)
    return {"method": method.name, **asdict(method)}


def check_is_method(method: object) -> None:
    """**Raises** `UsageError` for a method's name or class in place of a method."""
    if not isinstance(method, Method):
        raise UsageError(f"method={method!r}: expected a method, such as tersenet.methods.get('rtn')(bits=4)")


def compress_file(
    path: Where,
    output: str | Path,
    method: Method,
    *,
    module: nn.Module | None = None,
    task: Task | None = None,
    run: RunFolder | None = None,
    **writing: Unpack[Writing],
) -> int:
    """Compress the checkpoint at `path` into the file `output`, one tensor at a time; return the file's bytes.

    An `output` that ends in a slash is a folder that transformers loads after `import tersenet`.
    `run` is where a training keeps its checkpoints, and what it starts from. Only the main one of several processes
    writes; the others return 0. `writing` is how a file is written (`Writing`).

    With `module` and a `task` that has a test split (or else validation samples), the file is then decoded from disk
    and measured on it, beside the network before compression, and the results are written into it (unless
    `measured=False`). Nobody else looks at the test split.

    **Raises** what `compress` raises, and `OutputError` (before any work if `output` is what is read, or exists and
    `overwrite` is not given).
    """
    check_writing(writing)
    check_output(output, checkpoint_at(path).path, overwrite=writing.get("overwrite", False))
    opened, network = open_inputs(path, module)
    split = split_of(task) if network is not None and writing.get("measured", True) else None
    source = described(opened, network, task, card_fields=writing.get("card_fields"), results=split is not None)
    check_method(method, source, run)
    if names_folder(output):
        check_packable(source.attachments)
    say_computed(source, method)
    pieces = method.compress(Job(source, network, task and task.for_method(), run))
    if not is_main():
        deque(pieces, maxlen=0)
        return 0
    overwrite, effort = writing.get("overwrite", False), writing.get("effort", "fast")
    size = write(output, pieces, method.model(source, ()), overwrite=overwrite, effort=effort)
    if network is not None and task is not None and split is not None:
        try:
            record(output, measure(output, network, task, split, network)[1].as_json())
        except InputError as error:
            warnings.warn(f"{output} is written, but it was not measured: {error}", stacklevel=2)
    return size


def load(path: str | Path, *, max_output: int | None = None) -> CompressedModel:
    """Open a `.terse` file; tensors are decoded when they are asked for (`load_into` puts them into a network).

    `max_output` is how many bytes the tensors may take (default: the larger of 256 MiB and 250 times the file).

    **Raises** `FormatError` for a damaged or foreign file, `SizeLimitError`.

    >>> import torch
    >>> from tersenet import save
    >>> size = save(compress(torch.nn.Linear(64, 64), "rtn", bits=4), "net.terse")
    >>> load("net.terse").tensors["weight"].codes.max()
    tensor(7, dtype=torch.int8)
    """
    return open_terse(path, max_output=max_output)


def check_method(method: Method, source: TensorSource, run: RunFolder | None) -> None:
    """**Raises** `UsageError` for names that match nothing, and for a run folder of a method that does not train."""
    check_is_method(method)
    if run is not None and method.needs != "training":
        raise UsageError(f"{method.name} does not train: leave out run=")
    for glob in method.include:
        if not any(fnmatchcase(name, glob) for name in source.specs):
            raise UsageError(f"include={glob!r} matches no tensor; the first are {', '.join(list(source.specs)[:5])}")
    for glob in method.layer_bits:
        if not any(fnmatchcase(name, glob) for name in source.specs):
            raise UsageError(f"layer_bits names {glob!r}, which matches no tensor")


def open_inputs(what: nn.Module | Where, module: nn.Module | None) -> tuple[TensorSource, nn.Module | None]:
    """The tensors to compress, and the network with exactly these weights."""
    if isinstance(what, nn.Module):
        return marked(open_module(what), what), what
    if not isinstance(what, str | Path | Checkpoint):
        raise UsageError(
            f"got a {type(what).__name__}: expected a module, a path or a Checkpoint; load a state dict into its module"
        )
    source = marked(open_checkpoint(what, module), module)
    return source, None if module is None else _filled(module, source)


def load_into(path: Where, module: nn.Module, *, max_output: int | None = None) -> nn.Module:
    """`module` with the weights of a `.terse` file or of a checkpoint, in evaluation mode.

    The tensors are decoded one after the other; `module` may be on the meta device. `max_output` is as for `load`.

    **Raises** `KeyMismatchError` if names or shapes differ, and what `load` raises.

    >>> import torch, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     size = save(compress(torch.nn.Linear(64, 64), "rtn", bits=4), f"{folder}/net.terse")
    ...     net = load_into(f"{folder}/net.terse", torch.nn.Linear(64, 64, device="meta"))
    """
    if is_packed(file := checkpoint_at(path).file):
        return fitted(load(file, max_output=max_output), module).apply_to(module).eval()
    return _filled(module, open_checkpoint(path, module))


def _filled(module: nn.Module, source: TensorSource) -> nn.Module:
    kept = {name: KeptTensor(source.read(name), spec.dtype, "") for name, spec in source.specs.items()}
    return CompressedModel(kept, source.aliases).apply_to(module).eval()
