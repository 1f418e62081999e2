"""Writing a file or folder so that a failure at any moment leaves the old one, or nothing."""

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..errors import OutputError, UsageError
from .parts import part_of, place

KINDS = {stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def check_output(path: str | Path, source: str | Path | None = None, *, overwrite: bool) -> Path:
    """Where an output called `path` goes: a symbolic link to something is followed.

    **Raises** `OutputError` if it exists (without `overwrite`), has no folder, cannot be a name, is a device, a pipe, a
    socket or a link to nothing, or (with `overwrite`, too) if it is what is read: `source`, or in the folder `source` a
    file that is no `.terse`.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"got a {type(path).__name__} as output: expected a path")
    shown = str(path) if len(str(path)) <= 200 else f"{str(path)[:200]}..."
    try:
        target = _followed(Path(path))
        if not target.parent.is_dir():
            raise OutputError(f"{target.parent} is not a folder: create it first")
        if not target.name:
            raise OutputError(f"{target} is the root of the file system: give the name of a file or folder")
        found = _stat(target)
        if found is None:
            return target
        if source is not None and _is_part_of(target, found, Path(source)):
            raise OutputError(f"{shown} is what is read: give another output")
    except (OSError, ValueError) as error:
        raise OutputError(f"{shown} cannot be written: {getattr(error, 'strerror', None) or error}") from error
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "no file")
        raise OutputError(f"{shown} is {kind}: give the name of a file or folder")
    if not overwrite:
        raise OutputError(f"{shown} exists: give another output, or overwrite=True to replace it")
    return target


@contextmanager
def replacing_file(path: str | Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """A stream into a file beside `path`, which is synced and takes its name at the end, and is deleted on any
    exception. A replaced file keeps its mode.

    **Raises** `OutputError` as `check_output` does, if the system refuses to write (full disk), and without `overwrite`
    if somebody else was there first. An exception of the body that has another cause passes through as it is.
    """
    target = check_output(path, overwrite=overwrite)
    if target.is_dir():
        raise OutputError(f"{target} is a folder: give the name of a file")
    with ExitStack() as stack:
        with _reported(target):
            part, descriptor = stack.enter_context(part_of(target))
        with _recorded(descriptor, target) as stream:
            yield stream
        with _reported(target):
            _keep_mode(descriptor, target)
            os.fsync(descriptor)
            place(part, target, overwrite=overwrite)
        _sync_folder(target.parent, target)


@contextmanager
def replacing_folder(path: str | Path, *, overwrite: bool) -> Iterator["NewFolder"]:
    """A folder beside `path`, which takes its name at the end, and is deleted on any exception.

    **Raises** `OutputError` as `replacing_file` does, and if the old folder holds files that the new one does not.
    """
    target = check_output(path, overwrite=overwrite)
    if target.is_file():
        raise OutputError(f"{target} is a file: give the name of a folder")
    with ExitStack() as stack:
        with _reported(target):
            part, descriptor = stack.enter_context(part_of(target, folder=True))
        yield NewFolder(part, target)
        with _reported(target):
            if target.is_dir() and overwrite:
                _check_replaceable(target, part)
                _keep_mode(descriptor, target)
            for folder, _, _ in os.walk(part):
                _sync_folder(Path(folder), target)
            place(part, target, overwrite=overwrite)
        _sync_folder(target.parent, target)


class NewFolder:
    """A folder at `path` that is being written and will be called `target`."""

    def __init__(self, path: Path, target: Path) -> None:
        self._path, self._target = path, target

    @contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        """A stream into the new file `name` (with slashes: in folders inside), synced at the end.

        **Raises** `OutputError` if `name` leads out of the folder or was there already, or as `replacing_file` does.
        """
        with _reported(self._target):
            try:
                path = self._path / name
                inside = path.resolve().is_relative_to(self._path.resolve()) and path.resolve() != self._path.resolve()
            except ValueError as error:
                raise OutputError(f"the file names {name!r}, which cannot be the name of a file: {error}") from error
            if not inside:
                raise OutputError(
                    f"the file names {name!r}, which leads out of the output folder: it was not made by tersenet"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            except FileExistsError:
                raise OutputError(f"the file names {name!r} twice: it was not made by tersenet") from None
        try:
            _keep_mode(descriptor, self._target / name)
            with _recorded(descriptor, self._target) as stream:
                yield stream
            with _reported(self._target):
                os.fsync(descriptor)
        finally:
            with suppress(OSError):
                os.close(descriptor)


class RecordingFile(io.FileIO):
    """A file that remembers whether writing to it failed: whoever writes may report that as something else."""

    failed: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write bytes."""
        try:
            return super().write(data)
        except OSError as error:
            self.failed = self.failed or error
            raise


@contextmanager
def _recorded(descriptor: int, target: Path) -> Iterator[BinaryIO]:
    """A buffered stream to `descriptor`. If writing fails, that is what is raised, whatever the body makes of it."""
    raw = RecordingFile(descriptor, "r+b", closefd=False)
    stream = cast(BinaryIO, io.BufferedRandom(raw))
    try:
        yield stream
        stream.flush()
    except Exception as error:
        if raw.failed is None:
            raise
        raise _not_written(target, raw.failed) from error
    finally:
        raw.close()  # what is still in the buffer is nobody's any more
    if raw.failed is not None:
        raise _not_written(target, raw.failed)


@contextmanager
def _reported(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise OutputError(
                f"{target} exists now: somebody else wrote it in the meantime; give another output, or overwrite=True"
            ) from error
        raise _not_written(target, error) from error


def _not_written(target: Path, error: OSError) -> OutputError:
    return OutputError(f"{target} was not written: {error.strerror or error}; nothing was changed")


def _followed(path: Path) -> Path:
    if path.is_symlink():
        real = Path(os.path.realpath(path))
        if _stat(real) is None:
            raise OutputError(f"{path} is a link to {real}, where there is nothing: give the name of a file or folder")
        return real
    return path if path.name not in ("", "..") else path.resolve()


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _is_part_of(target: Path, found: os.stat_result, source: Path) -> bool:
    """Whether the output is the same file or folder as `source`, by whatever name, or a file of its that is read."""
    there = _stat(source)
    if there is None or os.path.samestat(found, there):
        return there is not None
    if not stat.S_ISDIR(there.st_mode) or stat.S_ISDIR(found.st_mode) or target.suffix == ".terse":
        return False
    return any(os.path.samestat(found, status) for file in source.rglob("*") if (status := _stat(file)) is not None)


def _keep_mode(descriptor: int, target: Path) -> None:
    """Give a part the mode of what it replaces, where there is that and the filesystem has modes."""
    with suppress(OSError):
        os.fchmod(descriptor, stat.S_IMODE(target.stat().st_mode) & 0o777)


def _check_replaceable(old: Path, new: Path) -> None:
    """**Raises** `OutputError` if `old` has files that `new` does not have: they would be lost."""
    lost = sorted(
        {p.relative_to(old) for p in old.rglob("*") if p.is_file()} - {p.relative_to(new) for p in new.rglob("*")}
    )
    if lost:
        names = ", ".join(map(str, lost[:5]))
        raise OutputError(
            f"{old} holds {len(lost)} other files ({names}), which overwrite=True would delete: move them first"
        )


def _sync_folder(folder: Path, target: Path) -> None:
    """Make sure that names in `folder` stay after a power cut, where the system offers that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        return  # a folder that may be written but not read
    except OSError as error:
        raise _unsure(target, error) from error
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise _unsure(target, error) from error
    finally:
        os.close(descriptor)


def _unsure(target: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{target} may not be there after a power cut: its folder could not be synced: {error.strerror or error}"
    )
