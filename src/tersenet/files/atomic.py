"""Writing a file or folder so that a failure at any moment leaves the old one, or nothing."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import OutputError


def check_free(path: str | Path, *, force: bool) -> Path:
    """`path`, if it may be written. **Raises** `OutputError` if it exists (without `force`) or has no folder."""
    target = Path(path)
    try:
        exists = target.exists()
    except (OSError, ValueError) as error:
        raise OutputError(f"{str(target)[:80]}... cannot be written: {error}") from error
    if exists and not force:
        raise OutputError(f"{target} exists: give another output, or force=True to replace it")
    if not target.parent.is_dir():
        raise OutputError(f"{target.parent} is not a folder: create it first")
    return target


@contextmanager
def replacing_file(path: str | Path, *, force: bool) -> Iterator[BinaryIO]:
    """A temporary file beside `path`, synced and renamed to it at the end, deleted on any exception.

    **Raises** `OutputError` if the target exists (without `force`) or the system refuses to write (full disk).
    """
    target = check_free(path, force=force)
    if target.is_dir():
        raise OutputError(f"{target} is a folder: give the name of a file")
    temporary = _beside(target)
    try:
        with open(temporary, "x+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise OutputError(f"{target} was not written: {error.strerror or error}; nothing was changed") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | Path, *, force: bool) -> Iterator[Path]:
    """A temporary folder beside `path`, renamed to it at the end, deleted on any exception.

    **Raises** `OutputError` as `replacing_file` does.
    """
    target = check_free(path, force=force)
    if target.is_file():
        raise OutputError(f"{target} is a file: give the name of a folder")
    temporary, old = _beside(target), _beside(target)
    try:
        temporary.mkdir()
        yield temporary
        if target.is_dir():
            _check_replaceable(target, temporary)
            os.replace(target, old)
        try:
            os.replace(temporary, target)
        except OSError:
            if old.is_dir():
                os.replace(old, target)
            raise
        _sync_folder(target.parent)
    except OSError as error:
        raise OutputError(f"{target} was not written: {error.strerror or error}; nothing was changed") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _check_replaceable(old: Path, new: Path) -> None:
    """**Raises** `OutputError` if `old` has files that `new` does not have: they would be lost."""
    lost = sorted(
        {p.relative_to(old) for p in old.rglob("*") if p.is_file()} - {p.relative_to(new) for p in new.rglob("*")}
    )
    if lost:
        names = ", ".join(map(str, lost[:5]))
        raise OutputError(f"{old} holds {len(lost)} other files ({names}), which force=True would delete: move them")


def _beside(target: Path) -> Path:
    return target.with_name(f".{secrets.token_hex(4)}.part")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
