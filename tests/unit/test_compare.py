"""Cards side by side: what differs is named, and nothing is ranked across an axis that is not."""

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from every_method import OUTSIDE, example
from tersenet import methods
from tersenet.api import compress_file
from tersenet.cli import main
from tersenet.core.method import Method
from tersenet.core.task import Task
from tersenet.errors import InputError, UsageError
from tersenet.report.card.axes import axes, differing
from tersenet.search.ablate import Ablation, flipped, method_of


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(each) for each in arguments])
    found = capsys.readouterr()
    return int(stop.value.code or 0), found.out, found.err


@pytest.fixture
def make(checkpoint: Path, network: nn.Module, task: Task, tmp_path: Path) -> Any:
    def made(name: str, method: Method, **writing: Any) -> Path:
        path = tmp_path / f"{name}.terse"
        compress_file(checkpoint, path, method, module=network, task=task, **writing)
        return path

    return made


def rtn(**fields: Any) -> Method:
    return methods.get("rtn")(**fields)


def test_every_axis_on_which_files_differ_is_named(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = make("a", rtn(bits=3)), make("b", rtn(bits=3, affine=True, exclude=("linear*",)))
    code, out, _ = run(capsys, "compare", one, other, "--json")
    found = json.loads(out)
    expected = {"bits", "symmetric", "left out", "unrounded inputs", "field affine", "field exclude"}
    assert code == 0 and set(found["differ"]) == expected
    assert found["differ"]["field affine"] == ["no", "yes"] and found["ranking"] is None


def test_nothing_is_ranked_across_an_axis_that_is_not_named(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = make("a", rtn(bits=3)), make("b", rtn(bits=3, granularity="tensor"))
    code, out, error = run(capsys, "compare", one, other, "--rank", "drop")
    assert (
        code == 2 and "not ranked: they differ on granularity, field granularity" in error and "best first" not in out
    )
    named = ("--across", "granularity", "--across", "field granularity")
    code, out, _ = run(capsys, "compare", one, other, "--rank", "bytes", *named)
    assert code == 0 and f"by bytes, the best first: {other}, {one}" in out
    assert run(capsys, "compare", one, other, "--rank", "bytes", "--across", "taste")[0] == 2
    assert run(capsys, "compare", one)[0] == 2


def test_files_that_were_not_measured_are_not_ranked_by_drop(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = make("a", rtn(), measured=False), make("b", rtn(), measured=False)
    code, _, error = run(capsys, "compare", one, other, "--rank", "drop")
    assert code == 2 and "it was not measured" in error
    assert "they differ on no axis" in run(capsys, "compare", one, other)[1]


def test_axes_of_a_card_that_is_not_ours_are_not_given() -> None:
    found = axes({"card": 7, "weights": 3, "method": {"fields": {"a": 1}}})
    assert found["method"] == "not given" and found["field a"] == "1"
    assert differing([{"card": 1}, {"card": 2}]) == {}


def test_one_axis_is_flipped_and_method_and_seed_come_from_the_card(
    make: Any, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = make("a", rtn(bits=3))
    assert method_of(file) == rtn(bits=3)
    words = ("ablate", file, "--checkpoint", checkpoint, "--model", "digits", "--task", "digits")
    code, out, _ = run(capsys, *words, "--flip", "affine", "-o", tmp_path / "kept", "--json")
    found = json.loads(out)
    assert code == 0 and found["labels"] == ["affine=False", "affine=True"]
    assert set(found["differ"]) == {"symmetric", "field affine"}
    assert [card["result"]["split"] for card in found["cards"]] == ["validation", "validation"]
    made = tmp_path / "kept" / "affine-1.terse"
    assert method_of(made) == rtn(bits=3, affine=True)
    expected = make("b", rtn(bits=3, affine=True), measured=False)
    assert made.read_bytes() == expected.read_bytes()
    code, out, _ = run(capsys, *words, "--flip", "bits=2")
    assert code == 0 and "field bits" in out
    for flip, says in (("bits", "name one"), ("bits=3", "already"), ("taste", "no axis"), ("affine=maybe", "true or")):
        code, _, error = run(capsys, *words, "--flip", flip)
        assert code == 2 and says in error, flip


def test_an_ablation_on_another_checkpoint_is_refused(make: Any, network: nn.Module, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file, other = make("a", rtn()), tmp_path / "other.safetensors"
    save_file({name: value + 1 for name, value in network.state_dict().items()}, other)
    with pytest.raises(InputError, match="not the one"):
        Ablation(file, other, network, None)


def test_a_method_that_no_file_tells_is_asked_for(make: Any) -> None:
    file = make("a", example("binary"))
    with pytest.raises(UsageError, match="name it as"):
        method_of(file)
    assert method_of(file, OUTSIDE["binary"]) == example("binary")


def test_flipping_skips_values_that_do_not_go_with_the_rest() -> None:
    assert [each.bn for each in flipped(rtn(equalise=True, bn="fold"), "bn")] == ["keep"]  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="no axis"):
        flipped(rtn(), "taste")


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize(
    ("worse", "flip"),
    [({"granularity": "tensor"}, "granularity=channel"), ({}, "exclude=conv1.weight,linear.weight")],
    ids=["per channel is no worse than per tensor", "leaving out the first and the last layer does not hurt"],
)
def test_one_axis_orders_as_in_the_paper(
    worse: dict[str, Any], flip: str, bits: int, make: Any, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = make("a", rtn(bits=bits, **worse))
    words = ("ablate", file, "--checkpoint", checkpoint, "--model", "digits", "--task", "digits", "--json")
    before, after = json.loads(run(capsys, *words, "--flip", flip)[1])["cards"]
    assert after["result"]["score"]["mean"] > before["result"]["score"]["mean"]
