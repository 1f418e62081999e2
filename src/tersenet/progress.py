"""How long work says how far it is: log records of the logger `tersenet.progress`, which the commands draw as a bar.

The same calls are where work with a deadline stops.
"""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

LOGGER = logging.getLogger("tersenet.progress")
_DEADLINE = ContextVar("deadline", default=math.inf)


class OutOfTime(Exception):
    """The deadline has passed."""


@contextmanager
def until(deadline: float) -> Iterator[None]:
    """Raise `OutOfTime` at the first progress after `deadline` (on `time.monotonic`'s clock) while the body runs."""
    token = _DEADLINE.set(deadline)
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def remaining() -> float:
    """Seconds to the deadline, infinity without one."""
    return _DEADLINE.get() - time.monotonic()


def progress(what: str, done: int, total: int) -> None:
    """Report that `done` of `total` steps of `what` are finished (level DEBUG, so silent unless someone listens)."""
    LOGGER.debug("%s", what, extra={"done": done, "total": total})
    if remaining() < 0:
        raise OutOfTime(f"out of time while {what}, {done} of {total}")
