"""The folder of a search: what the search writes there, so that nothing else in it is ever deleted."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import FormatError, OutputError
from ..files.lock import locked
from ..files.results import content_hash

PART = r"\.[0-9a-f]{8}\.part"  # what a writer that was killed leaves
LITTER = rf"\.?(candidate|untrained|sketch)(\.\d+)?\.terse({PART})?"
OWN = rf"trials\.sqlite(-journal|-wal|-shm)?|\.?frontier\.(png|svg)({PART})?|{LITTER}"
OF_A_RUN = rf"\.?(run\.json|last\.pt)({PART})?|log\.jsonl|\.lock|events\.out\.tfevents\..*"


class SearchFolder:
    """`OUTPUT.search`: the log, trainings, and the file that is just being made."""

    def __init__(self, output: Path) -> None:
        self.path = output.with_name(output.name + ".search")
        self.log = self.path / "trials.sqlite"
        self.candidate = self.path / f"candidate.{os.getpid()}.terse"
        self.untrained = self.path / f"untrained.{os.getpid()}.terse"

    def run_of(self, key: str) -> Path:
        """Where the training of a trial is kept."""
        return self.path / "runs" / hashlib.sha256(key.encode()).hexdigest()[:12]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and lock it while the body runs; files of killed processes are removed before, and an empty
        folder after it.

        **Raises** `OutputError` if another search holds it, or the folder cannot be made.
        """
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path} cannot be made: {error.strerror or error}") from error
        try:
            with locked(self.path / "lock", f"the search {self.path}"):
                _remove(self.path, LITTER)
                yield
        finally:
            with suppress(OSError):
                self.path.rmdir()

    def clear(self) -> None:
        """Delete what the search that was here wrote; other files stay, and the folders they are in."""
        _remove(self.path, OWN)
        runs = self.path / "runs"
        if runs.is_symlink() or not runs.is_dir():
            return
        for run in runs.iterdir():
            if re.fullmatch("[0-9a-f]{12}", run.name) and run.is_dir() and not run.is_symlink():
                _remove(run, OF_A_RUN)
                with suppress(OSError):
                    run.rmdir()
        with suppress(OSError):
            runs.rmdir()


def hash_of(path: Path) -> str:
    """The content hash of a `.terse` file (which results that are measured later do not change), else SHA-256."""
    try:
        return content_hash(path, 1 << 62)
    except FormatError:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


def _remove(folder: Path, names: str) -> None:
    """Delete the files in `folder` (not links, not folders) with such a name."""
    try:
        for path in folder.iterdir():
            if re.fullmatch(names, path.name) and path.is_file() and not path.is_symlink():
                path.unlink()
    except OSError as error:
        raise OutputError(f"{folder} cannot be cleared: {error.strerror or error}") from error
