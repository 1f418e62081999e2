"""Every call to the system fails once: there is the old file or the new one, no litter, and an error that says so.

What fails is the n-th call of one kind, for every n that there is. `tests/unit/test_atomic.py` has kills, full disks
and read-only places; `tests/hostile/test_kills.py` kills commands.
"""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import tersenet
from tersenet import methods
from tersenet.api import compress_file
from tersenet.errors import OutputError, SizeLimitError
from tersenet.files import atomic, parts
from tersenet.files.checkpoint_write import write_checkpoint
from tersenet.training.run import _read, open_run

PACKAGE = str(Path(tersenet.__file__).parent)
CALLS: dict[str, tuple[Any, str]] = {
    "write": (atomic.RecordingFile, "write"),
    "renameat2": (parts, "_renameat2"),
    **{name: (os, name) for name in ("open", "fsync", "fchmod", "ftruncate", "mkdir", "rename", "replace", "truncate")},
    **{name: (os, name) for name in ("unlink", "rmdir", "scandir")},
}
CLEANING = ("unlink", "rmdir", "scandir")  # if these fail, what is left is removed by the next run


@dataclass
class Fault:
    """The `at`-th call of something raises an error."""

    at: int
    besides: tuple[str, ...]  # folders that are only read
    count: int = 0

    def wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            if given and str(given[0]).startswith(self.besides):
                return real(*given, **more)
            self.count += 1
            if self.count == self.at:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*given, **more)

        return call


@contextmanager
def failing(kind: str, at: int, besides: Path) -> Iterator[Fault]:
    fault, (owner, name) = Fault(at, (str(besides), PACKAGE)), CALLS[kind]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            owner, name, fault.wrap(getattr(owner, name)) if owner is not atomic.RecordingFile else _method(fault)
        )
        yield fault


def _method(fault: Fault) -> Callable[..., Any]:
    """`RecordingFile.write` above a file whose own `write` fails."""
    return lambda raw, data: _recording(raw, data, fault)


def _recording(raw: Any, data: Any, fault: Fault) -> int:
    try:
        return int(fault.wrap(partial(super(atomic.RecordingFile, raw).write))(data))
    except OSError as error:
        raw.failed = raw.failed or error
        raise


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small checkpoint, its compressed file, and that of one with the same names and other values."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("old", "new"):
        torch.manual_seed(len(name) + (name == "new"))
        (folder / name).mkdir()
        save_file({"a.weight": torch.randn(160, 160), "b.bias": torch.randn(3)}, folder / name / "model.safetensors")
        (folder / name / "config.json").write_text(f'{{"name": "{name}"}}')
        compress_file(folder / name, folder / f"{name}.terse", methods.get("rtn")())
    return folder


def compress(source: Path, name: str, out: Path, overwrite: bool) -> None:
    compress_file(source / name, out, methods.get("rtn")(), overwrite=overwrite)


def decompress(source: Path, name: str, out: Path, overwrite: bool) -> None:
    write_checkpoint(tersenet.load(source / f"{name}.terse"), out, overwrite=overwrite)


def train(source: Path, name: str, out: Path, overwrite: bool) -> None:
    with open_run(out, {"bits": 3}, (out / "run.json").is_file()) as run:
        run.log(1, loss=0.0)
        run.save({"model": {"a": torch.full((100, 100), float(len(name) + (name == "new")))}})


ACTIONS: dict[str, tuple[Callable[[Path, str, Path, bool], None], str]] = {
    "compress": (compress, "x.terse"),
    "decompress": (decompress, "x.safetensors"),
    "decompress to pt": (decompress, "x.pt"),
    "decompress to a folder": (decompress, "x"),
    "checkpoint of a training": (train, "run"),
}


def content(path: Path) -> Any:
    """What is at a path, file by file (of a training: in its checkpoint); None if there is nothing."""
    if path.name == "run":
        return _read(path)["model"]["a"][0, 0].item() if (path / "last.pt").is_file() else None  # type: ignore[index]
    if not path.exists():
        return None
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def litter(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob(".*"))


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("replacing", [False, True], ids=["new", "replacing"])
@pytest.mark.parametrize("action", ACTIONS)
def test_any_call_that_fails_leaves_the_old_or_the_new(
    action: str, replacing: bool, kind: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    does, name = ACTIONS[action]
    monkeypatch.setattr("tersenet.training.run._board", lambda folder: None)
    if kind in ("rename", "replace"):
        monkeypatch.setattr(parts, "_renameat2", lambda *given: False)
    (tmp_path / "whole").mkdir()
    does(source, "new", tmp_path / "whole" / name, False)
    new = content(tmp_path / "whole" / name)
    for at in range(1, 1000):
        folder = tmp_path / str(at)
        folder.mkdir()
        if replacing:
            does(source, "old", folder / name, False)
        old = content(folder / name)
        failed: OutputError | None = None
        with failing(kind, at, source) as fault:
            try:
                does(source, "new", folder / name, replacing)
            except OutputError as error:
                failed = error
        found = content(folder / name)
        if fault.count < at:
            assert failed is None and found == new
            return
        assert found in (old, new), (at, failed)
        assert failed is not None or found == new, at
        if failed is not None and "nothing was changed" in str(failed) and action != "checkpoint of a training":
            assert found == old, at
        if kind not in CLEANING and not (found == new and (folder / name).is_dir()):  # the old folder may resist
            assert litter(folder) == [], at
        does(source, "new", folder / name, replacing or (folder / name).exists())
        assert content(folder / name) == new and litter(folder) == [], at
    raise AssertionError("there is no end of calls")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised in a generator's clean-up
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("action", [name for name in ACTIONS if name != "checkpoint of a training"])
def test_a_lack_of_memory_or_an_interruption_at_any_moment_costs_nothing(
    action: str, error: type[BaseException], source: Path, tmp_path: Path
) -> None:
    does, name = ACTIONS[action]
    (tmp_path / "whole").mkdir()
    does(source, "new", tmp_path / "whole" / name, False)
    new, old_out = content(tmp_path / "whole" / name), tmp_path / name
    does(source, "old", old_out, False)
    old = content(old_out)

    def at_call(at: int) -> int:
        """Do it, failing at the `at`-th call of a function of tersenet; how many there were."""
        count = 0

        def profile(frame: FrameType, event: str, argument: object) -> None:
            nonlocal count
            if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
                count += 1
                if count == at:
                    raise error

        sys.setprofile(profile)
        try:
            does(source, "new", old_out, True)
        finally:
            sys.setprofile(None)
        return count

    total = at_call(0)
    for at in range(1, total + 1, max(1, total // 20)):
        does(source, "old", old_out, True)
        with suppress(error, *([SizeLimitError] if error is MemoryError else [])):  # typed while a file is read
            at_call(at)
        assert content(old_out) in (old, new), at
    does(source, "new", old_out, True)
    assert content(old_out) == new and litter(tmp_path) == []
