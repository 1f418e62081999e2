"""The trials of a search as a chart."""

from collections.abc import Sequence

from ..report.figures import Axis, Figure, Point, Series, scatter
from .search import frontier
from .target import Target
from .trials import Trial

BYTES = Axis("bytes of the file on disk", log=True)


def trade_off(trials: Sequence[Trial], target: Target, peers: Sequence[Series] = ()) -> Figure:
    """Drop over bytes of all trials, the frontier among them, the target; `peers` are files of others, by their drop.

    Trials that nothing judged are left out.
    """
    judged = [trial for trial in trials if trial.drop is not None]
    series = []
    for name in dict.fromkeys(trial.name.split()[0] for trial in judged):
        points = [_point(trial) for trial in judged if trial.name.split()[0] == name]
        series.append(Series(name, points))
    best = sorted(frontier(judged), key=lambda trial: trial.bytes)
    series.append(Series("frontier", [_point(trial, bounded=False) for trial in best], "steps"))
    rules, most = [], None
    if target.max_drop is not None:
        rules, most = [(f"target: {target.max_drop:g}", target.max_drop)], max(4 * target.max_drop, 1.0)
    axis = Axis(f"drop in {target.unit}, validation", most=most)
    return scatter("Bytes against the drop", BYTES, axis, [*series, *peers], rules)


def _point(trial: Trial, bounded: bool = True) -> Point:
    assert trial.drop is not None
    low, high = (trial.least, trial.most) if bounded else (None, None)
    return Point(trial.bytes, trial.drop, low, high, trial.name)
