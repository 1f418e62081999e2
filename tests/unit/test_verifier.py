"""The second reader shares nothing with the first, and finds every number of a card that the bytes do not say."""

import ast
import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tersenet
from tersenet import methods
from tersenet.api import compress_file
from tersenet.cards import beside
from tersenet.cli import main
from tersenet.core.task import Task
from tersenet.files.results import record, results_of
from tersenet.report.card import hash_of
from tersenet.verifier import RefusedError, check

sys.path[:0] = [str(Path(__file__).parents[1] / "hostile")]
SOURCE = Path(tersenet.__file__).parent / "verifier"


@pytest.fixture(scope="module")
def file(checkpoint: Path, trained: nn.Module, task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verifier") / "x.terse"
    method = methods.get("lsq")(bits=4, act_bits=4, first_last="keep", epochs=0)
    compress_file(checkpoint, path, method, module=copy.deepcopy(trained), task=task)
    return path


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the numbers, texts and truths of a card are."""
    if isinstance(value, dict):
        return [place for key, part in value.items() for place in places(part, (*path, key))]
    if isinstance(value, list):
        return [place for key, part in enumerate(value) for place in places(part, (*path, key))]
    return [path]


def forged(card: dict[str, Any], *path: Any) -> dict[str, Any]:
    """The card with one value changed and its hash right again."""
    made = copy.deepcopy(card)
    place = made
    for key in path[:-1]:
        place = place[key]
    old = place[path[-1]]
    place[path[-1]] = (not old) if isinstance(old, bool) else old + 1 if isinstance(old, int | float) else f"{old}x"
    return made | {"hash": hash_of(made)}


def test_the_second_reader_imports_nothing_else_of_tersenet_but_the_errors() -> None:
    files = sorted(SOURCE.glob("*.py"))
    assert len(files) > 5
    for path in files:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level < 2 or (node.level, node.module) == (2, "errors"), (path.name, ast.unparse(node))
                assert node.level or not (node.module or "").startswith("tersenet")
            elif isinstance(node, ast.Import):
                assert not any(alias.name.startswith("tersenet") for alias in node.names)


@pytest.mark.parametrize(
    "path",
    [
        ("weights", "layers", 0, "bits"),
        ("weights", "layers", 0, "levels"),
        ("weights", "layers", 0, "smallest"),
        ("weights", "layers", 0, "symmetric"),
        ("weights", "layers", 0, "scale", "largest"),
        ("weights", "layers", 0, "accumulator_bits"),
        ("weights", "layers", 0, "grid"),
        ("weights", "average_bits", "weights_of_layers", "bits"),
        ("activations", "layers", 0, "highest"),
        ("left_out", "share_of_weights"),
        ("left_out", "layers", 0, "weights"),
        ("cost", "macs"),
        ("cost", "parts", "codes"),
        ("cost", "bytes"),
        ("result", "score", "mean"),
        ("result", "n"),
        ("result", "samples"),
        ("identity", "content"),
        ("identity", "method"),
    ],
    ids=lambda path: ".".join(map(str, path)),
)
def test_a_forged_card_with_its_hash_made_right_fails_by_name(file: Path, path: tuple[Any, ...]) -> None:
    found = check(file, forged(tersenet.card(file), *path))
    assert any(
        each.place.split("[")[0].startswith(".".join(p for p in path if isinstance(p, str))[:6]) for each in found
    )
    assert str(path[-1]) in " ".join(each.place for each in found)


def test_every_change_of_a_card_breaks_its_hash(file: Path) -> None:
    card = tersenet.card(file)
    for path in places({key: value for key, value in card.items() if key != "hash"}):
        changed = forged(card, *path)
        assert changed["hash"] != card["hash"], path
        assert any(each.place == "hash" for each in check(file, changed | {"hash": card["hash"]})) or len(path) > 2


def test_a_card_with_one_other_character_fails(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "x.terse"
    other.write_bytes(file.read_bytes())
    text = json.dumps(tersenet.card(other), ensure_ascii=False)
    for old, new in (('"nothing"', '"nothinG"'), ('"training"', '"traininG"'), ("simulated", "Simulated")):
        if old not in text:
            continue
        beside(other).write_text(text.replace(old, new, 1), "utf-8")
        with pytest.raises(SystemExit) as stop:
            main(["verify", "--card", str(other)])
        assert stop.value.code == 1 and "hash is" in capsys.readouterr().out
    beside(other).write_text(text, "utf-8")
    with pytest.raises(SystemExit) as stop:
        main(["verify", "--card", str(other)])
    assert not stop.value.code


def test_a_part_that_is_made_up_is_found_by_the_sum(file: Path) -> None:
    card = tersenet.card(file)
    card["cost"]["parts"]["more"] = 10
    names = [each.place for each in check(file, card | {"hash": hash_of(card)})]
    assert "cost.parts.more" in names and "cost.parts, their sum" in names


def test_the_accuracy_is_measured_again(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tersenet.analysis.results import repeated
    from tersenet.lab import digits
    from tersenet.lab.models import build

    found, task = results_of(file), digits.make_task()
    assert found is not None and repeated(file, build("digits"), task, found) == []
    record(file, [*found.as_json()[:4], [0.999, 0.99, 1.0], *found.as_json()[5:]])
    recorded = results_of(file)
    assert recorded is not None
    (problem,) = repeated(file, build("digits"), task, recorded)
    assert problem.startswith("result.score is 0.999")
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(file), "--model", "digits", "--task", "digits"])
    assert stop.value.code == 1 and "accuracy: differ" in capsys.readouterr().out
    record(file, found.as_json())


def test_what_is_no_card_and_what_is_no_file_are_refused(file: Path, tmp_path: Path) -> None:
    for card in (None, [], {}, {"card": 1}, {"card": 1, "cost": {"parts": {"a": "b"}}}):
        with pytest.raises(RefusedError):
            check(file, card)
    (tmp_path / "x.terse").write_bytes(file.read_bytes()[:-7])
    with pytest.raises(RefusedError):
        check(tmp_path / "x.terse", tersenet.card(file))


def test_codes_far_outside_their_type_are_refused_not_wrapped(tmp_path: Path) -> None:
    from tersenet.verifier.codes import decode

    head = bytes([0, 0x80 | 3, 0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F])
    with pytest.raises((RefusedError, IndexError, ValueError)):
        decode(1, head + bytes(3), [bytes(8)], 1 << 20, [3], "i8")


def test_many_chunks_of_many_states_decode_as_they_were(tmp_path: Path) -> None:
    from tersenet import CompressedModel, QTensor, Uniform
    from tersenet.verifier import read

    draw = torch.Generator().manual_seed(3)
    codes = torch.randn(3, 800_000, generator=draw).mul(9).round().clamp(-127, 127).to(torch.int8)
    tersenet.save(CompressedModel({"x": QTensor(codes, Uniform(torch.tensor(1.0)))}), tmp_path / "x.terse")
    assert (torch.from_numpy(read(tmp_path / "x.terse")["x"]) == codes).all()


def test_forged_uses_are_found_where_the_network_is_at_hand(file: Path, tmp_path: Path) -> None:
    from forge import forge

    from tersenet.analysis.results import repeated
    from tersenet.lab import digits
    from tersenet.lab.models import build

    def fewer(index: Any) -> None:
        index["provenance"]["shapes"]["uses"][1] = 1

    other = tmp_path / "x.terse"
    other.write_bytes(forge(file.read_bytes(), fewer))
    found = results_of(other)
    assert found is not None and tersenet.card(other)["result"]["of_this_file"] is False
    (problem,) = repeated(other, build("digits"), digits.make_task(), found)
    assert problem.startswith("the shapes that MACs are made of are")


@pytest.mark.parametrize("value", [{"uses": [1]}, {"uses": [-1, 1, 1, 1]}, {"uses": "many"}, {}])
def test_shapes_that_are_not_those_of_the_tensors_are_refused(file: Path, value: Any, tmp_path: Path) -> None:
    from forge import forge

    from tersenet.errors import FormatError

    def replaced(index: Any) -> None:
        index["provenance"]["shapes"] = value

    other = tmp_path / "x.terse"
    other.write_bytes(forge(file.read_bytes(), replaced))
    with pytest.raises(FormatError, match="shapes"):
        tersenet.card(other)
    with pytest.raises(RefusedError):
        check(other, tersenet.card(file))


def test_results_that_are_not_last_or_of_another_size_are_refused(file: Path, tmp_path: Path) -> None:
    from forge import forge

    from tersenet.errors import FormatError

    def first(index: Any) -> None:
        index["sections"].insert(0, index["sections"].pop())

    def longer(index: Any) -> None:
        index["sections"][-1][0] = 120

    for edit, sections in (
        (first, lambda parts: parts[-1:] + parts[:-1]),
        (longer, lambda parts: [*parts[:-1], b" " * 120]),
    ):
        other = tmp_path / "x.terse"
        other.write_bytes(forge(file.read_bytes(), edit, sections))
        with pytest.raises(FormatError, match="results"):
            tersenet.load(other)
        with pytest.raises(RefusedError):
            check(other, {})
