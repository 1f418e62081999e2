"""What hostile files cost: every file of a folder through five commands, against the same command on an honest file.

    python benchmarks/hostile.py [FOLDER] [--files GLOB]

Prints, per command, the worst seconds and the worst memory beyond those of an honest file of about 1 kB, the errors
that are not typed, and the files that appeared outside the output folder. Without FOLDER, the files of
tests/hostile/attacks.py are used.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "hostile"))
LOAD = "import sys, tersenet\ntersenet.load(sys.argv[1]).state_dict()\n"
PATIENCE = 90.0  # seconds until a command is stopped


@dataclass(frozen=True)
class Cost:
    """What one command took: seconds, bytes at its peak, exit code (-9: stopped), and the end of its standard error."""

    seconds: float
    peak: int
    code: int
    said: str


def commands(file: Path, output: Path) -> dict[str, list[str]]:
    """The five commands on a file."""
    terse = [sys.executable, "-m", "tersenet"]
    return {
        "inspect": [*terse, "inspect", str(file)],
        "inspect --storage": [*terse, "inspect", "--storage", str(file)],
        "verify": [*terse, "verify", str(file)],
        "decompress": [*terse, "decompress", str(file), "-o", str(output)],
        "load": [sys.executable, "-c", LOAD, str(file)],
    }


def cost(command: list[str], folder: Path) -> Cost:
    """Run a command in a folder and measure it."""
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, cwd=folder)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            seconds = time.perf_counter() - start
            if pid:
                break
            if seconds > PATIENCE:
                process.kill()
            time.sleep(0.005)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    return Cost(seconds, usage.ru_maxrss * 1024, process.returncode, said)


def typed(result: Cost) -> bool:
    """Whether a command ended well, or with an error that tersenet raises on purpose."""
    lines = result.said.strip().splitlines()
    if "Traceback" in result.said:
        return lines[-1].startswith("tersenet.errors.")
    return result.code in (0, 1, 2)


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--files", default="*.terse")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        folder = arguments.folder
        if folder is None:
            from attacks import write_all

            folder = work / "attacks"
            write_all(folder)
        print_table(sorted(folder.glob(arguments.files)), work)


def print_table(files: list[Path], work: Path) -> None:
    """Measure all files and print what was worst."""
    from parts import honest

    inside = work / "inside"
    inside.mkdir()
    plain = work / "honest.terse"
    plain.write_bytes(honest())
    known, untyped, outside = set(work.rglob("*")), [], set()
    print(f"{len(files)} files; beyond an honest file of {plain.stat().st_size:,} bytes:")
    for name in commands(plain, plain):
        base = [cost(commands(plain, inside / f"{name}-{turn}.safetensors")[name], work) for turn in range(3)]
        seconds, peak = min(each.seconds for each in base), max(each.peak for each in base)
        costs = {}
        for number, file in enumerate(files):
            output = inside / f"{number}"
            costs[file.name] = result = cost(commands(file, output)[name], work)
            if not typed(result):
                untyped.append(f"{name} {file.name}: exit {result.code}: {result.said.strip()[-200:]}")
            shutil.rmtree(output, ignore_errors=True)
            output.unlink(missing_ok=True)
        slow, large = (max(costs, key=lambda n: getattr(costs[n], key)) for key in ("seconds", "peak"))
        print(
            f"{name:18} worst +{costs[slow].seconds - seconds:5.2f} s ({slow}), "
            f"+{(costs[large].peak - peak) / 1e6:5.0f} MB ({large})",
            flush=True,
        )
        outside |= {path for path in work.rglob("*") if path not in known and inside not in path.parents}
    print(f"untyped errors: {len(untyped)}", *untyped, sep="\n  ")
    print(f"files outside: {len(outside)}", *sorted(outside), sep="\n  ")


if __name__ == "__main__":
    main()
