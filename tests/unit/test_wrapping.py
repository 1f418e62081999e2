"""Checkpoints as people have them: every wrapper and prefix opens, and comes back as it was."""

import argparse
import copy
import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tersenet
from tersenet import Checkpoint
from tersenet.api import compress_file, load_network
from tersenet.core.model import CompressedModel, KeptTensor
from tersenet.errors import CheckpointError, FormatError, KeyMismatchError
from tersenet.files.checkpoint import open_checkpoint
from tersenet.files.restore import write_checkpoint
from tersenet.methods.rtn import Rtn

State = dict[str, Tensor]


class Net(nn.Module):
    """A convolution, a batch norm and a linear layer, with a mask and indices as buffers."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))
        self.fc = nn.Linear(8, 64)
        self.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))
        self.register_buffer("steps", torch.arange(5))


@pytest.fixture
def net() -> Net:
    return Net()


def round_trip(path: Path, back: Path, **options: Any) -> Any:
    """The checkpoint through a `.terse` file that keeps every value, as torch.load gives it."""
    small = path.with_name(path.name + ".terse")
    compress_file(Checkpoint(path, **options), small, Rtn(include=("fc.weight",), exclude=("*",), side="exact"))
    write_checkpoint(tersenet.load(small), back)
    return torch.load(back, weights_only=True) if back.suffix != ".safetensors" else load_file(back)


def same(a: Any, b: Any) -> bool:
    """Whether two contents are equal, types and order of keys included."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and set(a) == set(b) and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and repr(a) == repr(b)


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


def front(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def middle(state: State) -> State:
    names = {"layer1.": "layer1._fsdp_wrapped_module.", "fc.": "fc._checkpoint_wrapped_module._orig_mod."}
    for old, new in names.items():
        state = {name.replace(old, new): value for name, value in state.items()}
    return front("_fsdp_wrapped_module.", state)


PREFIXED: dict[str, Callable[[State], State]] = {
    prefix: partial(front, prefix)
    for prefix in ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "_fsdp_wrapped_module.")
} | {"in the middle": middle}


@pytest.mark.parametrize("prefix", PREFIXED)
def test_prefixes_of_wrappers_are_taken_off_and_put_back(tmp_path: Path, net: Net, prefix: str) -> None:
    state = PREFIXED[prefix](dict(net.state_dict()))
    torch.save({"state_dict": state}, tmp_path / "x.pt")
    assert list(open_checkpoint(tmp_path / "x.pt").specs) == list(net.state_dict())
    assert same(round_trip(tmp_path / "x.pt", tmp_path / "y.pt"), {"state_dict": state})


def test_what_data_parallel_and_a_compiled_network_save_loads_again(tmp_path: Path, net: Net) -> None:
    compiled = torch.compile(net, backend="eager")
    for wrapped in (nn.DataParallel(net), compiled, nn.DataParallel(compiled)):
        torch.save(wrapped.state_dict(), tmp_path / "x.pt")
        assert list(open_checkpoint(tmp_path / "x.pt").specs) == list(net.state_dict())
        state = round_trip(tmp_path / "x.pt", tmp_path / "y.pt")
        wrapped.load_state_dict(state)
        for name in ("x.pt", "y.pt", "x.pt.terse"):
            (tmp_path / name).unlink()


def test_with_the_networks_code_any_prefix_is_found(tmp_path: Path, net: Net) -> None:
    state = front("student.body.", dict(net.state_dict()))
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "x.pt")
    compress_file(tmp_path / "x.pt", tmp_path / "x.terse", Rtn(bits=8), module=Net(1))
    assert set(tersenet.load(tmp_path / "x.terse", into=Net(2)).tensors) == set(net.state_dict())
    write_checkpoint(tersenet.load(tmp_path / "x.terse"), tmp_path / "y.ckpt")
    assert set(torch.load(tmp_path / "y.ckpt")["state_dict"]) == set(state)


def test_a_network_whose_names_do_have_the_prefix_keeps_them(tmp_path: Path, net: Net) -> None:
    outer = nn.DataParallel(net)
    torch.save(outer.state_dict(), tmp_path / "x.pt")
    assert list(open_checkpoint(tmp_path / "x.pt", outer).specs) == list(outer.state_dict())
    assert list(open_checkpoint(Checkpoint(tmp_path / "x.pt", strip_prefix="")).specs) == list(outer.state_dict())


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


def test_a_prefix_of_two_networks_is_chosen_by_the_user(tmp_path: Path, net: Net) -> None:
    both = front("student.", dict(net.state_dict())) | front("teacher.", dict(Net(5).state_dict()))
    torch.save(both, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r'behind student\. and behind teacher\.: .*strip_prefix="student\."'):
        open_checkpoint(tmp_path / "x.pt", net)
    chosen = Checkpoint(tmp_path / "x.pt", strip_prefix="teacher.", ignore_keys="student.*")
    assert torch.equal(load_network(chosen, Net(9)).fc.weight, Net(5).fc.weight)
    with pytest.raises(CheckpointError, match=r"no name begins with strip_prefix=.*student\.layer1"):
        open_checkpoint(Checkpoint(tmp_path / "x.pt", strip_prefix="nothing"))
    with pytest.raises(CheckpointError, match=r"ignore_keys='x\*' matches no tensor"):
        open_checkpoint(Checkpoint(tmp_path / "x.pt", ignore_keys=("x*",)))


def test_two_tensors_never_get_one_name(tmp_path: Path) -> None:
    torch.save({"a._orig_mod.w": torch.ones(2), "a.w": torch.zeros(2)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"a\._orig_mod\.w and a\.w would both be called a\.w"):
        open_checkpoint(tmp_path / "x.pt")
    assert len(open_checkpoint(Checkpoint(tmp_path / "x.pt", strip_prefix="")).specs) == 2


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
    assert said == [f'x.pt: reads "{average}"; not "{raw}" (key="{raw}" would)']
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


def test_buffers_that_the_module_lacks_are_left_out_and_parameters_never(
    tmp_path: Path, net: Net, caplog: pytest.LogCaptureFixture
) -> None:
    extra = {"embeddings.position_ids": torch.arange(9)[None], "rotary.inv_freq": torch.ones(4), "table": torch.ones(6)}
    module = copy.deepcopy(net)
    module.register_buffer("table", torch.zeros(6), persistent=False)
    save_file({**net.state_dict(), **extra}, tmp_path / "x.safetensors")
    with caplog.at_level(logging.INFO, "tersenet"):
        assert set(open_checkpoint(tmp_path / "x.safetensors", module).specs) == set(net.state_dict())
    assert caplog.messages == [
        "x.safetensors: left out, as the module has no such buffers: embeddings.position_ids, rotary.inv_freq, table"
    ]
    assert set(open_checkpoint(tmp_path / "x.safetensors").specs) == {*net.state_dict(), *extra}
    save_file({**net.state_dict(), "head.weight": torch.ones(4)}, tmp_path / "y.safetensors")
    with pytest.raises(KeyMismatchError, match=r"head\.weight.*ignore_keys="):
        load_network(tmp_path / "y.safetensors", net)
    load_network(Checkpoint(tmp_path / "y.safetensors", ignore_keys="head.*"), net)


def test_a_safetensors_file_gets_its_prefix_back(tmp_path: Path, net: Net) -> None:
    state = front("module.", dict(net.state_dict()))
    save_file(state, tmp_path / "x.safetensors", {"format": "pt"})
    assert same(round_trip(tmp_path / "x.safetensors", tmp_path / "y.safetensors"), state)


def test_a_pickled_folder_opens_and_comes_back_shard_by_shard(tmp_path: Path, net: Net) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    names = list(net.state_dict())
    shards = {"pytorch_model-00001-of-00002.bin": names[:4], "pytorch_model-00002-of-00002.bin": names[4:]}
    for shard, part in shards.items():
        torch.save({name: net.state_dict()[name] for name in part}, folder / shard)
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    (folder / "pytorch_model.bin.index.json").write_text(repr({"weight_map": weight_map}).replace("'", '"'))
    (folder / "config.json").write_text("{}")
    compress_file(folder, tmp_path / "x.terse", Rtn(include=("fc.weight",), exclude=("*",), side="exact"))
    write_checkpoint(tersenet.load(tmp_path / "x.terse"), tmp_path / "back")
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in (tmp_path / "back").iterdir())
    for shard in shards:
        assert same(torch.load(tmp_path / "back" / shard), torch.load(folder / shard))
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "../x.bin"}}')
    with pytest.raises(CheckpointError, match=r"not in the folder: \.\./x\.bin"):
        open_checkpoint(folder)


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
    ],
    ids=repr,
)
def test_a_forged_wrapping_is_a_format_error(tmp_path: Path, layout: dict[str, Any]) -> None:
    tensors = {name: KeptTensor(torch.ones(2), torch.float32, "test") for name in ("v", "w")}
    with pytest.raises(FormatError, match="layout"):
        write_checkpoint(CompressedModel(tensors, layout=layout), tmp_path / "x.pt")
    assert not list(tmp_path.iterdir())
