"""The card of a file: from its bytes, and what this version of tersenet knows of its method. Never imports torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import methods
from .files.boundary import reading
from .files.results import Results
from .files.strict import parse_json
from .files.summary import provenance_of
from .quantizers.references import reference_of
from .report.card import MethodCard, card_of, hash_of, result_of

MOST = 1 << 26  # bytes of a card that is read
BESIDE = ".card.json"  # what follows the name of a file


def card(path: str | Path, *, max_output: int | None = None) -> dict[str, Any]:
    """The quantization card of a `.terse` file as JSON has it (`docs/cards.md` explains every member).

    It is derived from the bytes alone; of a run it has what `FILE.card.json` beside it says, if that is of this file.

    **Raises** `FormatError` for a damaged or foreign file.

    >>> import tempfile, tersenet, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     size = tersenet.save(tersenet.compress(torch.nn.Linear(64, 64), "rtn", bits=4), f"{folder}/net.terse")
    ...     card = tersenet.card(f"{folder}/net.terse")
    >>> card["weights"]["average_bits"]["quantised"]["bits"], card["identity"]["method"]
    (4.0, 'rtn')
    """
    found = card_of(path, _method(provenance_of(path, max_output=max_output)), max_output)
    return with_run(found, run_beside(path, found["identity"]["content"]))


def opened(path: str | Path, *, max_output: int | None = None) -> dict[str, Any]:
    """The card of a `.terse` file, or the one that a file of JSON holds, even one of a newer version.

    **Raises** `FormatError` for what is neither.
    """
    if Path(path).suffix != ".json":
        return card(path, max_output=max_output)
    with reading(path, "card"):
        if Path(path).stat().st_size > MOST:
            raise ValueError(f"more than {MOST:,} bytes")
        found = parse_json(Path(path).read_bytes())
        if not (isinstance(found, dict) and type(found.get("card")) is int):
            raise ValueError("it is no card: an object with a version number `card`")
        return found


def with_run(card: Mapping[str, Any], run: Mapping[str, Any] | None) -> dict[str, Any]:
    """The same card with what is known of the run that made its file, and its hash."""
    changed = {**card, "run": None if run is None else dict(run)}
    return changed | {"hash": hash_of(changed)}


def with_result(card: Mapping[str, Any], results: Results) -> dict[str, Any]:
    """The same card with other results, and its hash."""
    changed = {**card, "result": result_of(results, card["identity"]["content"])}
    return changed | {"hash": hash_of(changed)}


def run_beside(path: str | Path, content: str) -> dict[str, Any] | None:
    """What the card beside a file says of the run that made it; None if there is none, or it is of another file."""
    try:
        saved = json.loads(beside(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    identity, run = (saved.get(key) if isinstance(saved, dict) else None for key in ("identity", "run"))
    same = isinstance(identity, dict) and identity.get("content") == content
    return run if same and isinstance(run, dict) else None


def beside(path: str | Path) -> Path:
    """Where the card of a file is written: `FILE.card.json`."""
    return Path(f"{path}{BESIDE}")


def _method(provenance: Mapping[str, Any]) -> MethodCard:
    settings = methods.settings(provenance)
    fields = {each.name: {"value": each.value, "default_of": each.default_of} for each in settings.fields}
    known = methods.ours(provenance)
    if known is None:
        return MethodCard(fields=fields, others_of=settings.others_of)
    estimator = fields.get("estimator", {}).get("value")
    estimators = (reference_of(estimator),) if isinstance(estimator, str) else ()
    return MethodCard(known.needs, fields, settings.others_of, (known.reference, *estimators))
