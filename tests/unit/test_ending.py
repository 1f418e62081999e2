"""How a command ends: exit codes and lines for closed streams, interruptions, the user's own errors and ours."""

import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import tersenet.files.summary
from tersenet.cli import ending, main

TERSENET = [sys.executable, "-m", "tersenet"]


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)  # type: ignore[arg-type]


def in_the_middle(monkeypatch: pytest.MonkeyPatch, does: Callable[[], object]) -> None:
    """What `tersenet verify` does instead of verifying."""
    monkeypatch.setattr(tersenet.files.summary, "verify", lambda *given, **more: does())


def raising(error: BaseException) -> Callable[[], object]:
    def does() -> None:
        raise error

    return does


@pytest.mark.parametrize(
    ("to", "code", "says"),
    [
        ("| true", 141, ""),
        (">&-", 1, "tersenet: standard output cannot be written: Bad file descriptor\n"),
        ("> /dev/full", 1, "tersenet: standard output cannot be written: No space left on device\n"),
        (">&- 2>&-", 1, ""),
    ],
)
@pytest.mark.parametrize("command", ["methods", "--help"])
def test_standard_output_that_cannot_be_written_is_no_traceback(command: str, to: str, code: int, says: str) -> None:
    script = f'set -o pipefail; "$0" -m tersenet {command} {to}'
    done = subprocess.run(["bash", "-c", script, sys.executable], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, says)


def test_closed_streams_never_become_the_output_file(tmp_path: Path) -> None:
    script = (
        "import os, sys; from tersenet.cli.ending import streams\n"
        "with streams(), open(sys.argv[1], 'w') as file: assert file.fileno() > 2; print('lost', file=sys.stderr)"
    )
    subprocess.run(
        ["bash", "-c", '"$0" -c "$1" "$2" <&- >&- 2>&-', sys.executable, script, str(tmp_path / "x")], check=True
    )
    assert (tmp_path / "x").read_bytes() == b""


def test_an_interruption_is_exit_code_130_and_one_line(monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    in_the_middle(monkeypatch, raising(KeyboardInterrupt()))
    assert run("verify", "x") == 130
    assert capsys.readouterr() == ("", "tersenet: interrupted\n")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError("1 TB"), "there is not enough memory: 1 TB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 TB"), "there is not enough memory: Default"),
    ],
)
def test_a_lack_of_memory_is_said(error: Exception, says: str, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    in_the_middle(monkeypatch, raising(error))
    assert run("verify", "x", "--json") == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out)["error"] == "MemoryError" and shown.err.startswith(f"tersenet: {says}")


@pytest.mark.parametrize("error", [ValueError("odd\nmore"), EOFError(), OSError(5, "Input/output error", "disk")])
def test_an_error_that_should_not_be_asks_to_be_reported(error: Exception, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    def verify(*given: object, **more: object) -> None:
        raise error

    verify.__code__ = verify.__code__.replace(co_filename=ending.PACKAGE + "files/summary.py")
    monkeypatch.setattr(tersenet.files.summary, "verify", verify)
    assert run("verify", "x", "--json") == 1
    shown = capsys.readouterr()
    told, last = json.loads(shown.out), shown.err.splitlines()[-1]
    assert told["error"] == type(error).__name__ and last == f"tersenet: {told['message']}"
    assert ("Traceback" in shown.err) == (ending.REPORT in last) == (not isinstance(error, OSError))


USER = """
import torch
def at_import(): raise ValueError("mine")
def of_library(): return torch.nn.Linear(3, -1)
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Linear(9, 9)
    def forward(self, x): return self.conv1(x)
"""


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("at_import", "ValueError: mine; not from tersenet, but from {file}, line 3"),
        ("of_library", "RuntimeError: Trying to create tensor with negative dimension -1: [-1, 3]; not from tersenet,"),
    ],
)
def test_an_error_of_the_users_code_is_shown_from_there_on(
    function: str, says: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(USER)
    assert run("compress", checkpoint, "-o", tmp_path / "x.terse", "--model", f"{file}:{function}", "--json") == 1
    shown = capsys.readouterr()
    first, second, *_, last = shown.err.splitlines()
    assert first == "Traceback (most recent call last):" and second.startswith(f'  File "{file}", line')
    assert last.startswith(f"tersenet: {says.format(file=file)}") and ending.PACKAGE not in shown.err
    assert last == f"tersenet: {json.loads(shown.out)['message']}"


def test_a_fault_of_ours_below_the_users_code_is_ours(tmp_path: Path) -> None:
    def theirs(calls: Callable[[], object]) -> object:
        return calls()

    def ours() -> None:
        raise ValueError

    ours.__code__ = ours.__code__.replace(co_filename=ending.PACKAGE + "network/features.py")
    for function, is_theirs in ((raising(ValueError()), True), (ours, False)):
        with pytest.raises(ValueError) as caught:
            theirs(function)
        assert (ending._users(caught.value.__traceback__) is not None) == is_theirs


def test_warnings_and_notes_are_lines_without_source(monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    def does() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("give overwrite=True,\n   or \x1b[2J", stacklevel=1)
        logging.getLogger("tersenet").info("read %s", "state_dict")
        logging.getLogger("tersenet.files").info("and more")
        logging.getLogger("tersenet.progress").debug("1 of 2")
        raise KeyboardInterrupt

    before = logging.getLogger("tersenet").level, warnings.showwarning
    in_the_middle(monkeypatch, does)
    assert run("verify", "x") == 130
    lines = capsys.readouterr().err.splitlines()
    wanted = ["give --overwrite, or \\x1b[2J", "read state_dict", "and more", "interrupted"]
    assert lines == [f"tersenet: {text}" for text in wanted]
    assert (logging.getLogger("tersenet").level, warnings.showwarning) == before


def test_a_name_that_is_no_text_can_be_printed(checkpoint: Path, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff.terse"
    command = [*TERSENET, "compress", str(checkpoint), "-o", name, "--method", "rtn"]
    done = subprocess.run(command, capture_output=True, check=True)  # type: ignore[arg-type]
    assert os.path.isfile(name) and b"\\udcff.terse: " in done.stdout
