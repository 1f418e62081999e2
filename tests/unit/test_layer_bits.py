"""Widths that differ from layer to layer, in every method."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tersenet
from tersenet import methods
from tersenet.cli import main
from tersenet.core.model import QTensor
from tersenet.core.task import Task
from tersenet.errors import UsageError
from tersenet.files.summary import summarize

BITS = {"conv2.weight": 2, "conv3*": 4}


@pytest.mark.parametrize("name", methods.names())
def test_every_method_follows_the_bits_of_layers(name: str, network: nn.Module, task: Task, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"target_bits": 3.0, "images": 16, "synthesis_steps": 3} if name == "vlcq" else {"bits": 4}
    if methods.facts(name).needs == "training":
        fields["epochs"] = 0
    if name == "accgrad":
        fields |= {"epochs": 2, "warmup": 1, "bits": (4,)}
    if name == "alq":
        fields |= {"rounds": 0, "refine": 0, "groups": "channel"}
    if name == "imprint":
        del fields["bits"]
    if name == "lapq":
        fields["search"] = "l2"
    small = tersenet.compress(network, name, task=task, layer_bits=BITS, **fields)
    counts = {}
    for weight in ("conv2.weight", "conv3.weight"):
        entry = small.tensors[weight]
        assert isinstance(entry, QTensor)
        counts[weight] = entry.codes.unique().numel()
    if name == "vlcq":
        tersenet.save(small, tmp_path / "x.terse")
        rates = {row.name: row.bits_per_weight for row in summarize(tmp_path / "x.terse").rows}
        assert 1 < rates["conv3.weight"] - rates["conv2.weight"] < 3
    else:
        assert counts["conv2.weight"] <= 4 < 8 < counts["conv3.weight"] <= 16
    assert small.provenance["fields"]["layer_bits"] == BITS


def test_the_file_of_bits_is_read_and_checked(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "bits.json").write_text(json.dumps({"layer_bits": BITS}))
    with pytest.raises(SystemExit):
        main(["compress", str(checkpoint), "-o", str(tmp_path / "o.terse"), "--method", "rtn", "--layer-bits",
             str(tmp_path / "bits.json")])  # fmt: skip
    assert torch.unique(tersenet.load(tmp_path / "o.terse").tensors["conv2.weight"].codes).numel() <= 3  # type: ignore[union-attr]
    from tersenet.cli.fields import build_method

    for content in ("[]", "{}", '{"a": "b"}', '{"a": 1.5}', "no JSON"):
        (tmp_path / "bits.json").write_text(content)
        with pytest.raises(UsageError):
            build_method("rtn", ["--layer-bits", str(tmp_path / "bits.json")])
    with pytest.raises(UsageError, match="No such file"):
        build_method("rtn", ["--layer-bits", str(tmp_path / "none.json")])
    with pytest.raises(UsageError, match="matches no tensor"):
        tersenet.compress(checkpoint, "rtn", layer_bits={"nothing": 3})
