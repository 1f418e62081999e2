"""The shape of the house: who may import whom, and how long a file and a function may be."""

import ast
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "tersenet"
ROOMS = ("cli", "lab", "search", "methods", "training", "analysis", "network", "report", "files", "codec")
BELOW = (
    {room: {*ROOMS[place + 1 :], "quantizers", "core"} for place, room in enumerate(ROOMS)}
    | {
        "report": {"files", "codec", "core"},
        "files": {"codec", "core"},
        "quantizers": {"core"},
        "codec": set(),
        "core": set(),
        "verifier": set(),  # a second reader, which shares nothing with the first
        "cli": {*ROOMS[1:], "quantizers", "core", "verifier"},
    }
)
FREE = {"errors", "progress", "version"}
API = {"cli", "lab", "search"}  # who may use `api` and `cards`, which are above the methods
PYTHON = sorted(SOURCE.rglob("*.py"))


def imported_folders(path: Path) -> set[str]:
    """Top-level parts of tersenet that a file imports, at any depth of the file."""
    package = path.relative_to(SOURCE.parent).with_suffix("").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            full = [*base, *(node.module or "").split(".")] if node.module else list(base)
            found |= {full[1]} if len(full) > 1 and full[1] else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tersenet."):
            found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("tersenet.")}
    return found


@pytest.mark.parametrize("path", [p for p in PYTHON if p.parent != SOURCE], ids=lambda p: str(p.relative_to(SOURCE)))
def test_each_folder_imports_only_from_the_ones_below_it(path: Path) -> None:
    folder = path.relative_to(SOURCE).parts[0]
    others = imported_folders(path) - {folder, "_native"}
    assert others - FREE - ({"api", "cards"} if folder in API else set()) <= BELOW[folder]


METHODS = {path.name.removesuffix(".py") for path in (SOURCE / "methods").glob("[a-z]*") if path.name != "__pycache__"}
FAMILIES = {"quantizers", "analysis"}  # where "lsq", "pot", "apot" are levels and ranges, and "imprint" a score
EXEMPT = {*(SOURCE / "cli" / f"{name}.py" for name in ("demo", "sensitivity", "pairs")), *SOURCE.glob("lab/**/*.py")}


@pytest.mark.parametrize("path", [p for p in PYTHON if p not in EXEMPT], ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_method_is_named_by_nobody_but_itself(path: Path) -> None:
    folder, *inside = path.relative_to(SOURCE).parts
    own = inside[0].removesuffix(".py") if folder == "methods" else ""
    if own == "__init__":
        return
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            assert "methods" not in parts or not (METHODS - {own}) & set(parts), ast.unparse(node)
            assert not (folder == "methods" and node.level and (METHODS - {own}) & {parts[0]}), ast.unparse(node)
        elif isinstance(node, ast.Constant) and folder not in FAMILIES | {"training", "methods"}:
            assert node.value not in METHODS, node.lineno


def test_the_codec_and_the_container_never_import_torch() -> None:
    without = [*SOURCE.glob("codec/*.py"), SOURCE / "files" / "summary.py", *SOURCE.glob("files/container*.py")]
    assert len(without) > 3
    for path in without:
        text = path.read_text("utf-8")
        assert "import torch" not in text and "from torch" not in text, path


def test_no_source_file_is_longer_than_300_lines() -> None:
    files = [*PYTHON, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    files += [*(ROOT / "packaging").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    files += [p for p in (ROOT / "src" / "native").rglob("*") if p.is_file()]
    long = {str(p.relative_to(ROOT)): n for p in files if (n := len(p.read_text("utf-8").splitlines())) > 300}
    assert not long


def test_half_of_the_source_files_have_fewer_than_110_lines() -> None:
    assert median(len(path.read_text("utf-8").splitlines()) for path in PYTHON) < 110


Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def parameters(function: Function) -> int:
    """How many parameters a function has: `self` and `cls` are none, `*args` and `**kwargs` one each."""
    given = function.args
    names = [
        each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg) if each
    ]
    return len(names) - (names[:1] in (["self"], ["cls"]))


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def f(self, a, /, b, *args, c=1, **more): ...", 5),
        ("def f(cls): ...", 0),
        ("def f(a, self): ...", 2),
        ("lambda a, b=1, *, c: a", 3),
        ("async def f(*, a): ...", 1),
    ],
)
def test_parameters_are_counted_without_self_and_with_stars(source: str, count: int) -> None:
    (function,) = (node for node in ast.walk(ast.parse(source)) if isinstance(node, Function))
    assert parameters(function) == count


@pytest.mark.parametrize(
    "path", [p for p in PYTHON if p.parent != SOURCE / "cli"], ids=lambda p: str(p.relative_to(SOURCE))
)
def test_no_function_outside_the_command_line_is_longer_than_60_lines_or_takes_more_than_7_parameters(
    path: Path,
) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, Function):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 60 and parameters(node) <= 7, f"{path}:{node.lineno}"


def test_the_formatter_formats_every_line_of_the_source() -> None:
    files = [*PYTHON, *(ROOT / "packaging").rglob("*.py")]
    skipped = [path for path in files if any(word in path.read_text("utf-8") for word in ("fmt: skip", "fmt: off"))]
    assert not skipped
