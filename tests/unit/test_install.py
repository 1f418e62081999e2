"""Without a compiler the package still installs, says once what that costs, and writes the same files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_installing_without_a_compiler_succeeds_and_the_reference_is_used(tmp_path: Path) -> None:
    environment = {**os.environ, "CC": "/bin/false", "CXX": "/bin/false"}
    environment.pop("TERSENET_REQUIRE_NATIVE", None)
    environment.pop("PYTHONPATH", None)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(tmp_path / "site"),
        str(ROOT),
    ]
    subprocess.run(pip, check=True, env=environment)
    assert not list((tmp_path / "site" / "tersenet").glob("_native*"))
    script = (
        "import warnings, numpy as np\n"
        "warnings.simplefilter('always')\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    from tersenet import codec\n"
        "    for _ in range(3): stream = codec.encode(np.arange(-50, 50, dtype=np.int8) // 9)\n"
        "assert len(caught) == 1 and 'without its native module' in str(caught[0].message), caught\n"
        "print(stream.params.hex())"
    )
    environment["PYTHONPATH"] = str(tmp_path / "site")
    done = subprocess.run([sys.executable, "-c", script], check=True, env=environment, capture_output=True, text=True)
    assert done.stdout.strip()
    environment["TERSENET_REQUIRE_NATIVE"] = "1"
    failed = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert failed.returncode and "NativeError" in failed.stderr
