"""The trials of a search as a chart."""

import json
from collections.abc import Sequence

from ..errors import UsageError
from ..methods import get
from ..report.figures import Axis, Figure, Point, Series, scatter
from .search import frontier
from .target import Target
from .trials import Trial

NEEDS = {"nothing": "data-free", "calibration": "calibrated", "training": "trained"}
BYTES = Axis("bytes of the file on disk", log=True)


def trade_off(trials: Sequence[Trial], target: Target, peers: Sequence[Series] = ()) -> Figure:
    """Drop over bytes of all trials by method and what it needs, the frontier and the best file among them, the target
    and the original's level; `peers` are files of others, by their drop.

    Trials that nothing judged are left out.
    """
    judged = [trial for trial in trials if trial.drop is not None]
    series = []
    for name in dict.fromkeys(map(kind_of, judged)):
        points = [_point(trial) for trial in judged if kind_of(trial) == name]
        series.append(Series(name, points))
    best = sorted(frontier(judged), key=lambda trial: trial.bytes)
    series.append(Series("frontier", [_point(trial, bounded=False) for trial in best], "steps"))
    if judged and (target.max_bytes is not None or target.max_drop is not None):
        series.append(Series("chosen file", [_point(min(judged, key=target.rank), bounded=False)]))
    rules, most = [("the original", 0.0)], None
    if target.max_drop is not None:
        rules.append((f"target: {target.max_drop:g}", target.max_drop))
        most = max(4 * target.max_drop, 1.0)
    axis = Axis(f"drop in {target.unit}, validation", most=most)
    return scatter("Bytes against the drop", BYTES, axis, [*series, *peers], rules)


def kind_of(trial: Trial) -> str:
    """The method of a trial, and whether it saw no data, calibrated, or trained (not told of one from outside)."""
    described = json.loads(trial.key)
    try:
        method = get(described["method"])(**described["fields"])
    except UsageError:
        return str(described["method"])
    calibrated = method.needs == "nothing" and getattr(method, "calibrate", False)
    return f"{method.name}, {NEEDS['calibration' if calibrated else method.needs]}"


def _point(trial: Trial, bounded: bool = True) -> Point:
    assert trial.drop is not None
    low, high = (trial.least, trial.most) if bounded else (None, None)
    return Point(trial.bytes, trial.drop, low, high, trial.name)
