"""What pages show is what happens: every block of code on them runs, and every public name has an example that does."""

import doctest
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tersenet
from tersenet.cli import main
from tersenet.methods import facts, names

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r'^```(python|sh)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "docs" / "index.md", *TUTORIALS]
LONG = ("2", "3", "4")  # tutorials that search or train
RUNNING = [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] * (p.stem[0] in LONG)) for p in PAGES]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of one's own to run in, whose files can be imported, and what is imported there is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def run(language: str, title: str, text: str, names: dict[str, Any]) -> None:
    """One block: Python in the page's namespace, a file that it is the text of, or commands that must end with 0."""
    if title:
        Path(title).write_text(text, "utf-8")
    elif language == "python":
        exec(compile(text, "page", "exec"), names)
    else:
        for line in text.replace("\\\n", " ").splitlines():
            program, *arguments = shlex.split(line)
            assert program == "tersenet", line
            with pytest.raises(SystemExit) as stop:
                main(arguments)
            assert not stop.value.code, line


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", RUNNING)
def test_every_block_of_code_on_a_page_runs(page: Path, folder: Path) -> None:
    blocks = BLOCK.findall(page.read_text("utf-8"))
    assert blocks
    names: dict[str, Any] = {}
    for block in blocks:
        run(*block, names)


def test_the_method_of_a_page_has_at_most_40_lines() -> None:
    (block,) = (b for b in BLOCK.findall(TUTORIALS[5].read_text("utf-8")) if b[1] == "largest.py")
    assert len(block[2].splitlines()) <= 40


def test_there_are_seven_tutorials() -> None:
    assert [page.stem[0] for page in TUTORIALS] == list("1234567")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(set(tersenet.__all__) - {"__version__"}))
def test_a_public_name_is_explained_with_an_example_that_runs(name: str, folder: Path) -> None:
    each = getattr(tersenet, name)
    assert each.__doc__ and each.__doc__.strip()
    examples = doctest.DocTestParser().get_examples(each.__doc__)
    assert [e for e in examples if not e.options.get(doctest.SKIP)], f"{name} has no example that runs"
    known = {"torch": torch, "nn": torch.nn, **{public: getattr(tersenet, public) for public in tersenet.__all__}}
    test = doctest.DocTestParser().get_doctest(each.__doc__, known, name, None, 0)
    shown: list[str] = []
    failed, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=shown.append)
    assert not failed, "".join(shown)


@pytest.mark.parametrize("name", names())
def test_a_method_says_when_to_use_it_when_not_and_what_it_costs(name: str) -> None:
    *_, last = facts(name).docstring.split("\n\n")
    text = " ".join(last.split())
    assert re.fullmatch(r"Use it .+\. Not .+\. It costs .+\.", text), text


def test_the_chooser_names_every_method() -> None:
    text = (ROOT / "docs" / "chooser.md").read_text("utf-8")
    assert [name for name in names() if f"methods/{name}.md" not in text] == []


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    import logging

    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"))
    config.plugins.on_startup(command="build", dirty=False)
    logging.getLogger("mkdocs").setLevel(logging.WARNING)
    build(config)  # strict: aborts on a warning
    pages = {path.name for path in (tmp_path / "site" / "methods").glob("*.html")}
    assert pages == {"index.html", *(f"{name}.html" for name in names())}
    api = (tmp_path / "site" / "api.html").read_text("utf-8")
    assert all(f'id="tersenet.{tersenet._HOMES[n]}.{n}"' in api for n in set(tersenet.__all__) - {"__version__"})
    fetched = re.compile(r'<(?:script|img|iframe|source)[^>]+src="?(?:https?:)?//|<link[^>]+href="?(?:https?:)?//')
    for page in (tmp_path / "site").rglob("*.html"):
        assert not fetched.search(page.read_text("utf-8")), page  # it works without a network
