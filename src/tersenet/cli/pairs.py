"""`tersenet sensitivity --pairs`: how much the clips of layers have to do with each other, from 8 bits to 2."""

from pathlib import Path
from typing import TYPE_CHECKING

from .output import print_json, print_table, progress_bar

if TYPE_CHECKING:
    from torch import nn

    from ..core.task import Task
    from ..files.checkpoint import Checkpoint

WIDTHS = (8, 4, 3, 2)
SEARCHED = (4, 2)  # where the two searches are compared


def report_pairs(
    source: "Checkpoint",
    network: "nn.Module",
    task: "Task",
    samples: int,
    evaluations: int,
    picture: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Print curvature and the share off the diagonal at every width, and the two searches; draw a heat map of each
    width beside `picture`."""
    from ..api import open_inputs
    from ..files.atomic import check_output, replacing_file
    from ..methods.lapq import Lapq
    from ..methods.lapq.pairs import pairs_of, searched, start_of
    from ..report.figures import heat_map, standalone

    drawn = {} if picture is None else {bits: picture.with_stem(f"{picture.stem}-{bits}") for bits in WIDTHS}
    for place in drawn.values():
        check_output(place, overwrite=overwrite)
    opened, module = open_inputs(source, network)
    assert module is not None
    found, compared = [], []
    with progress_bar():
        for bits in WIDTHS:
            rounded, start = start_of(Lapq(bits=bits, act_bits=bits, samples=samples), opened, module, task)
            found.append(pairs_of(rounded, start, bits))
            if bits in SEARCHED:
                compared.append(searched(rounded, start, bits, evaluations))
    for each in found if drawn else ():
        title = f"Hessian of the calibration loss in the clips, {each.bits} bits"
        with replacing_file(drawn[each.bits], overwrite=overwrite) as stream:
            stream.write(standalone(heat_map(title, each.names, each.hessian.tolist())).encode())
    if as_json:
        pairs = [
            {"bits": e.bits, "loss": e.loss, "curvature": e.curvature, "off_diagonal": e.off_diagonal}
            | {"names": e.names, "hessian": e.hessian.tolist()}
            for e in found
        ]
        print_json({"samples": samples, "pairs": pairs, "searches": [vars(each) for each in compared]})
        return
    rows = [(e.bits, f"{e.loss:.4f}", f"{e.curvature:.4g}", f"{100 * e.off_diagonal:.2f}") for e in found]
    title = f"{len(found[0].names)} clips, {samples} calibration samples"
    print_table(title, (">bits", ">loss", ">curvature (norm of the Hessian)", ">share off the diagonal, %"), rows)
    cells = [(e.bits, *(f"{loss:.4f}" for loss in (e.start, e.coordinate, e.powell))) for e in compared]
    columns = (">bits", ">loss at the start", ">coordinate search", ">Powell")
    print_table(f"two searches of at most {evaluations} evaluations each", columns, cells)
