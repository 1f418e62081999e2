"""How a command ends: an exit code, one line for whatever went wrong, and streams that may be closed or full.

0 ok; 1 the job failed; 2 wrong usage; 130 interrupted; 141 nobody reads standard output any more.
"""

import io
import json
import logging
import os
import re
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from typer.core import TyperGroup

from ..errors import TersenetError, UsageError
from ..files.atomic import RecordingFile
from ..report.escape import plain
from . import factory
from .next_step import next_step
from .wording import in_flags

FAILED, USAGE, INTERRUPTED, NOT_READ = 1, 2, 130, 141
PACKAGE = str(Path(__file__).parents[1]) + os.sep
LIBRARIES = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})
GIVEN = (factory._called.__code__, factory._find.__code__)  # what calls the code that `--model` and `--task` name
REPORT = "this is a fault of tersenet: please report it with the command and the lines above"


class Ended(Exception):
    """What a command ended with, where typer would print something of its own."""


class Commands(TyperGroup):
    """The commands; nothing that they raise is typer's."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, EOFError, OSError) as error:
            raise Ended from error


def line(text: object) -> None:
    """One line on standard error, in the words of the command line."""
    one = re.sub(r"\s*\n\s*", " ", str(text).strip())
    with suppress(OSError, ValueError):
        print(f"tersenet: {plain(in_flags(one))}", file=sys.stderr, flush=True)


def explain(error: BaseException, as_json: bool) -> int:
    """Say what went wrong and return the exit code.

    An error on purpose is a line. One that the user's own code raised comes with its traceback from their code on; one
    that tersenet should not have raised with all of it.
    """
    if isinstance(error, Ended) and error.__cause__ is not None:
        error = error.__cause__
    kind, code = type(error).__name__, FAILED
    theirs = _users(error.__traceback__)
    if isinstance(error, TersenetError):
        message, code = in_flags(str(error)), USAGE if isinstance(error, UsageError) else FAILED
        message += next_step(message)
    elif isinstance(error, KeyboardInterrupt):
        message, code = "interrupted", INTERRUPTED
    elif _is_memory(error):
        kind, message = "MemoryError", f"there is not enough memory: {_first_line(error)}"
    elif theirs is not None:
        first, last = theirs
        _show(error, first)
        where = f"{last.tb_frame.f_code.co_filename}, line {last.tb_lineno}"
        message = f"{kind}: {_first_line(error)}; not from tersenet, but from {where}"
    elif isinstance(error, OSError):
        message = str(error)
    else:
        _show(error, error.__traceback__)
        message = f"{kind}: {_first_line(error)}; {REPORT}"
    if as_json:
        print_error(kind, in_flags(message))
    line(message)
    return code


def print_error(kind: str, message: str) -> None:
    """An error as a JSON object on standard output; if that fails, `Output` knows."""
    with suppress(OSError):
        print(json.dumps({"error": kind, "message": message}))


class Output(RecordingFile):
    """Standard output, which remembers whether writing to it failed."""

    @property
    def holds(self) -> bool:
        """Whether everything that was printed could be written."""
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        return self.failed is None

    def code(self, otherwise: str | int | None) -> str | int | None:
        """The exit code. Nobody reading standard output any more is nothing to speak of; a full disk is."""
        if self.holds or self.failed is None:
            return otherwise
        if isinstance(self.failed, BrokenPipeError):
            return NOT_READ
        line(f"standard output cannot be written: {self.failed.strerror or self.failed}")
        return FAILED


@contextmanager
def streams() -> Iterator[Output]:
    """The standard streams, all there: a closed one gets its number back, which a file would get otherwise (writing to
    it fails). What the encoding of standard output does not have is escaped."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)  # the lowest number that is free
    before, output = sys.stdout, Output(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    if before is sys.__stdout__:  # else somebody's who called us
        encoding = "utf-8" if before is None else before.encoding
        buffer = io.BufferedWriter(output)
        sys.stdout = io.TextIOWrapper(buffer, encoding, "backslashreplace", line_buffering=output.isatty())
    try:
        yield output
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        output.close()  # what is still buffered is lost
        sys.stdout = before


@contextmanager
def lines() -> Iterator[None]:
    """Warnings, and what tersenet logs as information, are lines on standard error while the body runs."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            line(record.getMessage())

    def show(message: Warning | str, *where: object, **more: object) -> None:
        line(message)

    logger, handler = logging.getLogger("tersenet"), Lines(logging.INFO)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    with warnings.catch_warnings():
        warnings.showwarning = show
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)


def _users(traceback: TracebackType | None) -> tuple[TracebackType, TracebackType] | None:
    """The first and the last frame of the user's code, unless the error arose in code of tersenet that it called.

    What `--model` and `--task` name is the user's, libraries or not.
    """
    first: TracebackType | None = None
    last: TracebackType | None = None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if code in GIVEN and traceback.tb_next is not None:
            first, last = first or traceback.tb_next, traceback.tb_next
        elif code.co_filename.startswith(PACKAGE):
            last = None
        elif not code.co_filename.startswith((*LIBRARIES, "<")):
            first, last = first or traceback, traceback
        traceback = traceback.tb_next
    return None if first is None or last is None else (first, last)


def _show(error: BaseException, found: TracebackType | None) -> None:
    with suppress(OSError, ValueError):
        sys.stderr.write("".join(traceback.format_exception(type(error), error, found)))


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or repr(error)


def _is_memory(error: BaseException) -> bool:
    """Whether memory ran out, as Python, numpy or torch say it."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )
