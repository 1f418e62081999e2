"""Parts: what is being written lies beside its target, locked, until it is renamed to it.

A part is called `.TARGET.0123abcd.part`. One that is not locked was left by a process that was killed: whoever writes
to the same target next removes it. A folder that gives way to a new one where the filesystem cannot exchange two names
at once is called `.TARGET.0123abcd.old` for a moment: after a kill in that moment it is put back. Where there are no
locks (some network filesystems), nobody can tell, and nothing is removed.
"""

import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .lock import claim, is_at, unshared

NOREPLACE, EXCHANGE = 1, 2  # flags of Linux's renameat2
_HERE = -100  # AT_FDCWD
_NOT_OFFERED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
_LONGEST = 230  # bytes of a target's name inside a part's; the system allows 255 for all of it


@contextmanager
def part_of(target: Path, *, folder: bool = False) -> Iterator[tuple[Path, int]]:
    """A new file (or folder) beside `target` and its descriptor, locked; deleted at the end if it is still there.

    **Raises** `OSError`.
    """
    recover(target)
    path, descriptor = _new(target, folder)
    try:
        with unshared(descriptor):
            yield path, descriptor
    finally:
        try:
            remove(path)
        finally:
            _close(descriptor)


def recover(target: Path) -> None:
    """Remove what killed processes left beside `target`, and put back a folder that was giving way to a new one."""
    ours = re.compile(rf"\.{re.escape(_stem(target))}\.[0-9a-f]{{8}}\.(part|old)")
    with suppress(OSError):
        for entry in list(os.scandir(target.parent)):
            whole = ours.fullmatch(entry.name)
            if whole and (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
                with suppress(OSError):
                    _recover(Path(entry.path), target, whole[1] == "old")


def place(part: Path, target: Path, *, overwrite: bool) -> None:
    """Rename `part` to `target`; with `overwrite` in the place of what is there.

    **Raises** `FileExistsError`, `OSError`. A folder that is replaced is deleted. Without `overwrite`, of two processes
    one gets the name: by `renameat2`, or where that is not offered by creating an empty target first (a kill between
    the two calls leaves it).
    """
    if not overwrite:
        _rename_new(part, target)
    elif part.is_dir() and target.is_dir():
        _exchange(part, target)
    else:
        os.replace(part, target)


def remove(path: Path) -> None:
    """Delete a file or folder as far as the system lets us."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _stem(target: Path) -> str:
    name = os.fsencode(target.name)
    return target.name if len(name) <= _LONGEST else hashlib.sha256(name).hexdigest()


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f".{_stem(target)}.{secrets.token_hex(4)}.{kind}")


def _new(target: Path, folder: bool) -> tuple[Path, int]:
    """A locked part, private while it may replace something that is private. Another process may take it for a dead
    one's in the moment before it is locked: then again."""
    private = 0o700 if target.exists() else 0o777
    while True:
        path = _beside(target, "part")
        if folder:
            path.mkdir(private)
        try:
            flags = os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT | os.O_EXCL
            descriptor = os.open(path, flags | os.O_CLOEXEC, private & 0o666)
        except OSError as error:
            if folder:
                remove(path)
                if isinstance(error, FileNotFoundError):
                    continue
            raise
        try:
            if _may_use(descriptor, path):
                return path, descriptor
        except BaseException:
            _close(descriptor)
            remove(path)
            raise
        _close(descriptor)


def _close(descriptor: int) -> None:
    with suppress(OSError):
        os.close(descriptor)


def _may_use(descriptor: int, path: Path) -> bool:
    try:
        return claim(descriptor) and is_at(descriptor, path)
    except OSError:
        return True  # no locks here


def _recover(path: Path, target: Path, old: bool) -> None:
    descriptor = os.open(path, (os.O_RDONLY if path.is_dir() else os.O_RDWR) | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if claim(descriptor):
            if old and not os.path.lexists(target):
                os.rename(path, target)
            else:
                remove(path)
    finally:
        os.close(descriptor)


def _rename_new(part: Path, target: Path) -> None:
    if _renameat2(part, target, NOREPLACE):
        return
    if part.is_dir():
        os.rename(part, target)  # which refuses every target but an empty folder
        return
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    try:
        os.replace(part, target)
    except OSError:
        remove(target)
        raise


def _exchange(part: Path, target: Path) -> None:
    if _renameat2(part, target, EXCHANGE):
        return  # what was the target is deleted as the part
    old = _beside(target, "old")
    held = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError), unshared(held):
            claim(held)
        os.rename(target, old)
        try:
            os.rename(part, target)
        except OSError:
            os.rename(old, target)
            raise
        remove(old)
    finally:
        os.close(held)


def _renameat2(source: Path, target: Path, flag: int) -> bool:
    """Rename with a flag; False where the system or the filesystem does not offer that. **Raises** `OSError`."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    if call(_HERE, os.fsencode(source), _HERE, os.fsencode(target), ctypes.c_uint(flag)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_OFFERED:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))
