"""Numbers in README.md and docs/ come from CSV files: this fills them in, and runs the commands behind the files.

    python benchmarks/measured.py fill            # every marked table and figure, from benchmarks/results/*.csv
    python benchmarks/measured.py check           # what would change; exit code 1 if anything would
    python benchmarks/measured.py run [--all]     # the commands of index.csv first: those of minutes, or all of them

A marked part of a page is `<!-- sql QUERY -->` ... `<!-- end -->`. Every CSV file is a table of its own name, so the
query says which rows: its columns are the table's (a name with ">" is aligned to the right), or its only value is a
figure in a sentence. `stdev` is there beside SQLite's functions.

`run` needs $TERSENET_DATA, and $WEIGHTS, the folder of the fp32 checkpoints. A command writes to $OUT, a new file that
takes the place of the old one when the command is done, and keeps what it needs in $WORK; what was finished is not run
again (build/numbers/done.csv) until the folder build/numbers is removed.
"""

import argparse
import csv
import io
import json
import os
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
INDEX = RESULTS / "index.csv"
BUILD = ROOT / "build" / "numbers"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARKED = re.compile(r"<!-- sql(?P<query>.*?)-->(?P<shown>.*?)<!-- end -->", re.S)


class Deviation:
    """The standard deviation of a sample, 0 for one value: an aggregate of SQLite."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def step(self, value: float) -> None:
        """Take a value in."""
        self.values.append(value)

    def finalize(self) -> float:
        """What is shown."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


def number(text: str) -> str | float | int | None:
    """The value of a cell: a number where it is written as one, nothing where it is empty (`39609e0` is a commit)."""
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?\d+\.\d+(e[+-]\d+)?|-?\d+e[+-]\d+", text) else text or None


def database(results: Path = RESULTS) -> sqlite3.Connection:
    """Every CSV file in a folder as a table, with its line numbers as `rowid`."""
    base = sqlite3.connect(":memory:")
    base.create_aggregate("stdev", 1, Deviation)  # type: ignore[arg-type]
    for path in sorted(results.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as stream:
            names, *rows = csv.reader(stream)
        columns = ", ".join(f'"{name.replace(" ", "_")}"' for name in names)
        base.execute(f'create table "{path.stem}" ({columns})')
        marks = ", ".join("?" * len(names))
        base.executemany(f'insert into "{path.stem}" values ({marks})', [[number(cell) for cell in r] for r in rows])
    return base


def answer(base: sqlite3.Connection, query: str, shown: str) -> str:
    """What belongs between a mark and its end: a table where `shown` is on lines of its own, else one figure."""
    found = base.execute(query)
    names, rows = [column[0] for column in found.description], found.fetchall()
    if not rows:
        raise ValueError(f"no rows: {' '.join(query.split())}")
    if "\n" not in shown:
        ((value,),) = rows
        return str(value)
    lines = [names, ["---:" if name.startswith(">") else "---" for name in names], *rows]
    cells = [
        ["" if cell is None else str(cell).removeprefix(">").replace("|", r"\|") for cell in line] for line in lines
    ]
    return "\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in cells) + "\n"


def filled(text: str, base: sqlite3.Connection) -> str:
    """A page with what its queries say now."""

    def fill(part: re.Match[str]) -> str:
        return f"<!-- sql{part['query']}-->{answer(base, part['query'], part['shown'])}<!-- end -->"

    return MARKED.sub(fill, text)


def fill(write: bool) -> list[Path]:
    """The pages that differ from the CSV files; with `write` they no longer do."""
    changed = []
    for page in PAGES:
        text = page.read_text("utf-8")
        try:
            new = filled(text, base := database())
        except (ValueError, sqlite3.Error) as error:
            sys.exit(f"{page.relative_to(ROOT)}: {error}")
        base.close()
        if new != text:
            changed.append(page)
            if write:
                page.write_text(new, "utf-8")
    return changed


def run(everything: bool, chosen: list[str]) -> None:
    """Run the commands of the index that were not finished, and put what they wrote in its place."""
    BUILD.mkdir(parents=True, exist_ok=True)
    log = BUILD / "done.csv"
    done = log.read_text("utf-8").split() if log.is_file() else []
    with INDEX.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["command"]]
    if unknown := set(chosen) - {row["file"] for row in rows}:
        sys.exit(f"no command behind {', '.join(sorted(unknown))} in {INDEX.relative_to(ROOT)}")
    for row in rows:
        wanted = row["file"] in chosen if chosen else everything or row["cost"] == "minutes"
        if not wanted or row["file"] in done:
            continue
        out, work = BUILD / row["file"], BUILD / Path(row["file"]).stem
        work.mkdir(exist_ok=True)
        print(f"{row['file']}: {row['command']}", flush=True)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        places = {"OUT": str(out), "WORK": str(work), "PATH": path}
        command = ["bash", "-o", "pipefail", "-ec", row["command"]]
        if subprocess.run(command, cwd=ROOT, env=os.environ | places).returncode:
            sys.exit(f"{row['file']}: the command failed; what it finished is in {work}, and it goes on there")
        shutil.copyfile(out, RESULTS / row["file"])
        with log.open("a", encoding="utf-8") as stream:
            stream.write(row["file"] + "\n")


def flat(row: dict) -> dict:
    """A row without objects inside."""
    found = {}
    for key, value in row.items():
        found |= {f"{key}_{part}": each for part, each in value.items()} if isinstance(value, dict) else {key: value}
    return found


def to_csv(text: str) -> str:
    """The `rows` of what a command prints with `--json`, as CSV; parts of a value have names as `drop_mean`."""
    rows = [flat(row) for row in json.loads(text)["rows"]]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["fill", "check", "run", "rows"], help="rows: JSON of a command to CSV")
    parser.add_argument("files", nargs="*", help="run: only the commands behind these CSV files")
    parser.add_argument("--all", action="store_true", help="run: those that take hours, too")
    given = parser.parse_args()
    if given.what == "rows":
        print(to_csv(sys.stdin.read()), end="")
        return
    if given.what == "run":
        run(given.all, given.files)
    changed = fill(write=given.what != "check")
    for page in changed:
        print(f"{page.relative_to(ROOT)} {'differs' if given.what == 'check' else 'filled'}")
    sys.exit(given.what == "check" and bool(changed))


if __name__ == "__main__":
    main()
