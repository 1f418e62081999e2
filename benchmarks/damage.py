"""What the estimate of damage says (from the weights alone), and what judges say: the table of docs/design/0019.

    TERSENET_DATA=... python benchmarks/damage.py [minilm] [crepe] [voice] [smollm2]

`TERSENET_DATA` has nets.py, which fetches the networks and judges them. Truth is 1 - cosine (minilm, voice), the
relative squared error (crepe), the KL divergence in nats a token over four windows of 256 (smollm2).
"""

import copy
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import tersenet
from tersenet import methods
from tersenet.analysis.damage import damage
from tersenet.api import compress_file
from tersenet.files.checkpoint import Checkpoint, open_checkpoint

sys.path.insert(0, os.environ["TERSENET_DATA"])
SETTINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("rtn", {"bits": bits}) for bits in (8, 6, 5, 4, 3, 2)),
    ("rtn", {"format": "q4_0"}),
    *(("vlcq", {"nominal_bits": rate}) for rate in (5.0, 4.0, 3.0, 2.0)),
)


def networks() -> dict[str, Callable[[], tuple[Any, torch.nn.Module, Callable[[torch.nn.Module], float]]]]:
    """Name -> checkpoint, network, and how far another is from it."""
    import nets

    def minilm() -> Any:
        from transformers import BertModel

        folder = nets.minilm()
        net = BertModel.from_pretrained(folder).eval()
        theirs = nets.embeddings(net, folder, n=200)
        return folder, net, lambda ours: 1 - nets.closeness(nets.embeddings(ours, folder, n=200), theirs)["cosine"]

    def smollm2() -> Any:
        from transformers import AutoModelForCausalLM

        folder, size = nets.smollm2(), {"windows": 4, "length": 256}
        net = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        reference = nets.language(net, folder, **size)[1]
        return folder, net, lambda ours: nets.language(ours, folder, **size, reference=reference)[0]["KL"]

    def crepe() -> Any:
        net = tersenet.load_into(nets.crepe(), nets.crepe_module())
        return nets.crepe(), net, lambda ours: nets.crepe_error(ours, net)

    def voice() -> Any:
        checkpoint = Checkpoint(nets.voice(), ignore_keys=("similarity_*",))
        net = tersenet.load_into(checkpoint, nets.voice_module())
        return checkpoint, net, lambda ours: 1 - nets.voice_closeness(ours, net)

    return {"minilm": minilm, "crepe": crepe, "voice": voice, "smollm2": smollm2}


def main() -> None:
    """Every network at every setting."""
    known = networks()
    print("| network | method | mean error | worst | truth |\n|---|---|---|---|---|", flush=True)
    for name in sys.argv[1:] or known:
        checkpoint, net, judged = known[name]()
        source = open_checkpoint(checkpoint)
        for method, fields in SETTINGS:
            with tempfile.TemporaryDirectory() as folder:
                place = Path(folder, "x.terse")
                compress_file(checkpoint, place, methods.get(method)(**fields))
                found = damage(source, tersenet.load(place))
                truth = judged(tersenet.load_into(place, copy.deepcopy(net)))
            said = " ".join(f"{key}={value}" for key, value in fields.items())
            worst = found.errors[found.worst]
            print(f"| {name} | {method} {said} | {found.mean:.5f} | {worst:.4f} | {truth:.5f} |", flush=True)


if __name__ == "__main__":
    main()
