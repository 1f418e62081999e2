"""What the fuzzer starts from: a small file of every kind that tersenet reads."""

import io
import json
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as safetensors

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import make_golden
from streams import to_bytes

from tersenet import codec
from tersenet.core.model import CompressedModel
from tersenet.files.terse import save


def files() -> list[bytes]:
    """`.terse` files: one of every kind of tensor alone, all together, and what else a file can hold."""
    whole = make_golden.model()
    entries = whole.tensors
    models = [CompressedModel({name: entries[name]}) for name in entries]
    models += [whole, CompressedModel({}, {}, {"method": "none"})]
    some = {name: entries[name] for name in ("raw", "kept", "kept constant")}
    models += [CompressedModel(some, {"tied": "raw", "too": "kept"}, {"method": "x"}, batch_norm=mode)
               for mode in ("keep", "scale-shift", "fold")]  # fmt: skip
    shards = {"metadata": {"a.safetensors": {"format": "pt"}}, "shards": {"a.safetensors": ["raw"], "b.safetensors":
              ["kept", "kept constant"]}}  # fmt: skip
    attached = {"config.json": b"{}", "sub/vocab.txt": b"a\nb\n" * 50, "empty": b""}
    models += [CompressedModel(some, {}, {"method": "x"}, shards, attached)]
    models += [CompressedModel(some, {}, {"method": "x"}, activations=whole.activations)]
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for number, model in enumerate(models):
            path = Path(folder) / f"{number}.terse"
            save(model, path, effort="best")
            found.append(path.read_bytes())
    return found


def streams() -> list[bytes]:
    """Encoded arrays: every coder and every feature of a model, in one chunk and in several."""
    found = []
    for entry in make_golden.entries().values():
        if hasattr(entry, "codes"):
            codes = entry.codes.numpy().reshape(len(entry.codes), -1)
            for effort, chunk in (("fast", 1 << 20), ("best", 97)):
                found.append(to_bytes(codec.encode(codes, effort=effort, chunk_symbols=chunk), len(codes), codes.dtype))
    rng = np.random.default_rng(0)
    for count in (17_000, 70_000, 270_000):  # 2, 16 and 64 states
        codes = np.clip(np.round(rng.standard_normal(count) * 0.3), -7, 7).astype(np.int8)
        found.append(to_bytes(codec.encode(codes), 1, codes.dtype))
    return found


def checkpoints() -> list[bytes]:
    """Checkpoints, each after a byte that says which kind it is (see `CHECKPOINTS` in fuzz.py)."""
    tied = torch.arange(12.0).reshape(3, 4)
    state = {
        "a.weight": tied,
        "b.weight": tied,
        "n": torch.tensor(3),
        "h": torch.ones(2).half(),
        "e": torch.empty(0, 3),
    }
    flat = {name: value.clone() for name, value in state.items()}
    found = [b"\0" + safetensors(flat), b"\0" + safetensors(flat, {"format": "pt"})]
    wrapped = [state, {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, {"model": {"state_dict":
               state}}, {"state_dict": state, "state_dict_ema": state, "hparams": {"lr": 0.1}}]  # fmt: skip
    for content in wrapped:
        packed, old, deflated = io.BytesIO(), io.BytesIO(), io.BytesIO()
        torch.save(content, packed)
        torch.save(content, old, _use_new_zipfile_serialization=False)
        with zipfile.ZipFile(packed) as archive, zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as target:
            for name in archive.namelist():
                target.writestr(name, archive.read(name))
        found += [b"\1" + each.getvalue() for each in (packed, old, deflated)]
    shards = {"weight_map": {"a.weight": "model.safetensors"}}
    found += [b"\2" + json.dumps(shards).encode(), b"\3" + json.dumps(shards).encode()]
    return found
