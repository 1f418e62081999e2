"""Everything that can be installed, into dist/: sdist, Linux wheels with the native module, a wheel for other systems.

    python packaging/wheels.py [--python python3.12 ...]     # or: make wheel

The native wheels (x86-64 and aarch64, glibc 2.17 and later) are cross-compiled by zig, one for each interpreter that is
named; from Python 3.12 on one wheel serves all later versions. The pure wheel runs the Python reference.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
GLIBC = "2.17"
MACHINES = ("x86_64", "aarch64")
TOOLS = ("build", "ziglang", "wheel", "auditwheel", "scikit-build-core>=0.10", "nanobind>=2.4", "cmake", "ninja")


def run(*command: str | Path, **environment: str) -> str:
    """Standard output of a command. Stops the script, with what the command said, where it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment},
        text=True,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout


def tools(python: str, folder: Path) -> Path:
    """An environment of that interpreter with what builds."""
    run(python, "-m", "venv", folder)
    run(folder / "bin/pip", "install", "-q", *TOOLS)
    return folder / "bin/python"


def toolchain(python: Path, machine: str, folder: Path) -> Path:
    """What CMake needs to know to build for another machine: zig in the place of compilers and archivers."""
    lines = ["set(CMAKE_SYSTEM_NAME Linux)", f"set(CMAKE_SYSTEM_PROCESSOR {machine})"]
    target = f"-target {machine}-linux-gnu.{GLIBC}"
    for variable, command in (
        ("C_COMPILER", f"cc {target}"),
        ("CXX_COMPILER", f"c++ {target}"),
        ("AR", "ar"),
        ("RANLIB", "ranlib"),
    ):
        script = folder / f"{machine}-{variable.lower()}"
        script.write_text(f'#!/bin/sh\nexec {python} -m ziglang {command} "$@"\n')
        script.chmod(0o755)
        lines.append(f"set(CMAKE_{variable} {script})")
    file = folder / f"{machine}.cmake"
    file.write_text("\n".join(lines))
    return file


def native(python: Path, machine: str, folder: Path) -> Path:
    """The wheel with the native module for `machine`, its platform tag checked against the symbols it uses."""
    suffix = run(python, "-c", "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))").strip()
    built = folder / "built"
    environment = {
        "CMAKE_TOOLCHAIN_FILE": str(toolchain(python, machine, folder)),
        "SETUPTOOLS_EXT_SUFFIX": suffix.replace("x86_64", machine),
    }
    run(python, "-m", "build", "-q", "--wheel", "--no-isolation", "-o", built, ROOT, **environment)
    made = max(built.glob("*.whl"), key=lambda path: path.stat().st_mtime)
    tag = f"manylinux_{GLIBC.replace('.', '_')}_{machine}"
    name = run(python, "-m", "wheel", "tags", "--remove", "--platform-tag", tag, made).strip().splitlines()[-1]
    return (built / name).replace(DIST / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="interpreters to build for")
    given = parser.parse_args()
    DIST.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        for number, name in enumerate(given.python):
            folder = Path(temporary) / str(number)
            folder.mkdir()
            python = tools(name, folder / "tools")
            if not number:
                run(python, "-m", "build", "-q", "--sdist", "--no-isolation", "-o", DIST, ROOT)
                pure = ("-C", "wheel.cmake=false", "-C", "wheel.platlib=false", "-C", "wheel.py-api=py3")
                run(python, "-m", "build", "-q", "--wheel", "--no-isolation", *pure, "-o", DIST, ROOT)
            for machine in MACHINES:
                wheel = native(python, machine, folder)
                print(run(python, "-m", "auditwheel", "show", wheel))
    for path in sorted(DIST.iterdir()):
        print(f"{path.stat().st_size:>9,}  {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
