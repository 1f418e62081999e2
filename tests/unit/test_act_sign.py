"""Signed or one-sided levels of inputs: a field of every method that rounds inputs, found again in the file."""

import copy
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import nn

from tersenet import methods
from tersenet.api import compress
from tersenet.core.levels import Integers
from tersenet.core.task import Task
from tersenet.errors import UsageError
from tersenet.files.terse import load, save
from tersenet.quantizers.activation import InputQuantizer, Observer

ROUNDING = [name for name in methods.names() if "act_bits" in {each.name for each in fields(methods.get(name))}]


def levels(signed: bool) -> Integers:
    return Integers(-8, 7) if signed else Integers(0, 15)


def test_every_method_that_rounds_inputs_has_the_field_and_today_s_default() -> None:
    assert len(ROUNDING) >= 8
    for name in ROUNDING:
        assert {each.name: each.default for each in fields(methods.get(name))}["act_sign"] == "seen", name


@pytest.mark.parametrize(
    ("sign", "low", "lowest"), [("seen", -1.0, -8), ("seen", 0.0, 0), ("signed", 0.0, -8), ("one-sided", -1.0, 0)]
)
def test_the_levels_have_the_sign_that_is_asked_for(sign: Any, low: float, lowest: int) -> None:
    quantizer = InputQuantizer("minmax", levels, sign)
    quantizer(torch.linspace(low, 3.0, 50).reshape(1, -1))
    quantizer.settle()
    assert quantizer.freeze().levels.low == lowest


def test_one_sided_ranges_do_not_look_at_negative_inputs() -> None:
    found = {}
    for sign in ("seen", "one-sided"):
        observer = Observer(sign)  # type: ignore[arg-type]
        observer.see(torch.tensor([[-100.0, 0.5, 2.0]]))
        found[sign] = observer.clip("minmax", levels(observer.signed))
    assert found == {"seen": 100.0, "one-sided": 2.0}


@pytest.mark.parametrize("name", ROUNDING)
def test_signed_levels_are_in_the_file_and_come_back(name: str, network: nn.Module, task: Task, tmp_path: Any) -> None:
    method = methods.get(name)(**{**methods.get(name).QUICK, "act_bits": 4, "act_sign": "signed"})
    model = compress(network, method.untrained or method, task=task)
    assert model.activations and all(each.levels.low < 0 for each in model.activations.values())
    assert model.provenance["fields"]["act_sign"] == "signed"
    save(model, tmp_path / "x.terse")
    inputs, _ = next(iter(task.split("validation")))
    ours = model.apply_to(copy.deepcopy(network)).eval()(inputs)
    assert torch.equal(ours, load(tmp_path / "x.terse").apply_to(copy.deepcopy(network)).eval()(inputs))


def test_levels_of_learned_bases_have_no_sign_to_choose() -> None:
    with pytest.raises(UsageError, match="act_sign"):
        methods.get("alq")(act_bits=2, act_grid="bases", act_sign="signed")
