"""Law 1 for every method: what it ran last, and what it returned, is what its file gives back, bit for bit."""

import typing
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import pytest
from torch import nn

from every_method import EVERY, class_of, example
from last_network import check_law
from tersenet.core.method import Method
from tersenet.core.task import Task
from tersenet.errors import UsageError


@pytest.mark.parametrize("changes", [{}, {"bn": "scale-shift"}, {"kept_dtype": "exact"}], ids=str)
@pytest.mark.parametrize("name", EVERY)
def test_the_network_that_a_method_ran_last_is_the_network_in_its_file(
    name: str, changes: dict[str, Any], network: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check_law(network, example(name, **changes), task, tmp_path, monkeypatch)


def options() -> Iterator[tuple[str, dict[str, str]]]:
    """The example of every method with one of its words replaced: each that the method takes together with the rest."""
    shared = {each.name for each in fields(Method)}  # tested above
    for name in EVERY:
        kinds = typing.get_type_hints(class_of(name))
        for field in (each.name for each in fields(class_of(name)) if each.name not in shared):
            for word in typing.get_args(kinds[field]) if typing.get_origin(kinds[field]) is Literal else ():
                try:
                    changed = example(name, **{field: word})
                except UsageError:
                    continue
                if changed != example(name):
                    yield name, {field: word}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "option"), list(options()), ids=str)
def test_the_law_holds_for_every_word_that_a_field_takes(
    name: str, option: dict[str, str], network: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check_law(network, example(name, **option), task, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", EVERY)
def test_every_method_states_an_example_that_is_no_field(name: str) -> None:
    cls = class_of(name)
    names = {each.name for each in fields(cls)}
    assert "QUICK" in vars(cls) and "QUICK" not in names and set(cls.QUICK) <= names
