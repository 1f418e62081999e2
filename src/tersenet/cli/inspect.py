"""`tersenet inspect`: what is in a file, byte by byte."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..report.escape import plain
from .output import Json, MaxOutput, print_json, print_line, print_table

if TYPE_CHECKING:
    from ..files.summary import Row
    from ..methods import Settings

COLUMNS = ("tensor", "shape", "dtype", "grid, or why kept", "coder", ">bits/weight", ">bytes")


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _rate(row: "Row") -> str:
    return f"{row.bits_per_weight:.3f}"


def _lines(settings: "Settings") -> list[str]:
    """The fields of the method: those that the file stores, then defaults, with the version whose they are."""
    shown = {each.default_of: "" for each in settings.fields}
    for each in settings.fields:
        shown[each.default_of] += f", {each.name}={each.value}"
    lines = [f"{'given' if of is None else f'defaults of tersenet {of}'}: {text[2:]}" for of, text in shown.items()]
    return lines + ([] if settings.others_of is None else [f"other fields: defaults of tersenet {settings.others_of}"])


def _findings(provenance: dict[str, Any]) -> list[str]:
    """What the method found out that is a number: one line for each finding that has any."""
    lines = []
    for name, facts in provenance.items():
        numbers = facts.items() if isinstance(facts, dict) and name not in ("fields", "versions") else ()
        shown = [f"{plain(key, 60)}={plain(value, 60)}" for key, value in numbers if isinstance(value, int | float)]
        lines += [f"{plain(name, 60)} found: {', '.join(shown)}"] if shown else []
    return lines


def command(
    file: Annotated[Path, typer.Argument(help="A .terse file.")],
    formats: Annotated[
        bool,
        typer.Option("--storage", help="Also: bytes as sparse rows, relative indices, bitmap, dense, and as it is."),
    ] = False,
    max_output: MaxOutput = None,
    as_json: Json = False,
) -> None:
    """Show every tensor with its grid, bits per weight and bytes; the bytes add up to the file."""
    from ..files.summary import summarize
    from ..methods import settings
    from ..report.size import storage

    summary = summarize(file, max_output=max_output)
    made_with = settings(summary.provenance)
    if as_json:
        more = {"storage": vars(storage(file, max_output=max_output))} if formats else {}
        more["settings"] = {
            each.name: {"value": each.value, "default_of": each.default_of} for each in made_with.fields
        }
        tensors = [vars(row) for row in summary.rows]
        print_json({**vars(summary), "rows": tensors, "bits_per_weight": summary.bits_per_weight, **more})
        return
    cells: list[tuple[str, ...]] = [
        (row.name, _size(row.shape), row.dtype, row.grid or row.reason, row.coder, _rate(row), f"{row.bytes:,}")
        for row in summary.rows
    ]
    cells += [(alias, "", "", f"tied to {name}", "", "", "0") for alias, name in summary.aliases.items()]
    cells += [(f"input of {path}", "", "", levels, "", "", "") for path, levels in summary.activations.items()]
    last = [(f"({name})", "", "", "", "", "", f"{size:,}") for name, size in summary.overhead.items()]
    last += [("total", "", "", "", "", "", f"{summary.size:,}")]
    print_table(str(file), COLUMNS, cells, last)
    print_line(
        f"{summary.original_bytes / summary.size:.2f} times smaller than the {summary.original_bytes:,} bytes of its "
        f"tensors; {summary.bits_per_weight:.3f} bits per quantised weight; batch norm: {summary.batch_norm}; "
        f"method: {plain(summary.provenance.get('method', 'unknown'), 200)}"
    )
    for line in (*_lines(made_with), *_findings(summary.provenance)):
        print_line(line)
    if formats:
        found = storage(file, max_output=max_output)
        names = {"csr": "compressed sparse rows", "relative": "relative indices", "bitmap": "bitmap", "dense": "dense"}
        sizes = {text: int(getattr(found, name)) for name, text in {**names, "file": "this file"}.items()}
        rows = [(text, f"{size:,}", f"{found.fp32 / size:.2f}" if size else "") for text, size in sizes.items()]
        title = f"{found.nonzeros:,} non-zeros of {found.weights:,}; {found.beside:,} bytes beside codes in every row"
        print_table(title, ("storage", ">bytes", ">ratio to fp32"), rows)
