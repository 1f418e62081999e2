"""The report: one page with a table behind every chart, of a file, a search or a training; nothing of others runs."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn

from tersenet.analysis.classes import by_class
from tersenet.api import compress_file
from tersenet.cli import main
from tersenet.core.grid import Uniform
from tersenet.core.method import RunFolder
from tersenet.core.model import CompressedModel, KeptTensor, QTensor
from tersenet.core.task import Task
from tersenet.errors import InputError
from tersenet.files.summary import summarize
from tersenet.files.terse import load, save
from tersenet.methods import get
from tersenet.report import contents
from tersenet.report.figures import Axis, Point, Series, scatter
from tersenet.report.page import Page, Section, html
from tersenet.report.peers import read_peers
from tersenet.search.trials import Trials, read

LIMIT = 400_000  # bytes of a page
NAMES = ("<img src=x onerror=alert(1)>", "a\x1b[31m\x00b", "‮gpj.exe‏", "x" * 10_000)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main([*arguments])
    return int(stop.value.code or 0)


class Structure(HTMLParser):
    """What a page has: tags that are opened and not closed, ids, references to them, addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.ids: list[str] = []
        self.named: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        self.close()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in ("meta", "link"):
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            self.ids += [value or ""] if name == "id" else []
            self.named += [value or ""] if name == "aria-labelledby" else []
            self.links += [value or ""] if name in ("src", "href") else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def structure(text: str) -> Structure:
    """The structure of a page, after the facts that hold of every one."""
    found = Structure(text)
    assert not found.open and len(found.ids) == len(set(found.ids)) and set(found.named) <= set(found.ids)
    assert found.links == ["data:,"] and len(text.encode()) < LIMIT
    assert found.count["svg"] <= found.count["table"] and found.count["h1"] == 1
    assert "default-src 'none'" in text and 'lang="en"' in text
    return found


@pytest.fixture(scope="module")
def file(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report") / "d.terse"
    compress_file(checkpoint, place, get("rtn")(bits=4))
    return place


def test_the_page_of_a_file_has_a_table_behind_every_chart(file: Path, tmp_path: Path) -> None:
    page = tmp_path / "p.html"
    assert run("report", str(file), "-o", str(page)) == 0
    found = structure(page.read_text("utf-8"))
    assert found.count["svg"] == 6 and "script" not in found.count  # bytes, bits, and levels of four layers
    assert run("report", str(file), "-o", str(page)) == 1  # it is there
    assert run("report", str(file), "-o", str(page), "--overwrite", "--layer", "conv2.weight") == 0
    assert structure(page.read_text("utf-8")).count["svg"] == 3
    assert run("report", str(file), "-o", str(page), "--overwrite", "--layer", "nothing") == 2


def test_the_parts_of_the_bytes_add_up_to_the_file(file: Path) -> None:
    rows = contents.where_the_bytes_are(summarize(file)).rows
    sizes = [int(str(row[1]).replace(",", "")) for row in rows]
    assert sum(sizes[:-1]) == sizes[-1] == file.stat().st_size
    assert {"codes", "scales and grids", "kept tensors", "index"} <= {row[0] for row in rows}


def test_the_levels_of_a_layer_are_those_of_the_file(file: Path) -> None:
    ((_, figure),) = contents.levels_of_layers(summarize(file), load(file), ["conv2.weight"])
    entry = load(file).tensors["conv2.weight"]
    assert isinstance(entry, QTensor)
    counts = {int(str(row[0])): int(str(row[2]).replace(",", "")) for row in figure.rows}
    assert counts == {code: int((entry.codes == code).sum()) for code in counts}
    assert sum(counts.values()) == entry.codes.numel()


def test_the_page_of_a_search_has_its_trials_and_of_the_file_what_it_scores(
    within: object, checkpoint: Path, tmp_path: Path
) -> None:
    outcome = within()  # type: ignore[operator]
    judged = ["--model", "digits", "--task", "digits", "--against", str(checkpoint)]
    peers, costs = tmp_path / "peers.csv", tmp_path / "s.json"
    peers.write_text("network,tool,bytes,accuracy,drop\ndigits,zip <b>,30000,0.9,1.5\nother,zip,1,0.9,\n")
    costs.write_text(json.dumps({"layers": [{"name": "conv2.weight", "loss_alone": 0.25}]}))
    more = ["--peers", str(peers), "--sensitivity", str(costs)]
    assert run("report", str(tmp_path / "o.terse.search"), "-o", str(tmp_path / "p.html"), *judged, *more) == 0
    text = (tmp_path / "p.html").read_text("utf-8")
    found = structure(text)
    assert f"{len(outcome.trials)} trials" in text and "zip &lt;b&gt;" in text and "0.2500" in text
    for title in ("the drop", "accuracy", "agreement"):
        assert f"Bytes against {title}" in text
    assert "chosen file" in text  # the target of the log is known, unit and all
    assert "Worst classes" in text and found.count["svg"] == 10
    assert run("report", str(tmp_path / "o.terse"), "-o", str(tmp_path / "q.html")) == 0  # finds the search beside it
    assert "frontier" in (tmp_path / "q.html").read_text("utf-8")


def test_the_page_of_a_training_has_its_curves(
    checkpoint: Path, network: nn.Module, task: Task, tmp_path: Path
) -> None:
    method = get("lsq")(epochs=1)
    place = RunFolder(tmp_path / "run")
    compress_file(checkpoint, tmp_path / "t.terse", method, module=network, task=task, run=place)
    with (tmp_path / "run" / "log.jsonl").open("a") as log:
        log.write('{"step": 99, "lo')  # it is just being written
    assert run("report", str(tmp_path / "run")) == 0
    text = (tmp_path / "run.html").read_text("utf-8")
    found = structure(text)
    assert found.count["svg"] == 3 and "method=lsq" in text  # loss, scores, learning rate
    for name in ("Loss", "Score", "Learning rate"):
        assert f"<bdi>{name}</bdi></figcaption>" in text


def test_a_folder_of_nothing_and_a_foreign_file_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    assert run("report", str(tmp_path)) == 2
    assert run("report", str(checkpoint)) == 1
    assert run("report", str(tmp_path / "absent.terse")) == 1
    assert run("report", str(checkpoint), "--model", "digits") == 2
    assert not list(tmp_path.glob("*.html"))


def test_watching_writes_again_when_something_changed_until_it_is_interrupted(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place, page = tmp_path / "w.terse", tmp_path / "w.terse.html"
    place.write_bytes(file.read_bytes())
    sizes, rounds = [], iter(range(4))

    def sleep(seconds: float) -> None:
        sizes.append(page.stat().st_mtime_ns)
        match next(rounds):
            case 1:
                place.write_bytes(b"just being replaced")
            case 2:
                place.write_bytes(file.read_bytes())
            case 3:
                raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    assert run("report", str(place), "--watch") == 0
    assert "the page stays as it is" in capsys.readouterr().err
    assert sizes[0] == sizes[1] == sizes[2] < sizes[3]
    text = page.read_text("utf-8")
    script = text[text.index("<script>") + 8 : text.index("</script>")]
    assert structure(text).count["button"] == 1 and "location.reload()" in script and "aria-pressed" in text


def test_hostile_names_are_escaped_cut_and_kept_in_their_direction(tmp_path: Path) -> None:
    grid = Uniform(torch.tensor(0.5))
    codes = torch.arange(-8, 8, dtype=torch.int8).repeat(20)
    tensors = {name: QTensor(codes, grid) for name in NAMES}
    kept = {f"k{name}": KeptTensor(torch.ones(3), torch.float32, name[:50]) for name in NAMES}
    made = CompressedModel({**tensors, **kept}, provenance={"method": NAMES[0], "fields": {NAMES[2]: NAMES[3]}})
    place = tmp_path / "<b>&.terse"
    save(made, place)
    assert run("report", str(place), "-o", str(tmp_path / "p.html")) == 0
    text = (tmp_path / "p.html").read_text("utf-8")
    found = structure(text)
    assert {"img", "b", "script"}.isdisjoint(found.count) and "&lt;img src=x" in text
    assert not {"‮", "‏", "\x1b", "\x00"} & set(text) and "x" * 700 not in text


def test_a_thousand_layers_and_five_thousand_trials_stay_below_the_limit(tmp_path: Path) -> None:
    codes = torch.arange(-128, 128, dtype=torch.int8)
    entry = QTensor(codes, Uniform(torch.tensor(0.5)))
    save(CompressedModel({"w": entry}, provenance={"method": "rtn"}), tmp_path / "x.terse")
    small = summarize(tmp_path / "x.terse")
    names = [f"a.rather.long.name.of.a.layer.{i}.weight" for i in range(1000)]
    summary = replace(small, rows=[replace(small.rows[0], name=name) for name in names])
    points = [Point(i + 1, float(i), i - 1.0, i + 1.0, f"rtn bits={i} and more words") for i in range(5000)]
    bits = contents.bits_of_layers(summary, {})
    assert bits is not None
    sections = [
        Section("a", [scatter("t", Axis("x", log=True), Axis("y"), [Series("rtn", points)])] * 3),
        Section("b", [contents.where_the_bytes_are(summary), bits]),
        Section("c", choice=contents.levels_of_layers(summary, CompressedModel(dict.fromkeys(names, entry)), [])),
    ]
    structure(html(Page("x", contents.facts(summary), sections)))


def test_a_live_log_is_read_without_a_change(tmp_path: Path) -> None:
    log = Trials(tmp_path / "trials.sqlite", {"target": {"max_bytes": 5, "max_drop": None}})
    before = (tmp_path / "trials.sqlite").read_bytes()
    assert read(tmp_path / "trials.sqlite") == ({"target": {"max_bytes": 5, "max_drop": None}}, [])
    assert (tmp_path / "trials.sqlite").read_bytes() == before
    log.close()
    (tmp_path / "trials.sqlite").write_bytes(b"SQLite format 3\0" + b"\xff" * 500)
    with pytest.raises(InputError, match="damaged"):
        read(tmp_path / "trials.sqlite")


@pytest.mark.parametrize(
    "row",
    ["zip,x,0.9", "zip,0,0.9", "zip,10,", "zip,10,nan", "zip"],
    ids=["words", "nothing", "no score", "nan", "short"],
)
def test_a_row_of_peers_that_is_wrong_is_named(row: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(f"tool,bytes,accuracy\nfine,10,0.5\n{row}\n")
    with pytest.raises(InputError, match=r"p.csv, line 3: expected columns tool and bytes"):
        read_peers(tmp_path / "p.csv")


def test_the_scores_of_classes_add_up_and_the_worst_is_first(
    network: nn.Module, trained: nn.Module, task: Task
) -> None:
    with torch.no_grad():
        network.linear.bias[3] -= 100  # type: ignore[union-attr, operator, index]
    found = by_class(network, task, "validation", trained)
    assert found[0].label == 3 and found[0].right == 0 and found[0].drop > 50
    assert sum(each.n for each in found) == 197 and sorted(each.label for each in found) == list(range(10))
    (plain,) = {each.before for each in by_class(network, task, "validation")}
    assert plain is None


def test_every_table_of_the_page_can_be_scrolled_with_the_keyboard(file: Path, tmp_path: Path) -> None:
    run("report", str(file), "-o", str(tmp_path / "p.html"))
    text = (tmp_path / "p.html").read_text("utf-8")
    assert len(re.findall(r'role="region" tabindex="0" aria-label="[^"]+"><table>', text)) == text.count("<table>")
    assert text.count('scope="col"') >= 2 * text.count("<table>") and 'scope="row"' in text
