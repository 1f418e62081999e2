"""The documents say what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    from tersenet import methods

    made = ["api.md", "security.md", "contributing.md", *(f"methods/{name}.md" for name in methods.names())]
    of_the_site = {(ROOT / "docs" / name).resolve() for name in made}  # `make docs` makes them (packaging/site.py)
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if "://" not in link:
            place = (page.parent / link).resolve()
            assert place.exists() or (place in of_the_site and page.is_relative_to(ROOT / "docs")), link


def test_the_readme_is_a_screen_and_a_half_and_leads_to_everything() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(re.sub(r"<!--.*?-->", "", text, flags=re.S).splitlines()) <= 90  # what is shown
    assert "make demo" in text and "make test" in text and "make docs" in text
    assert all(f"docs/tutorials/{page.name}" in text for page in (ROOT / "docs" / "tutorials").glob("*.md"))


def test_the_readmes_first_lines_of_python_run_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)[0]
    assert len([line for line in first.splitlines() if line.strip()]) <= 12
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        exec(compile(first, "README", "exec"), {})
    assert (tmp_path / "net.terse").is_file()
