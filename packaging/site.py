"""The parts of the documentation that are made from the source: a hook of mkdocs (`make docs`).

Method pages from docstrings, fields, BibTeX and the method's section of docs/results.md; the API reference's list of
names; pages that lie at the top of the repository; and files of the repository that pages link to.
"""

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))  # what is described is the source beside the pages, whatever is installed
import tersenet  # noqa: E402
from tersenet.methods import facts, names  # noqa: E402

TOP = {"SECURITY.md": "security.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINKED = ("benchmarks", "examples", "tests/outside", "tests/fuzz", "src/tersenet/quantizers")
LINK = re.compile(r"(\]\()([^)#:\s]+)(#[^)]*)?\)")
GROUPS = {
    "Compress": ("compress", "compress_within", "auto"),
    "Save and load": ("save", "load", "load_into", "Checkpoint"),
    "Judge": ("Task", "Outcome"),
    "Train in a loop of your own": (
        "attach",
        "param_groups",
        "on_epoch",
        "anneal",
        "penalty",
        "after_step",
        "freeze",
        "detach",
    ),
    "Write a method": ("Method", "Job", "Knob", "RunFolder", "TrainedMethod", "Target", "Phase", "Quantizer"),
    "What a file holds": ("CompressedModel", "QTensor", "KeptTensor", "Uniform", "Codebook"),
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the methods and the design pages into the navigation."""
    more = {
        "Methods": [f"methods/{name}.md" for name in names()],
        "Design": [f"design/{path.name}" for path in sorted((ROOT / "docs" / "design").glob("*.md"))],
    }
    for entry in config.nav or []:
        for title in more.keys() & (entry if isinstance(entry, dict) else {}).keys():
            entry[title] = [*entry[title], *more[title]]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and the files that pages link to."""
    pages = {f"methods/{name}.md": method_page(name) for name in names()}
    pages |= {"methods/index.md": methods_page(), "api.md": api_page()}
    pages |= {place: moved(name) for name, place in TOP.items() if (ROOT / name).is_file()}
    for place, text in pages.items():
        files.append(File.generated(config, place, content=text))
    for folder in LINKED:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".csv"):
                copy = f"repository/{path.relative_to(ROOT).as_posix()}.txt"
                files.append(File.generated(config, copy, content=path.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **more: object) -> str:
    """Send links that leave docs/ to the copies of what they lead to."""
    here = posixpath.dirname("docs/" + page.file.src_uri)

    def inside(link: re.Match[str]) -> str:
        to = posixpath.normpath(posixpath.join(here, link[2]))
        if to.startswith("docs/"):
            return link[0]
        place = TOP.get(to, f"repository/{to}.txt")
        return f"{link[1]}{posixpath.relpath('docs/' + place, here)}{link[3] or ''})"

    return LINK.sub(inside, markdown)


def on_post_page(output: str, **more: object) -> str:
    """Give the search a name, which the theme leaves out."""
    dialog = 'data-md-component="search" role="dialog"'
    return output.replace(dialog, dialog + ' aria-label="Search"')


def moved(name: str) -> str:
    """A page of the top folder, whose links begin in docs/ now."""

    def inside(link: re.Match[str]) -> str:
        to = link[2].removeprefix("docs/") if link[2].startswith("docs/") else TOP.get(link[2], "../" + link[2])
        return f"{link[1]}{to}{link[3] or ''})"

    return LINK.sub(inside, (ROOT / name).read_text("utf-8"))


def method_page(name: str) -> str:
    """The page of a method."""
    one = facts(name)
    needs = {"nothing": "nothing but the weights", "calibration": "a calibration split", "training": "training data"}
    rows = [
        f"| `--{each.name.replace('_', '-')}` | {cell(each.kind)} | `{cell(each.default)}` | {cell(each.help)} |"
        for each in one.fields
    ]
    parts = [f"# {name}", f"*Needs {needs[one.needs]}.*", one.docstring]
    if (measured := section(name)) is not None:
        parts += ["## Measured", measured, "Every row, its control and how it was made: [Results](../results.md)."]
    parts += ["## Options", "| option | value | default | what it does |\n|---|---|---|---|\n" + "\n".join(rows)]
    if one.reference:
        parts += ["## Cite", f"```bibtex\n{one.reference}\n```"]
    return "\n\n".join(parts) + "\n"


def methods_page() -> str:
    """The list of methods."""
    rows = [f"| [`{name}`]({name}.md) | {facts(name).needs} | {cell(facts(name).sentence)} |" for name in names()]
    head = "# Methods\n\n| method | needs | what it does |\n|---|---|---|\n"
    return head + "\n".join(rows) + "\n\nNot sure? [Which method?](../chooser.md)\n"


def section(name: str) -> str | None:
    """What docs/results.md says about a method, as on a page one folder down."""
    text = (ROOT / "docs" / "results.md").read_text("utf-8")
    found = re.search(rf"^## `{name}`\n\n(.*?)(?=^## )", text, re.M | re.S)
    return None if found is None else re.sub(r"(\]\()(?=pictures/)", r"\1../", found[1]).strip()


def api_page() -> str:
    """Every public name by what it is for, with its documentation."""
    grouped = [name for group in GROUPS.values() for name in group]
    left = set(tersenet.__all__) - {"__version__"} - set(grouped)
    text = "# API\n\nEverything that `import tersenet` offers. `tersenet.__version__` is the version, a text.\n"
    for title, group in (*GROUPS.items(), *({"More": tuple(sorted(left))}.items() if left else ())):
        text += f"\n## {title}\n"
        for name in group:
            text += f"\n::: tersenet.{tersenet._HOMES[name]}.{name}\n"
    return text


def cell(text: str) -> str:
    """`text` inside a table."""
    return text.replace("|", r"\|").replace("\n", " ")
