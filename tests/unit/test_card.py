"""Cards say what is in a file, escape what a file says, and stay readable where a newer version wrote them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from torch import nn

import tersenet
from tersenet import CompressedModel, QTensor, Uniform, methods
from tersenet.api import compress_file
from tersenet.cards import beside
from tersenet.cli import main
from tersenet.codec.coders import CODERS
from tersenet.core.task import Task
from tersenet.errors import FormatError, OutputError, UsageError
from tersenet.files.results import NAME, Results, content_hash, record, results_of
from tersenet.files.terse import load, save
from tersenet.network.uses import described
from tersenet.quantizers.estimators import RULES
from tersenet.quantizers.references import ESTIMATORS, reference_of
from tersenet.report.card import hash_of, markdown, page, schema
from tersenet.verifier import check

HOSTILE = [
    "<script>alert(1)</script>",
    "a|b`c*d_e[f](g)\\",
    "\x1b[2J\x00\n\r\u2028",
    "\u202egnp.exe\u2066",
    "x" * 10_000,
]
RESNET50 = [(64, 3, 7)]  # then four stages of bottlenecks, and 1000 classes
for width, blocks, inner in ((256, 3, 64), (512, 4, 128), (1024, 6, 256), (2048, 3, 512)):
    before = RESNET50[-1][0]
    for block in range(blocks):
        RESNET50 += [(inner, before, 1), (inner, inner, 3), (width, inner, 1)] + [(width, before, 1)] * (block == 0)
        before = width


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(each) for each in arguments])
    return int(stop.value.code or 0), capsys.readouterr().out


@pytest.fixture
def file(checkpoint: Path, network: nn.Module, task: Task, tmp_path: Path) -> Path:
    path = tmp_path / "x.terse"
    compress_file(checkpoint, path, methods.get("rtn")(bits=4), module=network, task=task)
    return path


def test_four_bit_resnet_50_with_eight_bits_at_both_ends_has_4_3227(tmp_path: Path) -> None:
    shapes = [(rows, columns, size, size) for rows, columns, size in RESNET50]
    matrices: list[tuple[int, ...]] = [*shapes, (1000, 2048)]
    tensors = {}
    for number, shape in enumerate(matrices):
        top = 127 if number in (0, len(matrices) - 1) else 7
        codes = torch.zeros(shape, dtype=torch.int8)
        codes.view(-1)[:2] = torch.tensor([-top, top])
        tensors[f"layer{number}.weight"] = QTensor(codes, Uniform(torch.tensor(0.5)))
    save(CompressedModel(tensors), tmp_path / "x.terse")
    average = tersenet.card(tmp_path / "x.terse")["weights"]["average_bits"]["weights_of_layers"]
    assert average["weights"] == 25_502_912 and f"{average['bits']:.4f}" == "4.3227"


def test_macs_are_uses_times_weights_of_every_kind_of_layer() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(50, 8)
            self.conv = nn.Conv1d(8, 6, 3, padding=1, groups=2)
            self.up = nn.ConvTranspose1d(6, 4, 2, stride=2)
            self.recurrent = nn.LSTM(4, 5, batch_first=True)
            self.out = nn.Linear(5, 3)
            self.unused = nn.Linear(5, 3)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            grown = self.up(self.conv(self.table(tokens).transpose(1, 2)))
            return self.out(self.out.weight.new_zeros(1) + self.recurrent(grown.transpose(1, 2))[0])

    network, tokens = Net().eval(), torch.randint(0, 50, (3, 7))
    task = Task(validation=[(tokens, torch.zeros(3, 14, dtype=torch.long))])
    model = tersenet.compress(network, "rtn", task=task)
    shapes, names = model.provenance["shapes"], [n for n, e in model.tensors.items() if len(e.shape) > 1]
    uses = dict(zip(names, shapes["uses"], strict=True))
    assert shapes["input"] == [[7]]
    assert (uses["table.weight"], uses["conv.weight"], uses["up.weight"], uses["out.weight"]) == (0, 7, 7, 14)
    assert uses["recurrent.weight_ih_l0"] == 14 and uses["unused.weight"] is None
    assert dict(zip(names, shapes["outputs"], strict=True))["up.weight"] == 4 * 14


def test_measuring_changes_the_results_and_no_other_byte(file: Path) -> None:
    before, content = file.read_bytes(), content_hash(file)
    found = results_of(file)
    assert found is not None and content.startswith(found.of)
    record(file, replace(found, split="elsewhere").as_json())
    after = file.read_bytes()
    changed = np.flatnonzero(np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8))
    assert len(before) == len(after) and content_hash(file) == content
    assert changed.size and changed.max() - changed.min() < 192
    assert load(file).results == replace(found, split="elsewhere").as_json()


@pytest.mark.parametrize("number", [-1.23456789e-300, 123456789.123, float("inf"), 0.0])
@pytest.mark.parametrize("name", HOSTILE)
def test_results_fit_their_room_whatever_they_are_called(file: Path, name: str, number: float) -> None:
    three = (number, number, number)
    record(file, Results("f" * 64, name, name, 10**9, three, number, three, (10**5, number), "a" * 64).as_json())
    found = results_of(file)
    assert found is not None and len(found.metric.encode()) <= NAME and found.n == 10**9
    assert check(file, tersenet.card(file)) == []


def test_results_of_another_file_are_not_taken_for_those_of_this_one(file: Path) -> None:
    found = results_of(file)
    assert found is not None and tersenet.card(file)["result"]["of_this_file"]
    record(file, replace(found, of="0" * 16).as_json())
    assert tersenet.card(file)["result"]["of_this_file"] is False


def test_a_file_without_room_for_results_says_so(checkpoint: Path, tmp_path: Path) -> None:
    save(tersenet.compress(checkpoint, "rtn"), tmp_path / "x.terse")
    assert results_of(tmp_path / "x.terse") is None and tersenet.card(tmp_path / "x.terse")["result"] is None
    with pytest.raises(OutputError, match="no room for results"):
        record(tmp_path / "x.terse", [])


def test_a_budget_counts_the_results(within: Any, tmp_path: Path) -> None:
    outcome = within(max_drop=None, max_bytes=26_000)
    assert outcome.best.bytes == (tmp_path / "o.terse").stat().st_size <= 26_000
    found = results_of(tmp_path / "o.terse")
    assert found is not None and found.split == "test" and outcome.model.results


def test_the_same_command_gives_the_same_bytes_whatever_the_clock_says(
    file: Path, checkpoint: Path, network: nn.Module, task: Task, tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere" / "y.terse"
    other.parent.mkdir()
    compress_file(checkpoint, other, methods.get("rtn")(bits=4), module=network, task=task)
    assert other.read_bytes() == file.read_bytes()


def test_the_command_line_writes_a_card_beside_the_file(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.terse"
    code, _ = run(capsys, "compress", checkpoint, "-o", path, "--method", "rtn", "--card-field", "license=mit")
    saved = json.loads(beside(path).read_text("utf-8"))
    assert code == 0 and saved == tersenet.card(path) and saved["run"]["seconds"] > 0
    assert saved["identity"]["given"] == {"license": "mit"} and str(tmp_path).encode() not in path.read_bytes()
    assert 'license: "mit"' in run(capsys, "card", path)[1]
    assert json.loads(run(capsys, "card", path, "--json")[1]) == saved
    assert run(capsys, "card", path, "--html")[1].startswith("<!doctype html>")
    beside(path).unlink()
    assert "not in the file" in run(capsys, "card", path)[1]
    assert run(capsys, "compress", checkpoint, "-o", path, "--card-field", "license")[0] == 2


def test_a_card_beside_a_file_that_is_of_another_file_is_not_believed(file: Path) -> None:
    card = tersenet.card(file)
    beside(file).write_text(
        json.dumps({**card, "identity": {**card["identity"], "content": "0" * 64}, "run": {"a": 1}})
    )
    assert tersenet.card(file)["run"] is None


@pytest.mark.parametrize("name", HOSTILE, ids=["html", "markdown", "control", "direction", "long"])
def test_what_a_file_says_is_escaped_in_every_output(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = torch.randint(-7, 8, (20, 20), dtype=torch.int8)
    tensors = {f"{name}.weight": QTensor(codes, Uniform(torch.tensor(0.5)))}
    about = {"method": name, "fields": {name: name}, "notes": [name], "given": {"name": name, "license": name}}
    save(CompressedModel(tensors, provenance=about), tmp_path / "x.terse")
    card = tersenet.card(tmp_path / "x.terse")
    assert check(tmp_path / "x.terse", card) == []
    shown = [markdown(card), page(card)]
    shown += [
        run(capsys, *words)[1] for words in (["card", tmp_path / "x.terse"], ["card", "--html", tmp_path / "x.terse"])
    ]
    shown.append(run(capsys, "compare", tmp_path / "x.terse", tmp_path / "x.terse")[1])
    assert all("<script" not in text.replace("\\<script", "") for text in shown[:4])  # the last is for a terminal
    for text in shown:
        assert len(text) < 40_000
        assert all(char.isprintable() or char == "\n" for char in text)
    yaml = pytest.importorskip("yaml")
    head = yaml.safe_load(markdown(card).split("---\n")[1])
    assert head["library_name"] == "tersenet" and set(head) <= {"library_name", "tags", "license"}


def test_a_card_of_a_newer_version_is_shown_as_far_as_known(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = {
        **tersenet.card(file),
        "card": 2,
        "energy": {"joules": 17},
        "weights": {"layers": "elsewhere"},
        "cost": None,
    }
    (tmp_path / "newer.json").write_text(json.dumps(newer))
    code, text = run(capsys, "card", tmp_path / "newer.json")
    assert (
        code == 0
        and "## From a newer version of tersenet" in text
        and "joules 17" in text
        and "| method | rtn |" in text
    )
    (tmp_path / "none.json").write_text("[]")
    assert run(capsys, "card", tmp_path / "none.json")[0] == 1


def test_results_of_a_newer_version_are_read_as_far_as_known(file: Path) -> None:
    found = results_of(file)
    assert found is not None
    record(file, [*found.as_json(), {"new": 1}])
    assert results_of(file) == found and check(file, tersenet.card(file)) == []


@pytest.mark.parametrize(
    "bad", [{}, [1], ["", "", "", 0, [0, 0, 0], 0, None, None, ""], [*"abc", 1, [0], 0, None, None, ""]]
)
def test_results_of_another_form_are_refused(file: Path, bad: Any) -> None:
    record(file, bad)
    with pytest.raises(FormatError):
        tersenet.card(file)
    with pytest.raises(FormatError):
        check(file, {})


def test_every_estimator_and_every_coder_that_is_somebodys_has_a_reference() -> None:
    assert set(ESTIMATORS) == set(RULES)
    assert {coder.name for coder in CODERS if not coder.reference} == {"raw"}
    assert reference_of("dsq:a=0.3").startswith("@inproceedings{gong2019dsq")


def test_the_schema_refuses_what_is_no_card_and_is_published() -> None:
    published = Path(__file__).parents[2] / "docs" / "card.schema.json"
    assert json.loads(published.read_text("utf-8")) == schema()
    jsonschema.Draft202012Validator.check_schema(schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"card": 1}, schema())


def test_card_fields_are_texts(network: nn.Module) -> None:
    with pytest.raises(UsageError, match="card_fields"):
        compress_file(Path("x"), "y", methods.get("rtn")(), card_fields={"a": 1})  # type: ignore[dict-item]
    source = described(tersenet.files.checkpoint.open_module(network), None, None, card_fields={"a": "b"})
    assert source.facts.provenance == {"given": {"a": "b"}} and not source.facts.results


def test_the_hash_is_that_of_canonical_json(file: Path) -> None:
    import hashlib

    card = tersenet.card(file)
    bare = {key: value for key, value in card.items() if key != "hash"}
    text = json.dumps(bare, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert card["hash"] == hash_of(card) == hashlib.sha256(text.encode()).hexdigest()
