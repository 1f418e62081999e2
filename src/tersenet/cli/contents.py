"""What the page of `tersenet report` shows: put together from a file, the log of a search, and trainings."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..analysis.classes import ClassScore
    from ..analysis.evaluate import Evaluation
    from ..report.page import Page, Section
    from ..report.peers import Peer

TRAININGS = 4  # of a search whose curves are drawn, the newest
CLASSES = 20  # that are drawn, the worst


@dataclass(frozen=True)
class Sources:
    """Where what is shown lies: a file, the log of a search, the folders of trainings; None or empty: not there."""

    file: Path | None
    log: Path | None
    trainings: list[Path]

    @property
    def state(self) -> list[tuple[str, int, int]]:
        """What differs once something has changed."""
        logs = [folder / name for folder in self.trainings for name in ("run.json", "log.jsonl")]
        found = []
        for path in (self.file, self.log, *logs):
            if path is not None and path.is_file():
                status = path.stat()
                found.append((str(path), status.st_mtime_ns, status.st_size))
        return found


@dataclass
class Judge:
    """How a file is judged: `opened` makes the network and its reference; the result is kept until the file changes."""

    opened: "Callable[[Path], tuple[Evaluation, list[ClassScore]]] | None"
    split: str
    known: "dict[tuple[int, int], tuple[Evaluation, list[ClassScore]]]" = field(default_factory=dict)

    def judge(self, file: Path) -> "tuple[Evaluation, list[ClassScore]] | None":
        """What the file scores; None where there is nothing to judge it with."""
        if self.opened is None:
            return None
        key = (file.stat().st_mtime_ns, file.stat().st_size)
        if key not in self.known:
            self.known = {key: self.opened(file)}
        return self.known[key]


def sources_of(what: Path) -> Sources:
    """What there is to show. **Raises** `UsageError` for a folder of nothing that is known."""
    from ..errors import UsageError
    from ..search.folder import SearchFolder

    if not what.is_dir():
        log = SearchFolder(what).log
        return Sources(what, log if log.is_file() else None, _newest(log.parent / "runs"))
    if (what / "trials.sqlite").is_file():
        file = what.with_name(what.name.removesuffix(".search"))
        return Sources(file if file.is_file() else None, what / "trials.sqlite", _newest(what / "runs"))
    if (what / "run.json").is_file():
        return Sources(None, None, [what])
    raise UsageError(
        f"{what} holds no training (run.json) and no search (trials.sqlite): give the folder of --run, the folder "
        "OUTPUT.search, or a .terse file"
    )


def _newest(runs: Path) -> list[Path]:
    folders = [path.parent for path in runs.glob("*/run.json")]
    logs = {folder: folder / "log.jsonl" for folder in folders}
    return sorted(folders, key=lambda f: logs[f].stat().st_mtime if logs[f].is_file() else 0.0)[::-1][:TRAININGS]


def page_of(
    what: Path,
    sources: Sources,
    judge: Judge,
    peers: "list[Peer]",
    costs: dict[str, float] | None,
    layers: list[str],
    seconds: float | None,
    max_output: int | None,
) -> "Page":
    from ..errors import UsageError
    from ..files.summary import summarize
    from ..files.terse import load
    from ..report import contents
    from ..report.page import Page, Section

    facts: list[tuple[str, object]] = []
    sections: list[Section] = []
    details: list[tuple[str, object]] = []
    result = None if sources.file is None else judge.judge(sources.file)
    if result is not None:
        facts += _scores(result[0], judge.split)
    sections += _trade_off(sources, result[0] if result else None, peers, judge.split)
    if sources.file is not None:
        summary = summarize(sources.file, max_output=max_output)
        facts[:0] = contents.facts(summary)
        bits = contents.bits_of_layers(summary, costs)
        drawn = [contents.where_the_bytes_are(summary), *([bits] if bits else [])]
        sections.append(Section("Bytes and bits", drawn))
        chosen = contents.levels_of_layers(summary, load(sources.file, max_output=max_output), layers)
        if chosen:
            text = f"{len(chosen)} of {sum(bool(row.grid) for row in summary.rows):,} tensors; open one at a time."
            sections.append(Section("Levels and code lengths", text=text, choice=chosen))
        details += contents.provenance_rows(summary.provenance)
    elif layers:
        raise UsageError(f"--layer needs a file, and {what} has none (yet)")
    sections += _trainings(sources.trainings)
    if result is not None and result[1]:
        sections.append(_classes(result[1], judge.split))
    return Page(what.name, facts, sections, seconds, details)


def _scores(found: "Evaluation", split: str) -> list[tuple[str, object]]:
    named = (("Score", found.metric), ("Score of the original", found.reference), ("Drop", found.drop))
    return [
        (
            f"{name}, {split} split",
            f"{each.mean:.4f} (95 % interval {each.low:.4f} to {each.high:.4f}, n = {each.n:,})",
        )
        for name, each in (*named, (f"Agreement ({found.agreement_name})", found.agreement))
        if each is not None
    ]


def _trade_off(sources: Sources, result: "Evaluation | None", peers: "list[Peer]", split: str) -> "list[Section]":
    """Bytes against the drop of trials, and against accuracy and agreement where they are known."""
    from ..report.figures import Axis, Point, Series, scatter
    from ..report.page import Section
    from ..report.peers import series
    from ..search.picture import BYTES, trade_off
    from ..search.search import frontier
    from ..search.target import Target
    from ..search.trials import read

    figures, text = [], ""
    identity, trials = ({}, []) if sources.log is None else read(sources.log)
    target = identity.get("target")
    target = target if isinstance(target, dict) else {}
    known = {"max_bytes", "max_drop"} <= set(target) <= set(Target.__annotations__)
    aim = Target(**target) if known else Target()  # what another version wrote has no target here
    judged = [trial for trial in trials if trial.drop is not None]
    if judged or any("drop" in peer.scores for peer in peers):
        figures.append(trade_off(trials, aim, series(peers, "drop")))
    if sources.log is not None:
        text = f"{len(trials):,} trials, {len(judged):,} judged on validation samples. "
    if peers:
        text += "Peers are as their files of rows say, each on the samples it was measured on."
    for quantity, found in (
        ("accuracy", result.metric if result else None),
        ("agreement", result.agreement if result else None),
    ):
        drawn: list[Series] = []
        if found is not None and sources.file is not None:
            size = sources.file.stat().st_size
            label = Point(size, 100 * found.mean, 100 * found.low, 100 * found.high, sources.file.name)
            drawn.append(Series(f"this file, {split}", [label]))
        if quantity == "accuracy" and result is not None and result.reference is not None and judged:
            whole = 100 * result.reference.mean
            points = [Point(trial.bytes, whole - (trial.drop or 0.0), label=trial.name) for trial in judged]
            best = [Point(trial.bytes, whole - (trial.drop or 0.0), label=trial.name) for trial in frontier(judged)]
            drawn += [Series("trials, validation", points), Series("frontier", best[::-1], "steps")]
        drawn += series(peers, quantity)
        if drawn:
            figures.append(scatter(f"Bytes against {quantity}", BYTES, Axis(f"{quantity}, %"), drawn))
    return [Section("Bytes against accuracy", figures, text)] if figures or text else []


def _trainings(folders: list[Path]) -> "list[Section]":
    from ..report.curves import curves
    from ..report.page import Section
    from ..training.log import read_log

    sections = []
    for folder in folders:
        described, rows = read_log(folder)
        names = ("method", "bits", "epochs", "lr", "seed")
        given = ", ".join(f"{name}={described[name]}" for name in names if name in described)
        steps = f"{int(rows[-1]['step']):,} steps so far" if rows else "no step is logged yet"
        sections.append(Section(f"Training {folder.name}", curves(rows), f"{given}; {steps}"))
    return sections


def _classes(found: "list[ClassScore]", split: str) -> "Section":
    from ..report.figures import Panel, bars
    from ..report.page import Section

    compared = found[0].before is not None
    panels = [Panel("accuracy, %", [100 * each.right / each.n for each in found], 2)]
    if compared:
        panels = [Panel("drop, points", [each.drop for each in found], 2), *panels]
    figure = bars(
        "Worst classes",
        "class",
        [f"class {each.label} (n = {each.n:,})" for each in found[:CLASSES]],
        [Panel(panel.label, panel.values[:CLASSES], panel.decimals) for panel in panels],
    )
    text = f"On the {split} split, worst first; the {min(len(found), CLASSES)} worst of {len(found):,} classes."
    return Section("Worst classes", [figure], text)
