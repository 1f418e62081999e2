"""What an output may be called, what becomes of the file that was there, and who wins when two write."""

import errno
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tersenet.errors import OutputError
from tersenet.files import parts
from tersenet.files.atomic import check_output, replacing_file, replacing_folder


def write(path: Path | str, content: bytes = b"new", overwrite: bool = False) -> None:
    with replacing_file(path, overwrite=overwrite) as stream:
        stream.write(content)


def write_folder(path: Path, names: tuple[str, ...] = ("a", "b/c"), overwrite: bool = False) -> None:
    with replacing_folder(path, overwrite=overwrite) as folder:
        for name in names:
            with folder.file(name) as stream:
                stream.write(b"new")


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can become longer than `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)


@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pipe", "is a pipe"),
        ("socket", "is a socket"),
        ("/dev/null", "is a device"),
        ("to device", "is a device"),
        ("dangling", "is a link to .*, where there is nothing"),
        ("loop", "link|symbolic"),
        ("n\0l", "cannot be written"),
        ("\ud800", "cannot be written"),
        ("x" * 300, "too long"),
        ("gone/x", "is not a folder"),
        ("file/x", "is not a folder"),
        ("/", "is the root"),
    ],
)
def test_an_output_that_is_no_place_for_a_file_is_refused(
    tmp_path: Path, name: str, says: str, overwrite: bool
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(tmp_path / "socket"))
    (tmp_path / "to device").symlink_to("/dev/null")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_bytes(b"")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(OutputError, match=says):
        write(os.path.join(tmp_path, name), overwrite=overwrite)
    with pytest.raises(OutputError):
        write_folder(Path(os.path.join(tmp_path, name, "")), overwrite=overwrite)
    assert sorted(os.listdir(tmp_path)) == before and not (tmp_path / "nothing").exists()


def test_a_name_of_the_greatest_length_is_written_and_replaced(tmp_path: Path) -> None:
    for name in ("x" * 255, "\udcff.terse", "a[b]*?.terse", ".terse"):
        write(tmp_path / name)
        write(tmp_path / name, b"newer", overwrite=True)
        assert (tmp_path / name).read_bytes() == b"newer"
    assert len(os.listdir(tmp_path)) == 4


def test_a_link_to_a_file_is_followed_and_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("far/real")
    with pytest.raises(OutputError, match="exists"):
        write(tmp_path / "link")
    write(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "far" / "real").read_bytes() == b"new"
    assert os.listdir(tmp_path / "far") == ["real"]


def test_a_replaced_file_keeps_its_mode_and_a_new_one_follows_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write(tmp_path / "new")
        write_folder(tmp_path / "folder")
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
        assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750
        assert stat.S_IMODE((tmp_path / "folder" / "b" / "c").stat().st_mode) == 0o640
        (tmp_path / "new").chmod(0o604)
        (tmp_path / "folder").chmod(0o705)
        (tmp_path / "folder" / "b" / "c").chmod(0o444)
        write(tmp_path / "new", overwrite=True)
        write_folder(tmp_path / "folder", overwrite=True)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o604
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o705
    assert stat.S_IMODE((tmp_path / "folder" / "b" / "c").stat().st_mode) == 0o444


def test_the_input_is_never_the_output(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "model.safetensors").write_bytes(b"weights")
    (source / "old.terse").write_bytes(b"old")
    (tmp_path / "link").symlink_to(source / "model.safetensors")
    (tmp_path / "hard").hardlink_to(source / "model.safetensors")
    (tmp_path / "folder").symlink_to(source)
    file = source / "model.safetensors"
    for output, read in (
        (file, file),
        (tmp_path / "link", file),
        (tmp_path / "hard", file),
        (file, tmp_path / "link"),
        (source / ".." / "in" / "model.safetensors", file),
        (source, source),
        (tmp_path / "folder", source),
        (file, source),
        (tmp_path / "hard", source),
    ):
        with pytest.raises(OutputError, match="is what is read"):
            check_output(output, read, overwrite=True)
    assert check_output(source / "new.terse", source, overwrite=False) == source / "new.terse"
    assert check_output(source / "old.terse", source, overwrite=True) == source / "old.terse"


@pytest.mark.parametrize("offered", [True, False], ids=["renameat2", "elsewhere"])
def test_of_two_that_write_without_overwrite_one_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offered: bool
) -> None:
    if not offered:
        monkeypatch.setattr(parts, "_renameat2", lambda *given: False)
    for name, put in (("file", write), ("folder", write_folder)):
        opened = replacing_file if name == "file" else replacing_folder
        with pytest.raises(OutputError, match="exists now"), opened(tmp_path / name, overwrite=False):
            put(tmp_path / name)
    assert (tmp_path / "file").read_bytes() == b"new" and (tmp_path / "folder" / "a").read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.parametrize("offered", [True, False], ids=["renameat2", "elsewhere"])
def test_a_folder_is_replaced_unless_files_would_be_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offered: bool
) -> None:
    if not offered:
        monkeypatch.setattr(parts, "_renameat2", lambda *given: False)
    target = tmp_path / "folder"
    target.mkdir()
    (target / "a").write_bytes(b"old")
    write_folder(target, overwrite=True)
    assert (target / "a").read_bytes() == b"new" and os.listdir(tmp_path) == ["folder"]
    (target / "mine").write_bytes(b"mine")
    with pytest.raises(OutputError, match="holds 1 other files"):
        write_folder(target, overwrite=True)
    assert (target / "mine").read_bytes() == b"mine" and os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("name", ["../x", "/etc/x", ".", "a", "a/b", "n\0l", "\ud800", "x" * 300])
def test_a_file_of_a_folder_lies_inside_it_and_has_a_name_of_its_own(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError), replacing_folder(tmp_path / "out", overwrite=False) as folder:
        with folder.file("a") as stream:
            stream.write(b"a")
        with folder.file(name):
            pass
    assert os.listdir(tmp_path) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from tersenet.files import parts
from tersenet.files.atomic import replacing_file, replacing_folder
parts._renameat2 = lambda *given: False
what, path = sys.argv[1], Path(sys.argv[2])
if what == "file":
    with replacing_file(path, overwrite=True) as stream:
        stream.write(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
with replacing_folder(path, overwrite=True) as folder:
    with folder.file("a") as stream:
        stream.write(b"new")
    if what == "folder":
        os.kill(os.getpid(), signal.SIGKILL)
    rename = os.rename
    def killing(source, target):
        rename(source, target)
        os.kill(os.getpid(), signal.SIGKILL)
    os.rename = killing
"""


@pytest.mark.parametrize("what", ["file", "folder", "between the renames"])
def test_what_a_killed_process_left_is_gone_after_the_next(tmp_path: Path, what: str) -> None:
    target, foreign = tmp_path / "x.terse", tmp_path / ".x.terse.part"
    other = tmp_path / ".y.terse.0123abcd.part"
    if what == "file":
        target.write_bytes(b"old")
    else:
        target.mkdir()
        (target / "a").write_bytes(b"old")
    for path in (foreign, other):
        path.write_bytes(b"foreign")
    done = subprocess.run([sys.executable, "-c", KILLED, what, str(target)], check=False)
    assert done.returncode == -signal.SIGKILL and len(os.listdir(tmp_path)) == 4
    if what == "between the renames":
        assert not target.exists()
        with pytest.raises(OutputError, match="holds 1 other files"):
            write_folder(target, ("b",), overwrite=True)  # does not replace it, but puts it back
        assert (target / "a").read_bytes() == b"old"
        write_folder(target, overwrite=True)
    elif what == "folder":
        write_folder(target, overwrite=True)
    else:
        write(target, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == sorted([foreign.name, other.name, target.name])
    assert (target if what == "file" else target / "a").read_bytes() == b"new"


def test_the_part_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    with replacing_file(tmp_path / "x", overwrite=True) as first:
        first.write(b"first")
        write(tmp_path / "x", b"second")
        assert (tmp_path / "x").read_bytes() == b"second"
    assert (tmp_path / "x").read_bytes() == b"first" and os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("size", [0, 1000, 100_000])
@pytest.mark.parametrize("suffix", ["bin", "pt"])
def test_a_full_disk_is_an_output_error_whatever_the_body_makes_of_it(tmp_path: Path, size: int, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(b"old")
    for swallow in (False, True):
        with (
            pytest.raises(OutputError, match="File too large; nothing was changed"),
            full_disk(size),
            replacing_file(path, overwrite=True) as stream,
        ):
            try:
                if suffix == "pt":
                    torch.save({"a": torch.rand(100, 1000)}, stream)
                stream.write(bytes(400_000))
            except Exception:
                if not swallow:
                    raise
        assert path.read_bytes() == b"old" and os.listdir(tmp_path) == [path.name]


def test_the_typed_error_survives_a_cleanup_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("open", "unlink", "rmdir", "mkdir", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, refuse)
            with pytest.raises(OutputError, match="Read-only") if name in ("open", "fsync") else _nothing():
                write(tmp_path / f"file {name}")
    for name in ("mkdir", "open"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, refuse)
            with pytest.raises(OutputError, match="Read-only"):
                write_folder(tmp_path / f"folder {name}")


@contextmanager
def _nothing() -> Iterator[None]:
    yield
