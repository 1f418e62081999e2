"""A file stores what differs from its version's defaults; readers show every field, and say whose default it is."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import tersenet
from tersenet import methods
from tersenet.cli import main
from tersenet.core.method import Method

OURS = sorted(methods._ours())
OUTSIDE = str(Path(__file__).parents[1] / "outside" / "planes.py") + ":DyingPlanes"


def written(name: str, fields: Any, version: Any = tersenet.__version__, **more: Any) -> dict[str, Any]:
    return {"method": name, "fields": fields, "versions": {"tersenet": version}, **more}


def test_only_fields_that_differ_are_stored(checkpoint: Path) -> None:
    assert tersenet.compress(checkpoint, "rtn").provenance["fields"] == {}
    model = tersenet.compress(checkpoint, "rtn", bits=5, affine=False, include=("conv*",))
    assert model.provenance["fields"] == {"bits": 5, "include": ("conv*",)}


def test_a_field_that_is_empty_where_the_default_is_not_is_stored() -> None:
    method = methods.get("imprint")()
    plain = asdict(method)
    filled = next(name for name, value in plain.items() if isinstance(value, tuple) and value)
    object.__setattr__(method, filled, ())
    assert method.changed == {filled: ()}


@pytest.mark.parametrize("name", OURS)
def test_every_field_is_shown_with_the_default_of_this_version(name: str) -> None:
    cls: type[Method] = methods.get(name)
    found = methods.settings(written(name, {}))
    assert found.others_of is None and all(each.default_of == tersenet.__version__ for each in found.fields)
    expected = json.loads(json.dumps(asdict(cls())))
    assert {each.name: each.value for each in found.fields} == expected


def test_a_stored_value_comes_first_and_is_nobody_s_default() -> None:
    first, *others = methods.settings(written("rtn", {"bits": 3})).fields
    assert (first.name, first.value, first.default_of) == ("bits", 3, None)
    assert "bits" not in {each.name for each in others} and others


def test_a_file_that_stores_every_field_says_the_same() -> None:
    every = json.loads(json.dumps(asdict(methods.get("rtn")(bits=3))))
    full, short = methods.settings(written("rtn", every)).fields, methods.settings(written("rtn", {"bits": 3})).fields
    assert {each.name: each.value for each in full} == {each.name: each.value for each in short}


def test_defaults_of_another_version_are_not_guessed() -> None:
    found = methods.settings(written("rtn", {"bits": 3}, "0.0.1"))
    assert [each.name for each in found.fields] == ["bits"] and found.others_of == "0.0.1"


FORGED = {
    "a list for a method": written(["rtn"], {}),  # type: ignore[arg-type]
    "no method": {"fields": {"bits": 3}},
    "a file to import": written("/tmp/evil.py:Evil", {"bits": 3}),
    "fields that are a list": written("rtn", [1, 2], "0.0.1"),
    "versions that are a text": {"method": "rtn", "fields": {}, "versions": "0.1.0"},
    "a version that is a list": written("rtn", {}, [1]),
    "a method from outside with our name": written("rtn", {"bits": 3}, outside=True),
}


@pytest.mark.parametrize("forged", FORGED)
def test_what_nobody_wrote_gets_no_defaults_and_runs_no_code(forged: str) -> None:
    fields = FORGED[forged].get("fields")
    found = methods.settings(FORGED[forged]).fields
    assert {each.name: each.value for each in found} == (fields if isinstance(fields, dict) else {})


def test_a_method_from_outside_stores_all_its_fields(network: nn.Module, task: Any) -> None:
    method = methods.get(OUTSIDE)(epochs=0)
    provenance = tersenet.compress(network, method, task=task).provenance
    assert provenance["outside"] is True and provenance["fields"] == asdict(method)
    assert methods.settings(provenance).others_of is None


def run(*arguments: str | Path) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([str(argument) for argument in arguments])


def test_inspect_shows_them_all(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.terse"
    run("compress", checkpoint, "-o", file, "--method", "rtn", "--bits", "3")
    capsys.readouterr()
    run("inspect", file)
    given, defaults = capsys.readouterr().out.splitlines()[-2:]
    assert given == "given: bits=3"
    assert defaults.startswith(f"defaults of tersenet {tersenet.__version__}: ") and "affine=False" in defaults
    run("inspect", file, "--json")
    shown = json.loads(capsys.readouterr().out)["settings"]
    assert shown["bits"] == {"value": 3, "default_of": None}
    assert shown["affine"] == {"value": False, "default_of": tersenet.__version__}


def test_inspect_says_whose_defaults_it_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tersenet.CompressedModel({}, provenance=written("rtn", {"bits": 3}, "0.0.1"))
    tersenet.save(model, tmp_path / "x.terse")
    run("inspect", tmp_path / "x.terse")
    assert capsys.readouterr().out.splitlines()[-2:] == ["given: bits=3", "other fields: defaults of tersenet 0.0.1"]
