"""A card for every method: valid against the schema, true by the second reader, and small."""

import copy
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from torch import nn

import tersenet
from every_method import EVERY, example
from tersenet.api import compress_file
from tersenet.cards import with_run
from tersenet.core.task import Task
from tersenet.files.results import results_of
from tersenet.report.card import hash_of, markdown, page, schema
from tersenet.verifier import check

MOST = 300  # bytes that a card may add to a file


@pytest.fixture(scope="module", params=EVERY)
def made(
    request: pytest.FixtureRequest,
    checkpoint: Path,
    trained: nn.Module,
    task: Task,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path]:
    path = tmp_path_factory.mktemp("cards") / "x.terse"
    compress_file(checkpoint, path, example(request.param), module=copy.deepcopy(trained), task=task)
    return request.param, path


def test_the_card_of_every_method_is_valid_true_and_no_other_than_the_file_says(made: tuple[str, Path]) -> None:
    card = tersenet.card(made[1])
    jsonschema.Draft202012Validator(schema()).validate(card)
    assert check(made[1], card) == []
    assert card["hash"] == hash_of(card) and card["identity"]["method"] == example(made[0]).name
    assert sum(card["cost"]["parts"].values()) == card["cost"]["bytes"] == made[1].stat().st_size
    assert card["result"]["n"] == 500 and card["result"]["of_this_file"] and card["cost"]["macs_unknown"] == []


def test_the_card_of_every_method_is_printed_and_cites_what_was_used(made: tuple[str, Path]) -> None:
    card, reference = tersenet.card(made[1]), example(made[0]).reference
    known = made[0] in tersenet.methods.names()
    assert not known or not reference or reference in card["citations"]
    text, html = markdown(card), page(card)
    assert all(layer["name"] in html for layer in card["weights"]["layers"])
    assert text.startswith("---\nlibrary_name: tersenet\n") and "## Quantised layers" in text


def test_a_card_takes_less_than_300_bytes_of_a_file(made: tuple[str, Path]) -> None:
    model = tersenet.load(made[1])
    bare = {key: value for key, value in model.provenance.items() if key != "shapes"}
    assert results_of(made[1]) is not None and model.results
    before = tersenet.save(replace(model, provenance=bare, results=None), made[1].with_name("bare.terse"))
    assert 0 < made[1].stat().st_size - before <= MOST


def test_every_changed_field_changes_the_hash_of_a_card(made: tuple[str, Path]) -> None:
    card = tersenet.card(made[1])
    given = [name for name, value in card.items() if value is not None and name != "hash"]
    assert len({hash_of({**card, name: None}) for name in given} | {card["hash"]}) == len(given) + 1
    assert with_run(card, {"seconds": 1.0})["hash"] != card["hash"]
