"""Budgets on the command line: their options, what is said on the way, and the report at the end."""

import math
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from .output import print_json, print_table

if TYPE_CHECKING:
    from ..search.outcome import Outcome
    from ..search.target import Target
    from ..search.trials import Trial

MaxDrop = Annotated[
    str | None,
    typer.Option(
        help="The smallest file within this drop, in the unit of the task: points (of accuracy), KL, perplexity."
    ),
]
MaxBytes = Annotated[int | None, typer.Option(help="The best file of at most this many bytes on disk.")]


def points(text: str | None) -> float | None:
    """The value of `--max-drop`. **Raises** `UsageError` for a percentage."""
    if text is None:
        return None
    if "%" in text:
        number = text.replace("%", "").strip()
        raise UsageError(
            f"--max-drop {text!r}: a drop is in points of the metric, not in percent of it, because '1 %' of 90 % "
            f"could be 89.1 % or 89 %: write --max-drop {number} for a drop from 90 % to {_less(number)} %"
        )
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--max-drop is {text!r}; it is a number of points, such as 1 or 0.5") from None


def _less(number: str) -> str:
    try:
        return f"{90 - float(number):g}"
    except ValueError:
        return "less"


def print_message(text: str) -> None:
    """One line on standard error."""
    print(text, file=sys.stderr, flush=True)


def report(outcome: "Outcome", output: Path, as_json: bool, seconds: float) -> None:
    """Print the outcome and the frontier, draw it, and leave with exit code 1 if the target is not kept."""
    from ..search.search import frontier

    best, kept = outcome.best, frontier(outcome.trials)
    picture = output.with_name(output.name + ".search") / "frontier.svg"
    if drawn := len(kept) > 1:
        _draw(outcome, picture)
    facts = {
        "output": str(output),
        "bytes": best.bytes,
        "method": best.name,
        "target": asdict(outcome.target),
        "verdict": outcome.verdict,
        "holds": outcome.holds,
        "ended": outcome.ended,
        "confidence": "95 %, one-sided",
        "samples_needed": outcome.needed,
        "validation": {"drop": best.drop, "least": best.least, "most": best.most, "n": best.n},
        "test": None if outcome.test is None else asdict(outcome.test),
        "test_verdict": outcome.test_verdict,
        "test_looks": outcome.test_looks,
        "original": _original(outcome),
        "trials": [{"name": t.name, **asdict(t)} for t in outcome.trials],
        "seconds": round(seconds, 1),
        "picture": str(picture) if drawn else None,
    }
    if as_json:
        print_json(facts)
    else:
        if kept:
            rows = [
                (f"{t.bytes:,}", *(outcome.target.drop(x).split()[0] for x in (t.drop or 0.0, t.most or 0.0)), t.name)
                for t in kept
            ]
            columns = (">bytes", ">drop", ">at most (95 %)", "by")
            print_table(f"frontier of {len(outcome.trials)} trials", columns, rows)
        print("\n".join(_lines(outcome, output, seconds)))
        if drawn:
            print(f"picture: {picture}")
    if not outcome.holds:
        print_message(f"tersenet: {outcome.target} cannot be met{_how_near(outcome, best)}")
        raise typer.Exit(1)


def _lines(outcome: "Outcome", output: Path, seconds: float) -> list[str]:
    best, target = outcome.best, outcome.target
    bounded = partial(_bounded, target)
    lines = [f"{output}: {best.bytes:,} bytes, {best.name}; {len(outcome.trials)} trials, {seconds:.0f} s"]
    if outcome.ended != "finished":
        lines.append(f"{outcome.ended} before the search was finished: the same command goes on")
    if best.drop is not None:
        lines.append(f"validation: drop {bounded(best.drop, best.most, best.n)}")
    if outcome.test is not None:
        test, taken = outcome.test, outcome.test_looks
        looks = f"look {taken} of this search" if taken > 1 else "looked at once"
        lines.append(f"test ({looks}): drop {bounded(test.mean, test.most, test.n)}")
        if outcome.test_verdict is not None:
            lines[-1] += f": {outcome.test_verdict}"
    if outcome.flattered and outcome.originals is not None:
        validation, tested = (score.mean for score in outcome.originals)
        lines.append(
            f"the original scores {validation:.4f} on validation and {tested:.4f} on test: if it was trained on the "
            "validation samples, drops on them look too small"
        )
    lines.append(f"{target}: {outcome.verdict}{_how_near(outcome, best)}")
    return lines


def _original(outcome: "Outcome") -> dict[str, object] | None:
    """What the original scores, for JSON."""
    if outcome.originals is None:
        return None
    validation, test = map(asdict, outcome.originals)
    return {"validation": validation, "test": test, "flattered": outcome.flattered}


def _bounded(target: "Target", mean: float, most: float | None, n: int | None) -> str:
    bound = target.drop(math.nan if most is None else most).split()[0]
    return f"{target.drop(mean)}, at most {bound} (95 %, one-sided; n = {n:,})"


def _how_near(outcome: "Outcome", best: "Trial") -> str:
    target = outcome.target
    if target.max_bytes is not None:
        over = best.bytes - target.max_bytes
        return f"; the nearest file has {over:,} bytes too many" if over > 0 else ""
    assert target.max_drop is not None and best.drop is not None
    if outcome.test is not None and outcome.test_verdict == "not met":
        return (
            f"; validation says {outcome.verdict}, but the test split refutes it with {target.drop(outcome.test.mean)}"
        )
    if best.drop > target.max_drop:
        return f"; the nearest file drops {target.drop(best.drop - target.max_drop)} too many"
    if outcome.verdict == "undecided":
        return f"; {best.n:,} samples are too few to be sure, the mean is within; {_needed(outcome)}"
    return ""


def _needed(outcome: "Outcome") -> str:
    """How many samples would decide: for the best file, and for the one that needs the fewest."""
    counts = {t: count for t in outcome.trials if (count := outcome.target.needed(t)) is not None}
    if not counts:
        return "no number of samples would show it of a drop that is not below the target"
    surest = min(counts, key=counts.__getitem__)
    own = "" if outcome.needed is None else f"about {outcome.needed:,} would show it of this file"
    other = f"about {counts[surest]:,} of one with {surest.bytes:,} bytes" if surest != outcome.best else ""
    return ", ".join(filter(None, (own, other)))


def _draw(outcome: "Outcome", path: Path) -> None:
    """Drop over bytes of all trials and the frontier."""
    from ..files.atomic import replacing_file
    from ..report.figures import standalone
    from ..search.picture import trade_off

    with replacing_file(path, overwrite=True) as stream:
        stream.write(standalone(trade_off(outcome.trials, outcome.target)).encode())
