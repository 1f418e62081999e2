"""Every field of every method takes what its annotation says and nothing else, from Python and the command line."""

import ast
import typing
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

import tersenet
from tersenet import methods
from tersenet.analysis.evaluate import evaluate
from tersenet.api import compress_file
from tersenet.cli.fields import build_method
from tersenet.core.fields import Within, described, fitted
from tersenet.core.method import Method
from tersenet.errors import UsageError
from tersenet.quantizers.estimators import RULES, Estimator

FIELDS = [(name, field.name) for name in methods.names() for field in fields(methods.get(name))]


def kind_of(method: str, field: str) -> Any:
    return typing.get_type_hints(methods.get(method), include_extras=True)[field]


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("rtn", {"granularity": "chanel"}), ("rtn", {"kept_dtype": "fp32"}), ("rtn", {"exclude": "*.bias"}),
        ("rtn", {"include": ["a", 3]}), ("rtn", {"bits": 4.0}), ("rtn", {"bits": True}), ("rtn", {"bits": None}),
        ("rtn", {"affine": 1}), ("rtn", {"layer_bits": {"a": "b"}}), ("rtn", {"layer_bits": {"a": 9}}),
        ("rtn", {"layer_bits": 3}), ("rtn", {"bits": torch.tensor(4)}), ("rtn", {"bits": 1 << 80}),
        ("lapq", {"first_last": "none"}), ("lapq", {"search": "powel"}), ("lapq", {"samples": 0}),
        ("lsq", {"oscillation": "damp"}), ("lsq", {"act_range": "foo"}), ("lsq", {"lr": float("inf")}),
        ("lsq", {"layer_bits": {"a": 32}}), ("lsq", {"weight_decay": -1.0}), ("lsq", {"clip_grad": float("nan")}),
        ("pot", {"bits": 6}), ("pot", {"stages": (6,)}), ("apot", {"estimator": "st"}),
        ("imprint", {"lr": -1}), ("imprint", {"epochs": -3}), ("imprint", {"distill": 7}),
        ("imprint", {"act_bits": 99}), ("imprint", {"bn": "fold"}), ("imprint", {"rungs": (4,)}),
        ("vlcq", {"target_bits": float("nan")}), ("vlcq", {"max_bytes": 0}), ("vlcq", {"input_shape": "3x-2"}),
        ("vlcq", {"seed": 1 << 63}), ("accgrad", {"share": 0.5}), ("accgrad", {"weight_decay": float("inf")}),
    ],
    ids=str,
)  # fmt: skip
def test_values_that_a_field_cannot_have_are_refused_by_its_name(method: str, given: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as error:
        methods.get(method)(**given)
    assert next(iter(given)).removesuffix("_bits") in str(error.value) or "bits" in str(error.value)


@pytest.mark.parametrize(("method", "field"), FIELDS, ids=map("-".join, FIELDS))
def test_no_field_takes_a_foreign_object_nan_or_an_unknown_word(method: str, field: str) -> None:
    for wrong in (object(), float("nan"), float("-inf"), "no such word", {1: 2}, [[]]):
        if wrong == "no such word" and kind_of(method, field) == str | None:
            continue
        with pytest.raises(UsageError, match=f"^{field}="):
            methods.get(method)(**{field: wrong})


def test_a_number_with_too_many_digits_to_print_is_refused_like_any_other() -> None:
    with pytest.raises(UsageError, match="bits=<int>: expected"):
        methods.get("rtn")(bits=10**5000)


@pytest.mark.parametrize(("method", "field"), FIELDS, ids=map("-".join, FIELDS))
def test_every_number_has_a_range(method: str, field: str) -> None:
    def bare(kind: Any) -> bool:
        parts = typing.get_args(kind)
        return kind in (int, float) or (typing.get_origin(kind) is not Annotated and any(map(bare, parts)))

    assert not bare(kind_of(method, field))


@pytest.mark.parametrize("name", methods.names())
def test_a_method_adds_to_the_checks_of_its_parents_and_replaces_none(name: str) -> None:
    cls = methods.get(name)
    assert all("__post_init__" not in vars(each) for each in cls.__mro__ if each not in (Method, object))
    assert replace(cls()) == cls()


def test_numbers_of_numpy_become_pythons_and_lists_tuples() -> None:
    made: Any = methods.get("rtn")(bits=np.int64(3), exclude=["a"], affine=np.bool_(True), layer_bits={"b": np.int8(2)})
    assert (type(made.bits), made.exclude, made.affine, made.layer_bits) == (int, ("a",), True, {"b": 2})
    assert type(made.layer_bits["b"]) is int and made.affine is True
    assert type(methods.get("vlcq")(target_bits=np.float32(2.5)).target_bits) is float  # type: ignore[attr-defined]
    assert type(methods.get("lsq")(lr=1).lr) is int  # type: ignore[attr-defined]


def test_the_dictionary_of_widths_is_a_copy() -> None:
    given = {"a": 3}
    made = methods.get("rtn")(layer_bits=given)
    given["a"] = 99
    assert made.layer_bits == {"a": 3}


def test_an_unknown_field_names_the_nearest_one(network: nn.Module) -> None:
    expected = r"no field 'bit' \(did you mean 'bits'\?\)"
    with pytest.raises(UsageError, match=expected):
        tersenet.compress(network, "rtn", bit=4)
    with pytest.raises(UsageError, match=expected):
        tersenet.attach(network, "lsq", [], bit=4)
    with pytest.raises(UsageError, match=expected):
        methods.get("lapq")(bit=4)
    with pytest.raises(UsageError, match=r"no field 'zzz'; it has"):
        methods.get("lapq")(zzz=4)
    with pytest.raises(UsageError, match=r"no option '--bit' \(did you mean '--bits'\?\)"):
        build_method("rtn", ["--bit", "4"])


def test_fields_beside_a_method_and_names_in_its_place_are_refused(network: nn.Module, checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="leave out bits="):
        tersenet.compress(network, methods.get("rtn")(), bits=4)
    with pytest.raises(UsageError, match="expected a method"):
        compress_file(checkpoint, checkpoint.with_name("never.terse"), "rtn")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected a method"):
        tersenet.compress(network, methods.get("rtn"))  # type: ignore[arg-type]


def test_words_of_public_functions_are_checked_before_any_work(checkpoint: Path, network: nn.Module, task: Any) -> None:
    never = checkpoint.with_name("never.terse")
    method = methods.get("rtn")()
    with pytest.raises(UsageError, match="effort='max': expected 'fast' or 'best'"):
        compress_file(checkpoint, never, method, effort="max")
    with pytest.raises(UsageError, match="effort='max'"):
        tersenet.save(tersenet.compress(network, method), never, effort="max")
    with pytest.raises(UsageError, match="effort='max'"):
        tersenet.compress_within(checkpoint, never, method, max_bytes=10_000, effort="max")
    with pytest.raises(UsageError, match="split='tset': expected"):
        evaluate(network, task, "tset")
    assert not list(never.parent.glob("never*"))


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        (["--bits", "3"], "bits", 3), (["--bits=3"], "bits", 3), (["--affine"], "affine", True),
        (["--no-affine"], "affine", False), (["--affine=true"], "affine", True),
        (["--bn", "scale-shift"], "bn", "scale-shift"),
        (["--exclude", "a", "--exclude", "b"], "exclude", ("a", "b")),
    ],
    ids=str,
)  # fmt: skip
def test_flags_are_read_as_their_fields_want_them(flags: list[str], field: str, value: Any) -> None:
    assert getattr(build_method("rtn", flags), field) == value


@pytest.mark.parametrize("flags", [["--bits", "4.5"], ["--bits", "x"], ["--affine=maybe"], ["--bits", "9"]], ids=str)
def test_text_that_is_no_value_is_refused_like_the_value_would_be(flags: list[str]) -> None:
    with pytest.raises(UsageError, match=r"^(bits|affine)=.*: expected "):
        build_method("rtn", flags)


def test_an_optional_number_on_the_command_line_is_a_number() -> None:
    assert build_method("vlcq", ["--target-bits", "3"]) == methods.get("vlcq")(target_bits=3.0)


@pytest.mark.parametrize(("method", "field"), FIELDS, ids=map("-".join, FIELDS))
def test_what_methods_prints_is_what_the_annotation_says(method: str, field: str) -> None:
    assert {each.name: each.kind for each in methods.facts(method).fields}[field] == described(kind_of(method, field))


def test_ranges_say_and_keep_their_ends() -> None:
    within = Within(above=0.5, below=1)
    assert (0.5 in within, 0.6 in within, 1 in within, str(within)) == (False, True, False, "above 0.5 and below 1")
    assert 32 in Within(2, 8, also=32) and 9 not in Within(2, 8, also=32)
    assert fitted(Literal["a"], "a") == "a" and described(Annotated[float, Within(0, 1)] | None).endswith("or None")


def test_the_rules_offered_are_the_rules_there_are() -> None:
    assert set(Estimator.__metadata__[0].constants) == set(RULES)


def test_no_text_outside_the_command_line_tells_of_flags() -> None:
    source, found = Path(tersenet.__file__).parent, []
    styles = {source / "report" / "page.py", source / "report" / "figures" / "svg.py"}  # CSS calls its variables so
    for path in source.rglob("*.py"):
        if path.relative_to(source).parts[0] not in ("cli", "lab") and path not in styles:
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    words = node.value.replace("`", " ").replace("'", " ").replace("(", " ").split()
                    found += [(path.name, word) for word in words if word[:2] == "--" and word[2:3].isalpha()]
    assert not found
