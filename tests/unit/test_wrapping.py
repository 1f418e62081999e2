"""What is around the weights in people's checkpoints: every wrapper opens, and comes back as it was."""

import argparse
import json
import logging
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tersenet
from odd_checkpoints import Net, State, front, round_trip, same
from tersenet import Checkpoint
from tersenet.cli import main
from tersenet.core.model import CompressedModel, KeptTensor
from tersenet.errors import CheckpointError, FormatError, UsageError
from tersenet.files.checkpoint import open_checkpoint
from tersenet.files.checkpoint_write import write_checkpoint
from tersenet.lab.models import build


@pytest.fixture
def net() -> Net:
    return Net()


PLAIN = ["model_state", "model_state_dict", "state_dict", "state_dict_ema", "params_ema", "params", "generator", "net",
         "weights", "model", "module", "ema", "backbone"]  # fmt: skip


@pytest.mark.parametrize("key", PLAIN)
@pytest.mark.parametrize("name", ["x.pt", "x.pth.tar", "x.ckpt", "x.bin", "x.pkl", "x"])
def test_every_wrapper_under_every_name_comes_back_whole(tmp_path: Path, net: Net, key: str, name: str) -> None:
    content = {"epoch": 3, key: dict(net.state_dict()), "classes": ["cat", "dog"]}
    torch.save(content, tmp_path / name)
    assert same(round_trip(tmp_path / name, tmp_path / ("back" + name.removeprefix("x"))), content)


@pytest.mark.parametrize(
    "nest",
    [
        lambda s: {"model": {"state_dict": s, "arch": "net"}, "step": 7},
        lambda s: {"ema": {"module": s, "decay": 0.999, "updates": 12}},
        lambda s: {"checkpoint": {"model": {"weights": s}}},
    ],
    ids=["model.state_dict", "ema.module", "three levels"],
)
def test_nested_wrappers_come_back_whole(tmp_path: Path, net: Net, nest: Callable[[State], Any]) -> None:
    torch.save(nest(dict(net.state_dict())), tmp_path / "x.pt")
    assert same(round_trip(tmp_path / "x.pt", tmp_path / "y.pt"), nest(dict(net.state_dict())))


def lightning(net: Net) -> dict[str, Any]:
    return {
        "epoch": 4,
        "global_step": 100,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": OrderedDict(front("model.", dict(net.state_dict()))),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}],
        "hyper_parameters": {"lr": 0.1, "betas": (0.9, 0.999), "name": None},
    }


def test_lightnings_checkpoint_comes_back_without_its_optimizer(
    tmp_path: Path, net: Net, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(lightning(net), tmp_path / "x.ckpt")
    with caplog.at_level(logging.INFO, "tersenet"):
        assert list(open_checkpoint(tmp_path / "x.ckpt").specs) == list(net.state_dict())
    assert [record.getMessage() for record in caplog.records] == [
        'x.ckpt: reads "state_dict"; left out: optimizer_states (tensors)',
        "x.ckpt: model. is taken off names",
    ]
    back = round_trip(tmp_path / "x.ckpt", tmp_path / "y.ckpt")
    wanted = lightning(net)
    del wanted["optimizer_states"]
    assert same(back, wanted)


@pytest.mark.parametrize(("raw", "average"), [("state_dict", "state_dict_ema"), ("params", "params_ema"),
                                              ("model", "model_ema"), ("net", "ema")])  # fmt: skip
def test_averaged_weights_go_before_raw_ones_and_it_is_said(
    tmp_path: Path, net: Net, caplog: pytest.LogCaptureFixture, raw: str, average: str
) -> None:
    mean = dict(Net(1).state_dict())
    torch.save({raw: dict(net.state_dict()), average: mean, "epoch": 2}, tmp_path / "x.pt")
    with caplog.at_level(logging.INFO, "tersenet"):
        back = round_trip(tmp_path / "x.pt", tmp_path / "y.pt")
    said = [record.getMessage() for record in caplog.records]
    assert said == [f'x.pt: reads "{average}", not "{raw}" (key="{raw}" reads that)']
    assert same(back, {average: mean, "epoch": 2})
    assert torch.equal(open_checkpoint(Checkpoint(tmp_path / "x.pt", key=raw)).read("fc.weight"), net.fc.weight)


def test_averages_that_lack_tensors_are_not_chosen_for_the_user(tmp_path: Path, net: Net) -> None:
    shadow = dict(net.named_parameters())
    torch.save({"model": dict(net.state_dict()), "ema": {"shadow": shadow}}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r'lack tensors that "model" has: .*key="model" or key="ema.shadow"'):
        open_checkpoint(tmp_path / "x.pt")
    assert set(open_checkpoint(Checkpoint(tmp_path / "x.pt", key="ema")).specs) == set(shadow)


def test_one_of_several_networks_is_chosen_by_key(tmp_path: Path, net: Net) -> None:
    content = {"encoder": dict(net.state_dict()), "decoder": {"model": dict(Net(3).state_dict()), "depth": 2}}
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r'2 networks \("encoder", "decoder.model"\): choose with key="encoder"'):
        open_checkpoint(tmp_path / "x.pt")
    for key in ("decoder", "decoder.model"):
        back = round_trip(tmp_path / "x.pt", tmp_path / f"{key}.pt", key=key)
        assert same(back, {"decoder": content["decoder"]})
        (tmp_path / "x.pt.terse").unlink()
    with pytest.raises(CheckpointError, match=r'no key="nothing" in it; it has "encoder", "decoder.model"'):
        open_checkpoint(Checkpoint(tmp_path / "x.pt", key="nothing"))
    save_file(dict(net.state_dict()), tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"without wrapping: leave out key="):
        open_checkpoint(Checkpoint(tmp_path / "x.safetensors", key="model"))


def test_content_of_every_json_kind_comes_back_and_the_rest_is_named(
    tmp_path: Path, net: Net, caplog: pytest.LogCaptureFixture
) -> None:
    kept = {
        "hparams": {"lr": 1e-4, "betas": (0.9, 0.999), "decay": {}, "best": float("inf"), "flags": [True, None]},
        "config_dict": {"z": 1, "a": 2, "!tuple": [3]},
        "classes": {1: "dog", 0: "cat"},
        "epoch": 12,
    }
    lost = {
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []},
        "args": argparse.Namespace(lr=1, out=Path("x")),
        "best_acc": np.float64(0.5),
        "rng": torch.get_rng_state(),
        "vocabulary": "word " * 300_000,
    }
    torch.save({**kept, "model": dict(net.state_dict()), **lost}, tmp_path / "x.pt")
    with caplog.at_level(logging.INFO, "tersenet"):
        back = round_trip(tmp_path / "x.pt", tmp_path / "y.pt")
    assert same(back, {**kept, "model": dict(net.state_dict())})
    assert list(back["config_dict"]) == ["z", "a", "!tuple"] and list(back["classes"]) == [1, 0]
    assert caplog.messages == [
        'x.pt: reads "model"; left out: optimizer (tensors), args (Namespace), best_acc (scalar), rng (tensors), '
        "vocabulary (too long)"
    ]


def test_settings_beside_tensors_without_a_wrapper_come_back(tmp_path: Path, net: Net) -> None:
    content = {**net.state_dict(), "config": {"width": 8}, "version": "1.2"}
    torch.save(content, tmp_path / "x.pt")
    assert same(round_trip(tmp_path / "x.pt", tmp_path / "y.pt"), content)


def test_a_plain_state_dict_needs_no_layout(tmp_path: Path, net: Net) -> None:
    torch.save(net.state_dict(), tmp_path / "x.pt")
    assert open_checkpoint(tmp_path / "x.pt").layout == {}


def test_lightnings_settings_are_read_as_a_dict(tmp_path: Path, net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    place = types.ModuleType("lightning_fabric.utilities.data")
    settings = type("AttributeDict", (dict,), {"__module__": place.__name__})
    place.AttributeDict = settings  # type: ignore[attr-defined]
    for name in ("lightning_fabric", "lightning_fabric.utilities"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, place.__name__, place)
    torch.save(lightning(net) | {"hyper_parameters": settings(lr=0.1)}, tmp_path / "x.ckpt")
    assert round_trip(tmp_path / "x.ckpt", tmp_path / "y.ckpt")["hyper_parameters"] == {"lr": 0.1}


def test_a_key_that_holds_several_networks_says_the_whole_way(tmp_path: Path, net: Net) -> None:
    state = dict(net.state_dict())
    torch.save({"gan": {"g": state, "d": state, "depth": 1}}, tmp_path / "x.pt")
    for key in (None, "gan"):
        with pytest.raises(CheckpointError, match=r'2 networks \("gan.g", "gan.d"\): choose with key="gan.g"'):
            open_checkpoint(Checkpoint(tmp_path / "x.pt", key=key))


@pytest.mark.parametrize(
    "layout",
    [
        {"key": ["a"], "content": {}},
        {"key": "a", "content": {"a": {}}},
        {"key": [], "content": {"w": 1}},
        {"content": {"!dict": [[["x"], 1]]}},
        {"content": {"!float": "x"}},
        {"content": 3},
        {"prefixes": {"": 3}},
        {"prefixes": []},
        {"renamed": {"w": "v"}},
        {"prefixes": {"": "long." * 300}},
    ],
    ids=lambda layout: repr(layout)[:40],
)
def test_a_forged_wrapping_is_a_format_error(tmp_path: Path, layout: dict[str, Any]) -> None:
    tensors = {name: KeptTensor(torch.ones(2), torch.float32, "test") for name in ("v", "w")}
    with pytest.raises(FormatError, match="layout"):
        write_checkpoint(CompressedModel(tensors, layout=layout), tmp_path / "x.pt")
    assert not list(tmp_path.iterdir())


def test_every_command_that_opens_a_checkpoint_takes_the_options(
    tmp_path: Path, trained: nn.Module, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained = build("digits").state_dict()
    state = front("net.", trained.state_dict()) | {"loss.weight": torch.ones(3)}
    torch.save({"first": dict(untrained), "best": {"state_dict": state}}, tmp_path / "x.ckpt")
    options = ["--key", "best.state_dict", "--strip-prefix", "net.", "--ignore-keys", "loss.*"]
    network = ["--model", "digits", "--task", "digits"]
    checkpoint, terse = str(tmp_path / "x.ckpt"), str(tmp_path / "x.terse")
    with pytest.raises(SystemExit):
        main(["compress", checkpoint, "-o", terse])
    assert 'it holds 2 networks ("first", "best.state_dict")' in capsys.readouterr().err
    for arguments in (
        ["compress", checkpoint, "-o", terse, "--method", "rtn", "--bits", "8", "--model", "digits", *options],
        ["eval", terse, "--against", checkpoint, *network, *options, "--json"],
        ["sensitivity", checkpoint, *network, "--score", "random", *options, "--json"],
        ["decompress", terse, "-o", str(tmp_path / "y.ckpt")],
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        said = capsys.readouterr().out
        assert not stop.value.code and (arguments[0] != "eval" or json.loads(said)["agreement"]["mean"] > 0.95)
    back = torch.load(tmp_path / "y.ckpt", weights_only=True)
    assert set(back["best"]["state_dict"]) == set(front("net.", trained.state_dict()))
    seen = []
    monkeypatch.setattr("tersenet.search.within.auto", lambda where, *_, **__: seen.append(where) or sys.exit(0))
    with pytest.raises(SystemExit):
        main(["auto", checkpoint, "-o", terse, *network, "--max-bytes", "9999", *options])
    assert seen == [Checkpoint(tmp_path / "x.ckpt", "best.state_dict", "net.", ("loss.*",))]


def test_the_method_s_fields_are_not_the_checkpoint_s(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"key is of the checkpoint, .*Checkpoint\(path"):
        tersenet.compress(tmp_path / "x.pt", "rtn", key="ema")


@pytest.mark.parametrize(
    "content", [{"best": torch.tensor(0.9), "state_dict": {"w": torch.ones(4)}}], ids=["wrapped beside a tensor"]
)
def test_a_wrapped_state_dict_is_found_beside_other_tensors(content: dict[str, Any], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    assert set(tersenet.compress(tmp_path / "x.pt", "rtn").tensors) == {"w"}


@pytest.mark.parametrize(
    "content",
    [{"enc": {"w": torch.ones(4)}, "x": torch.ones(4)}, {0: torch.ones(4), "0": torch.ones(4)}, {"\0a": torch.ones(4)}],
    ids=["nested", "numbers as names", "NUL"],
)
def test_a_state_dict_that_would_lose_tensors_is_refused(content: dict[Any, Any], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError):
        tersenet.compress(tmp_path / "x.pt", "rtn")
