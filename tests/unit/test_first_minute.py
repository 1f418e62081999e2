"""What somebody sees who has just installed tersenet."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from tersenet.cli import app, main
from tersenet.methods import names


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.save(torch.nn.Linear(64, 64).state_dict(), "net.pt")
    Path("notes.txt").write_text("hello")
    Path("bad.safetensors").write_text("not one at all")
    return tmp_path


def ends(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return stop.value.code


def test_without_arguments_three_commands_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert not ends()
    said = capsys.readouterr().out
    named = [line.split()[1] for line in said.splitlines() if line.startswith("  tersenet ")]
    assert named == ["demo", "compress", "methods"]


def test_help_groups_every_command_by_what_one_wants() -> None:
    command = typer.main.get_command(app)
    assert all(each.rich_help_panel for each in command.commands.values())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("given", "tried"),
    [
        (("compress", "missing.pt", "-o", "a.terse"), "tersenet demo"),
        (("compress", "notes.txt", "-o", "a.terse"), "tersenet demo"),
        (("compress", "bad.safetensors", "-o", "a.terse"), "tersenet demo"),
        (("compress", "net.pt", "-o", "a.terse", "--bits", "3"), "tersenet methods vlcq"),
        (("compress", "net.pt", "-o", "a.terse", "--method", "lqs"), "tersenet methods"),
        (("compress", "net.pt", "-o", "a.terse", "--method", "lsq"), "--model my.py:make --task my.py:make_task"),
        (("compress", "net.pt", "-o", "a.terse", "--max-drop", "1"), "--model my.py:make --task my.py:make_task"),
        (("compress", "net.pt", "-o", "a.terse", "--calibrate"), "--model my.py:make --task my.py:make_task"),
        (("compress", "net.pt", "-o", "a.terse", "--model", "my.py:make"), "--model my.py:make"),
        (("compress", "net.pt", "-o", "a.terse", "--model", "lenet"), "--model my.py:make"),
        (("inspect", "net.pt"), "tersenet compress net.pt -o FILE.terse"),
        (("inspect", "missing.terse"), "tersenet compress CHECKPOINT -o missing.terse"),
        (("methods", "nope"), "tersenet methods"),
        (("reproduce", "nope"), "tersenet reproduce list"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else "",
)
def test_a_first_mistake_is_one_line_that_says_what_to_type_next(
    given: tuple[str, ...], tried: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends(*given) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tersenet: ") and f"; try  {tried}" in line


@pytest.mark.parametrize("given", [("compress", "net.pt"), ("compres", "net.pt"), ("compress", "--outptu", "a.terse")])
def test_wrong_usage_names_the_help(given: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(*given) == 2
    assert "--help' for help" in capsys.readouterr().err


def test_the_page_that_errors_name_is_there() -> None:
    from tersenet.cli.next_step import PAGE

    text = (Path(__file__).parents[2] / PAGE).read_text("utf-8")
    assert "def make(width=16)" in text and "def make_task()" in text


@pytest.mark.parametrize(
    ("words", "offered"),
    [("tersenet ver", ["verify"]), ("tersenet methods ", names()), ("tersenet compress x --method l", ["lapq", "lsq"])],
)
def test_the_shell_completes_commands_and_methods(words: str, offered: list[str]) -> None:
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_TERSENET_COMPLETE": "complete_bash"}
    command = [sys.executable, "-m", "tersenet"]
    done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == offered and not done.stderr
