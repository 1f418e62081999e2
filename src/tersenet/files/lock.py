"""Locks between processes: a file or folder that one process holds at a time, and that its end lets go of."""

import errno
import fcntl
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputError

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what filesystems without locks answer
_ours: set[int] = set()  # descriptors that a forked child must not hold on to


@contextmanager
def locked(path: str | Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` (its folder exists) while the body runs; it is gone afterwards, also after a kill -9
    as far as the next process is concerned.

    `what` is what the lock guards, as the message calls it. The lock is `flock` on the file, so a dead process holds
    nothing; its number and host are written inside for the message only. Where the filesystem has no locks, a warning
    says so and the body runs.

    **Raises** `OutputError` if another process (or another thread of this one) holds it, or the file cannot be made.
    """
    path = Path(path)
    descriptor = _take(path, what)
    try:
        with unshared(descriptor):
            yield
    finally:
        with suppress(OSError):
            path.unlink()
        with suppress(OSError):
            os.close(descriptor)


def claim(descriptor: int) -> bool:
    """Lock an open file or folder until it is closed; False if another holds it. **Raises** `OSError` without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file or folder is what is at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


@contextmanager
def unshared(descriptor: int) -> Iterator[None]:
    """Children that are forked while the body runs get an empty file in the place of this one: they cannot keep its
    lock when we are killed, nor write into it."""
    _ours.add(descriptor)
    try:
        yield
    finally:
        _ours.discard(descriptor)


def _take(path: Path, what: str) -> int:
    """The descriptor of the locked file. The one before us may delete the file while we lock it: then again."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except (OSError, ValueError) as error:
            raise OutputError(f"{what} cannot be locked: {path}: {error}") from error
        try:
            if not _claimed(descriptor, what):
                raise OutputError(
                    f"{what} is in use by {_holder(descriptor)}: wait until it has ended, or give another output"
                )
            if is_at(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
                return descriptor
            os.close(descriptor)
        except OutputError:
            os.close(descriptor)
            raise
        except OSError as error:
            with suppress(OSError):
                path.unlink()
            os.close(descriptor)
            raise OutputError(f"{what} cannot be locked: {path}: {error.strerror or error}") from error


def _claimed(descriptor: int, what: str) -> bool:
    try:
        return claim(descriptor)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warnings.warn(f"this filesystem has no locks: see to it that nothing else uses {what}", stacklevel=6)
        return True


def _holder(descriptor: int) -> str:
    try:
        found = json.loads(os.read(descriptor, 1000))
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(os.fstat(descriptor).st_mtime))
        return f"process {int(found['pid'])} on {str(found['host'])[:100]} since {since}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _let_go() -> None:
    """In a forked child."""
    with suppress(OSError):
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for descriptor in _ours:
            os.dup2(nothing, descriptor, inheritable=False)
        os.close(nothing)
    _ours.clear()


os.register_at_fork(after_in_child=_let_go)
