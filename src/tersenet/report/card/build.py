"""The card of a file: its groups, each made from what the file says. What the file does not say is None."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import codec
from ...files.boundary import reading
from ...files.layout import VERSION as FORMAT
from ...files.reader import Reader
from ...files.results import Results, content_hash
from ...files.writer import canonical
from .cost import cost
from .network import NetworkCard

VERSION = 1
KNOWN = {"method", "fields", "versions", "input", "outside", "notes", "given", "shapes"}  # the rest: findings


@dataclass(frozen=True)
class MethodCard:
    """What a card says of the method, where it is known: what it needs, its fields (each a `value`, and the version
    whose default it is or None), the version whose defaults all others are, and the BibTeX of it and its estimator."""

    needs: str | None = None
    fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    others_of: str | None = None
    references: tuple[str, ...] = ()


def card_of(path: str | Path, method: MethodCard, max_output: int | None = None) -> dict[str, Any]:
    """The card of a file, from its bytes and what is known of its method. **Raises** `FormatError`."""
    with reading(path, "index"):
        reader = Reader(path, max_output)
        results = Results.parse(reader.results() or [])
        content = content_hash(path, max_output)
    with reading(path, "tensors"):
        network = NetworkCard.of(reader)
    card = {
        "card": VERSION,
        "identity": _identity(reader, method, content),
        "method": _method(reader, method),
        **network.groups(),
        "cost": cost(reader, network),
        "result": None if results is None else result_of(results, content),
        "citations": _citations(method, network),
        "run": None,
    }
    return card | {"hash": hash_of(card)}


def hash_of(card: Mapping[str, Any]) -> str:
    """SHA-256 of a card without its member `hash`: as JSON in UTF-8 with sorted members and no spaces."""
    return hashlib.sha256(canonical({key: value for key, value in card.items() if key != "hash"})).hexdigest()


def _identity(reader: Reader, method: MethodCard, content: str) -> dict[str, Any]:
    about = reader.index.about["provenance"]
    versions = about.get("versions")
    versions = versions if isinstance(versions, dict) else {}
    seed = method.fields.get("seed")
    given = about.get("given") if isinstance(about.get("given"), dict) else {}

    def named(name: str, within: dict[str, Any] = about) -> str | None:
        """A text of the provenance; anything else is not given."""
        return value if isinstance(value := within.get(name), str) else None

    return {
        "content": content,
        "format": FORMAT,
        "method": named("method"),
        "outside": "outside" in about,
        "tersenet": named("tersenet", versions),
        "torch": named("torch", versions),
        "checkpoint": named("input"),
        "seed": seed["value"] if seed is not None and type(seed["value"]) is int else None,
        "given": {name: text for name, text in given.items() if isinstance(text, str)},
    }


def _method(reader: Reader, method: MethodCard) -> dict[str, Any]:
    about = reader.index.about["provenance"]
    return {
        "needs": method.needs,
        "fields": {name: dict(each) for name, each in method.fields.items()},
        "other_fields_are_defaults_of": method.others_of,
        "notes": notes if isinstance(notes := about.get("notes"), list) else [],
        "findings": {name: facts for name, facts in about.items() if name not in KNOWN},
    }


def result_of(results: Results, content: str) -> dict[str, Any]:
    """What a card says that was measured of the file with this content hash."""

    def interval(numbers: Any) -> dict[str, Any] | None:
        return None if numbers is None else dict(zip(("mean", "low", "high"), numbers, strict=True))

    return {
        "of_this_file": content.startswith(results.of) and bool(results.of),
        "split": results.split,
        "metric": results.metric,
        "n": results.n,
        "runs": 1,
        "score": interval(results.score),
        "reference": results.reference,
        "drop": interval(results.drop),
        "worst_class": None if results.worst is None else {"class": results.worst[0], "drop": results.worst[1]},
        "samples": results.data,
    }


def _citations(method: MethodCard, network: NetworkCard) -> list[str]:
    coders = [codec.reference_of(name) for layer in network.layers for name in layer["coders"]]
    return [text for text in dict.fromkeys([*method.references, *coders]) if text]
