"""Files of others, measured elsewhere: rows of a CSV with a tool, bytes, and how good the network is."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from .figures import Point, Series

QUANTITIES = ("drop", "accuracy", "agreement")
FEWEST = "columns tool and bytes, and drop (points), accuracy or agreement (shares)"
MOST = 2000  # rows


@dataclass(frozen=True)
class Peer:
    """A file of another tool (or of this one, measured elsewhere): its bytes, and its drop, accuracy or agreement."""

    tool: str
    bytes: int
    scores: dict[str, float]


def read_peers(path: Path, network: str | None = None) -> list[Peer]:
    """The rows of a CSV; where it has a column `network`, those of `network` (all, with their network, for None).

    **Raises** `InputError` naming the line that is wrong.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV: {error}") from error
    found = []
    for number, row in enumerate(rows[:MOST], 2):
        named = row.get("network")
        if named and network is not None and named != network:
            continue
        try:
            scores = {name: float(row[name]) for name in QUANTITIES if row.get(name)}
            tool, size = row["tool"], int(row["bytes"])
            right = bool(scores) and size > 0 and all(map(math.isfinite, scores.values()))
        except (KeyError, ValueError, TypeError):
            right = False
        if not right:
            raise InputError(f"{path}, line {number}: expected {FEWEST}")
        found.append(Peer(f"{tool}, {named}" if named and network is None else tool, size, scores))
    return found


def series(peers: Sequence[Peer], quantity: str) -> list[Series]:
    """The peers that have a quantity, by tool; shares in percent."""
    factor = 1.0 if quantity == "drop" else 100.0
    having = [peer for peer in peers if quantity in peer.scores]
    return [
        Series(tool, [Point(p.bytes, factor * p.scores[quantity], label=tool) for p in having if p.tool == tool])
        for tool in dict.fromkeys(peer.tool for peer in having)
    ]
