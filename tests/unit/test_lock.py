"""One process at a time: a lock says who holds it, and dies with its process."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tersenet.errors import OutputError
from tersenet.files.lock import locked


def test_a_second_holder_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, "the search of x.terse"):
        held = f"the search of x.terse is in use by process {os.getpid()} on"
        with pytest.raises(OutputError, match=held), locked(path, "the search of x.terse"):
            pass
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path) == []
    with locked(path, "again"):
        pass


HOLDER = """
import os, sys, time
from tersenet.files.lock import locked
with locked(sys.argv[1], "it"):
    if os.fork() == 0:
        print(os.getpid(), flush=True)
    time.sleep(60)
"""


def test_a_killed_process_holds_nothing_though_its_children_live(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            with pytest.raises(OutputError, match=f"process {process.pid} "), locked(path, "it"):
                pass
            process.kill()
            process.wait()
            with locked(path, "it"):
                assert json.loads(path.read_text())["pid"] == os.getpid()
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_filesystem_without_locks_gets_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(UserWarning, match="has no locks"), locked(tmp_path / "lock", "it"):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"pid": "x", "host": 1}'])
def test_a_lock_file_with_foreign_content_is_no_obstacle(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lock"
    path.write_bytes(content)
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="in use by another process"), locked(path, "it"):
            pass
    with locked(path, "it"):
        pass


def test_a_lock_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be locked"), locked(tmp_path / "no folder" / "lock", "it"):
        pass
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="cannot be locked"), locked(tmp_path / "link", "it"):
        pass
