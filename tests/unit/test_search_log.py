"""The log of a search: every fault of it is an error that names the file and says what to do."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tersenet.errors import InputError, OutputError
from tersenet.search.folder import hash_of


@pytest.mark.parametrize("damage", ["text", "truncated", "a bit", "other tables", "other rows", "other names"])
def test_a_log_that_is_none_says_so_and_overwrite_begins_anew(damage: str, within: Any, tmp_path: Path) -> None:
    best, log = within().best, tmp_path / "o.terse.search" / "trials.sqlite"
    data = bytearray(log.read_bytes())
    if damage == "text":
        log.write_text("no database")
    elif damage == "truncated":
        log.write_bytes(data[: len(data) // 2])
    elif damage == "a bit":
        log.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    else:
        statement = {
            "other tables": "ALTER TABLE trials RENAME COLUMN most TO high",
            "other rows": "UPDATE trials SET bytes = 'many'",
            "other names": "UPDATE trials SET key = '{\"fields\": 3}'",
        }[damage]
        with sqlite3.connect(log) as base:
            base.execute(statement)
        base.close()
    broken = log.read_bytes()
    with pytest.raises(InputError, match=r"trials\.sqlite .*overwrite=True"):
        within()
    assert log.read_bytes() == broken and hash_of(tmp_path / "o.terse") == best.digest
    assert within(overwrite=True).best.digest == best.digest


def test_an_empty_log_knows_no_file(within: Any, tmp_path: Path) -> None:
    within()
    (tmp_path / "o.terse.search" / "trials.sqlite").write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        within()
    (tmp_path / "o.terse").unlink()
    assert within().holds


def test_a_log_that_cannot_be_opened_or_is_held_says_so(within: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tersenet.search.trials.HELD", 0.0)
    within()
    log = tmp_path / "o.terse.search" / "trials.sqlite"
    (tmp_path / "o.terse").unlink()
    with sqlite3.connect(log) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OutputError, match=r"trials\.sqlite cannot be written: database is locked; wait"):
            within()
    other.close()
    log.unlink()
    log.mkdir()
    with pytest.raises(OutputError, match=r"trials\.sqlite cannot be written: unable to open"):
        within()


def connected(monkeypatch: pytest.MonkeyPatch, to: Any) -> None:
    """Open logs as `to` does."""
    monkeypatch.setattr("tersenet.search.trials.sqlite3.connect", to)


def test_a_read_only_log_says_so(within: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    within()
    (tmp_path / "o.terse").unlink()
    original = sqlite3.connect
    connected(monkeypatch, lambda path, timeout: original(f"file:{path}?mode=ro", timeout=timeout, uri=True))
    with pytest.raises(OutputError, match=r"trials\.sqlite cannot be written: attempt to write a readonly database"):
        within()
