"""`tersenet demo`: train two small networks, compress them, and show what the reloaded files score."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .output import Json, Overwrite, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from torch import nn

    from ..core.task import Task

NETWORKS = ("digits", "text")
SETTINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("rtn", {"bits": 8}),
    ("rtn", {"bits": 4}),
    ("vlcq", {"target_bits": 3.0, "calibrate": True}),
    ("vlcq", {"target_bits": 2.0, "calibrate": True}),
)


def command(
    net: Annotated[
        Literal["digits", "text", "both"],
        typer.Option(help="A convolutional network for digits, a transformer for text, or both."),
    ] = "both",
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("demo.terse"),
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train small networks on digits and on text (no download), compress, reload, compare."""
    from ..files.atomic import check_output

    check_output(output, overwrite=overwrite)
    rows: list[dict[str, object]] = []
    with progress_bar():
        for name in NETWORKS if net == "both" else (net,):
            rows += _rows(name, output)
    if as_json:
        print_json({"output": str(output), "rows": rows})
        return
    columns = ("network", "", ">bytes", ">ratio", ">accuracy", ">agreement (classes)")
    cells = [
        (r["network"], r["what"], f"{r['bytes']:,}", f"{r['ratio']:.2f}", r["accuracy"], r["agreement"]) for r in rows
    ]
    print_table("scored on test samples, from the reloaded file", columns, cells)
    print(f"{output} holds the last row: try  tersenet inspect {output}")


def _rows(name: str, output: Path) -> list[dict[str, object]]:
    """The network of a name as it is and at every setting, the files at `output`, one after the other."""
    from ..analysis.evaluate import evaluate
    from ..api import compress, load
    from ..files.terse import save

    network, fresh, task = _trained(name)
    original = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    judged = [("fp32", original, evaluate(network, task))]
    for method, fields in SETTINGS:
        size = save(compress(network, method, task=task, **fields), output, overwrite=True)
        result = evaluate(load(output).apply_to(fresh), task, reference=network)
        judged.append((f"{method} {' '.join(f'{k}={v}' for k, v in fields.items())}", size, result))
    rows: list[dict[str, object]] = []
    for what, size, found in judged:
        assert found.metric is not None
        scores = {"accuracy": f"{found.metric.mean:.3f}", "agreement": ""}
        if found.agreement is not None:
            scores["agreement"] = f"{found.agreement.mean:.3f}"
        rows.append({"network": name, "what": what, "bytes": size, "ratio": round(original / size, 2), **scores})
    return rows


def _trained(name: str) -> "tuple[nn.Module, nn.Module, Task]":
    """A network that was just trained, another one of its kind, and their task."""
    import torch

    from ..lab import digits, letters
    from ..lab.models import build

    torch.manual_seed(0)
    if name == "digits":
        task = digits.make_task()
        return digits.train(build("digits"), task), build("digits").eval(), task
    task = letters.make_task()
    return letters.train(letters.Letters(), task), letters.Letters().eval(), task
