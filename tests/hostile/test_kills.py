"""Commands killed at random moments: the same command ends with the bytes of one that was not, and without litter."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TRAINING = [
    "compress",
    "NET",
    "-o",
    "x.terse",
    "--method",
    "lsq",
    "--epochs",
    "2",
    "--model",
    "digits",
    "--task",
    "digits",
]
COMMANDS = {
    "compress": ["compress", "NET", "-o", "x.terse", "--method", "vlcq", "--effort", "best", "--overwrite"],
    "auto": ["auto", "NET", "-o", "x.terse", "--model", "digits", "--task", "digits", "--max-drop", "3"],
    "training": [*TRAINING, "--overwrite"],
}


def command(name: str, net: Path, resumed: bool) -> list[str]:
    run = ["--resume" if resumed else "--run", "r"] if name == "training" else []
    return [sys.executable, "-m", "tersenet", *(str(net) if word == "NET" else word for word in COMMANDS[name]), *run]


def finished(name: str, net: Path, folder: Path) -> bytes:
    """The bytes of the output after the command has run to its end."""
    resumed = (folder / "r" / "run.json").is_file()
    done = subprocess.run(command(name, net, resumed), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return (folder / "x.terse").read_bytes()


def litter(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".") or "candidate" in path.name]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_killed_at_random_moments_ends_with_the_same_bytes(
    name: str, seed: int, checkpoint: Path, tmp_path: Path
) -> None:
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    began = time.monotonic()
    whole = finished(name, checkpoint, tmp_path / "whole")
    length, draw, kills = time.monotonic() - began, random.Random(seed), 0
    for _ in range(3):
        resumed = (tmp_path / "killed" / "r" / "run.json").is_file()
        with subprocess.Popen(command(name, checkpoint, resumed), cwd=tmp_path / "killed", stdout=-3, stderr=-3) as one:
            time.sleep(draw.uniform(0.3, 1.0) * length)
            one.send_signal(signal.SIGKILL)
        kills += one.returncode == -signal.SIGKILL
        out = tmp_path / "killed" / "x.terse"
        assert not out.exists() or name == "auto" or out.read_bytes() == whole
    assert kills > 0
    assert finished(name, checkpoint, tmp_path / "killed") == whole
    assert litter(tmp_path / "killed") == []


WRITES = """
import os, sys
from pathlib import Path
from tersenet.files.atomic import replacing_file
print("ready", flush=True)
while True:
    for letter in b"ab":
        with replacing_file("x", overwrite=True) as stream:
            for _ in range(40):
                stream.write(bytes([letter]) * 10_000)
                stream.flush()
"""


def test_a_writer_killed_at_random_moments_leaves_one_whole_file_and_the_next_no_litter(tmp_path: Path) -> None:
    from tersenet.files.atomic import replacing_file

    draw = random.Random(0)
    for _ in range(8):
        with subprocess.Popen([sys.executable, "-c", WRITES], cwd=tmp_path, stdout=subprocess.PIPE) as one:
            assert one.stdout is not None and one.stdout.readline() == b"ready\n"
            time.sleep(draw.uniform(0.0, 0.05))
            one.kill()
        path = tmp_path / "x"
        assert not path.exists() or (len(path.read_bytes()) == 400_000 and len(set(path.read_bytes())) == 1)
    assert len(os.listdir(tmp_path)) <= 2  # each run has removed what the one before left
    with replacing_file(tmp_path / "x", overwrite=True) as stream:
        stream.write(b"last")
    assert os.listdir(tmp_path) == ["x"] and (tmp_path / "x").read_bytes() == b"last"
