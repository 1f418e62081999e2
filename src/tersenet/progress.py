"""How long work says how far it is: log records of the logger `tersenet.progress`, which the commands draw as a bar."""

import logging

LOGGER = logging.getLogger("tersenet.progress")


def progress(what: str, done: int, total: int) -> None:
    """Report that `done` of `total` steps of `what` are finished (level DEBUG, so silent unless someone listens)."""
    LOGGER.debug("%s", what, extra={"done": done, "total": total})
