"""Numbers on pages come from CSV files that say what made them."""

import csv
import io
import json
import re
import runpy
import sqlite3
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MEASURED: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks" / "measured.py"))
PAGES: list[Path] = MEASURED["PAGES"]
INDEX: list[dict[str, str]] = list(csv.DictReader(io.StringIO(MEASURED["INDEX"].read_text("utf-8"))))
PAST = "*A decision as it was made: its numbers are those of that day, and are not measured again.*"
TABLE = re.compile(r"(?:^\|.*\n){2,}", re.M)
NOT_MEASURED = re.compile(r"<!-- not measured: .+? -->\s*$")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_number_of_a_page_is_that_of_its_csv_file(page: Path) -> None:
    text = page.read_text("utf-8")
    assert MEASURED["filled"](text, MEASURED["database"]()) == text


def without_a_source(text: str) -> list[str]:
    """The first lines of tables with figures that no query makes and that do not say that they hold no measurement."""
    if PAST in text or NOT_MEASURED.search(text.split("\n\n")[1] if "\n\n" in text else ""):
        return []  # the whole page says so, above everything else
    filled = [part.span() for part in MEASURED["MARKED"].finditer(text)]
    found = []
    for table in TABLE.finditer(text):
        rows = re.sub(
            r"`[^`]*`|\]\([^)]*\)", "", "".join(table.group().splitlines(keepends=True)[2:])
        )  # no code, links
        sourced = any(begin <= table.start() < end for begin, end in filled)
        if re.search(r"\d", rows) and not sourced and not NOT_MEASURED.search(text[: table.start()]):
            found.append(table.group().partition("\n")[0])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_table_with_figures_is_without_a_source(page: Path) -> None:
    assert not without_a_source(page.read_text("utf-8"))


def test_a_table_with_figures_and_no_source_is_found() -> None:
    table = "| a | b |\n|---|---|\n| x | 97.1 |\n"
    assert without_a_source(f"# Page\n\nText.\n\n{table}") == ["| a | b |"]
    assert not without_a_source(f"# Page\n\nText.\n\n<!-- not measured: definitions -->\n\n{table}")
    assert not without_a_source(f"# Page\n\nText.\n\n<!-- sql select 1 -->\n\n{table}<!-- end -->\n")
    assert not without_a_source("# Page\n\nText.\n\n| a | b |\n|---|---|\n| x | y |\n")


def test_every_design_page_says_that_its_numbers_are_of_its_day() -> None:
    for page in (ROOT / "docs" / "design").glob("*.md"):
        assert page.read_text("utf-8").split("\n\n")[1].strip() == PAST, page.name


def test_the_index_names_every_csv_file_and_no_other() -> None:
    there = sorted(path.name for path in MEASURED["RESULTS"].glob("*.csv") if path != MEASURED["INDEX"])
    assert [row["file"] for row in INDEX] == there


@pytest.mark.parametrize("row", INDEX, ids=lambda row: row["file"])
def test_a_csv_file_says_what_it_is_of_or_that_it_was_not_recorded(row: dict[str, str]) -> None:
    assert all(row[key] for key in ("what", "split", "n", "seeds", "control", "source", "commit", "machine"))
    assert not row["command"] or "OUT" in row["command"]
    assert row["cost"] in ("minutes", "hours", "")
    for script in re.findall(r"benchmarks/\w+\.py", row["command"]):
        assert (ROOT / script).is_file()


@pytest.fixture
def base() -> sqlite3.Connection:
    made = sqlite3.connect(":memory:")
    made.execute("create table t (name, value)")
    made.executemany("insert into t values (?, ?)", [("a", 1.5), ("b", None)])
    return made


def test_a_query_fills_a_table_and_a_figure(base: sqlite3.Connection) -> None:
    page = '<!-- sql select name, value as ">v" from t -->\n\nold\n<!-- end -->, <!-- sql select 7 -->5<!-- end -->'
    once = MEASURED["filled"](page, base)
    assert "| name | v |\n| --- | ---: |\n| a | 1.5 |\n| b |  |\n" in once and "-->7<!-- end -->" in once
    assert MEASURED["filled"](once, base) == once


def test_a_query_without_rows_is_refused(base: sqlite3.Connection) -> None:
    with pytest.raises(ValueError, match="no rows: select \\* from t where name = 'c'"):
        MEASURED["filled"]("<!-- sql select * from t\nwhere name = 'c' -->\n\n<!-- end -->", base)


def test_rows_of_a_command_become_csv_with_their_parts() -> None:
    text = MEASURED["to_csv"](json.dumps({"rows": [{"a": 1, "drop": {"mean": 2, "low": 1}}, {"a": 3, "b": "x, y"}]}))
    first, second = csv.DictReader(io.StringIO(text))
    assert first == {"a": "1", "drop_mean": "2", "drop_low": "1", "b": ""} and second["b"] == "x, y"


def test_what_was_finished_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = MEASURED["run"].__globals__
    results, index = tmp_path / "results", tmp_path / "results" / "index.csv"
    results.mkdir()
    index.write_text("file,command,cost\na.csv,echo x >> $WORK/count; cp $WORK/count $OUT,minutes\nb.csv,false,hours\n")
    for name, value in {"RESULTS": results, "INDEX": index, "BUILD": tmp_path / "b", "ROOT": tmp_path}.items():
        monkeypatch.setitem(names, name, value)
    for _ in range(2):
        MEASURED["run"](False, [])
    assert (results / "a.csv").read_text() == "x\n"
    with pytest.raises(SystemExit, match=r"b\.csv: the command failed"):
        MEASURED["run"](True, [])
    assert not (results / "b.csv").exists()
