"""`tersenet demo`: train a small network on digits, compress it, and show what the reloaded file scores."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import Json, Overwrite, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from ..analysis.evaluate import Evaluation

SETTINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("rtn", {"bits": 8}),
    ("rtn", {"bits": 4}),
    ("vlcq", {"target_bits": 3.0}),
    ("vlcq", {"target_bits": 2.0}),
)


def command(
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("digits.terse"),
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train on scikit-learn's digits (no download), compress, reload, compare."""
    import torch

    from ..analysis.evaluate import evaluate
    from ..api import compress, load
    from ..files.atomic import check_output
    from ..files.terse import save
    from ..lab import digits
    from ..lab.models import build

    check_output(output, overwrite=overwrite)
    torch.manual_seed(0)
    task = digits.make_task()
    rows: list[dict[str, object]] = []
    with progress_bar():
        network = digits.train(build("digits"), task)
        original = sum(t.numel() * t.element_size() for t in network.state_dict().values())
        rows.append({"what": "fp32", "bytes": original, "ratio": 1.0, **_scores(evaluate(network, task))})
        for method, fields in SETTINGS:
            size = save(compress(network, method, **fields), output, overwrite=True)
            result = evaluate(load(output).apply_to(build("digits")), task, reference=network)
            what = f"{method} {' '.join(f'{k}={v}' for k, v in fields.items())}"
            rows.append({"what": what, "bytes": size, "ratio": original / size, **_scores(result)})
    if as_json:
        print_json({"output": str(output), "rows": rows})
        return
    cells = [(r["what"], f"{r['bytes']:,}", f"{r['ratio']:.2f}", r["accuracy"], r["agreement"]) for r in rows]
    columns = ("", ">bytes", ">ratio", ">accuracy", f">agreement ({task.agreement_name})")
    print_table("DigitsNet on 500 test images, scored from the reloaded file", columns, cells)
    print(f"{output} holds the last row: try  tersenet inspect {output}")


def _scores(result: "Evaluation") -> dict[str, str]:
    agreement = "" if result.agreement is None else f"{result.agreement.mean:.3f}"
    assert result.metric is not None
    return {"accuracy": f"{result.metric.mean:.3f}", "agreement": agreement}
