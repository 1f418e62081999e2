"""Names in people's checkpoints: prefixes are taken off and put back, what the module lacks is left out."""

import copy
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tersenet
from odd_checkpoints import Net, State, front, round_trip, same
from tersenet import Checkpoint
from tersenet.api import compress_file, load_into
from tersenet.errors import CheckpointError, KeyMismatchError
from tersenet.files.checkpoint import open_checkpoint
from tersenet.files.checkpoint_write import write_checkpoint
from tersenet.methods.rtn import Rtn


@pytest.fixture
def net() -> Net:
    return Net()


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


def around(part: str, net: nn.Module) -> nn.Module:
    """A module that holds `net` under a name, as wrappers do."""
    outer = nn.Module()
    outer.add_module(part, net)
    return outer


def test_what_wrapped_networks_save_they_load_again(tmp_path: Path, net: Net) -> None:
    partly = copy.deepcopy(net)
    partly.layer1 = around("_fsdp_wrapped_module", partly.layer1)  # type: ignore[assignment]
    kinds = [nn.DataParallel(net), around("_orig_mod", net), nn.DataParallel(around("_orig_mod", net)),
             around("_orig_mod", nn.DataParallel(net)), partly, around("_fsdp_wrapped_module", partly)]  # fmt: skip
    for number, wrapped in enumerate(kinds):
        path = tmp_path / f"{number}.pt"
        torch.save(wrapped.state_dict(), path)
        assert list(open_checkpoint(path).specs) == list(net.state_dict())
        wrapped.load_state_dict(round_trip(path, tmp_path / f"back{number}.pt"))
        tersenet.load_into(tmp_path / f"{number}.pt.terse", Net(7))


def test_with_the_networks_code_any_prefix_is_found(tmp_path: Path, net: Net) -> None:
    state = front("student.body.", dict(net.state_dict()))
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "x.pt")
    compress_file(tmp_path / "x.pt", tmp_path / "x.terse", Rtn(bits=8), module=Net(1))
    assert set(tersenet.load_into(tmp_path / "x.terse", Net(2)).state_dict()) == set(net.state_dict())
    write_checkpoint(tersenet.load(tmp_path / "x.terse"), tmp_path / "y.ckpt")
    assert set(torch.load(tmp_path / "y.ckpt")["state_dict"]) == set(state)


def test_a_network_whose_names_do_have_the_prefix_keeps_them(tmp_path: Path, net: Net) -> None:
    outer = nn.DataParallel(net)
    torch.save(outer.state_dict(), tmp_path / "x.pt")
    assert list(open_checkpoint(tmp_path / "x.pt", outer).specs) == list(outer.state_dict())
    assert list(open_checkpoint(Checkpoint(tmp_path / "x.pt", strip_prefix="")).specs) == list(outer.state_dict())


def test_a_prefix_of_two_networks_is_chosen_by_the_user(tmp_path: Path, net: Net) -> None:
    both = front("student.", dict(net.state_dict())) | front("teacher.", dict(Net(5).state_dict()))
    torch.save(both, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r'after student\. and after teacher\.: .*strip_prefix="student\."'):
        open_checkpoint(tmp_path / "x.pt", net)
    chosen = Checkpoint(tmp_path / "x.pt", strip_prefix="teacher.", ignore_keys="student.*")
    assert torch.equal(load_into(chosen, Net(9)).fc.weight, Net(5).fc.weight)
    with pytest.raises(CheckpointError, match=r"no name begins with strip_prefix=.*student\.layer1"):
        open_checkpoint(Checkpoint(tmp_path / "x.pt", strip_prefix="nothing"))
    with pytest.raises(CheckpointError, match=r"ignore_keys='x\*' matches no tensor"):
        open_checkpoint(Checkpoint(tmp_path / "x.pt", ignore_keys=("x*",)))


def test_two_tensors_never_get_one_name(tmp_path: Path) -> None:
    torch.save({"a._orig_mod.w": torch.ones(2), "a.w": torch.zeros(2)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"a\._orig_mod\.w and a\.w would both be called a\.w"):
        open_checkpoint(tmp_path / "x.pt")
    assert len(open_checkpoint(Checkpoint(tmp_path / "x.pt", strip_prefix="")).specs) == 2


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
        load_into(tmp_path / "y.safetensors", net)
    load_into(Checkpoint(tmp_path / "y.safetensors", ignore_keys="head.*"), net)


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
    compress_file(folder, tmp_path / "x.terse", Rtn(include=("fc.weight",), exclude=("*",), kept_dtype="exact"))
    write_checkpoint(tersenet.load(tmp_path / "x.terse"), tmp_path / "back")
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in (tmp_path / "back").iterdir())
    for shard in shards:
        assert same(torch.load(tmp_path / "back" / shard), torch.load(folder / shard))
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "../x.bin"}}')
    with pytest.raises(CheckpointError, match=r"not in the folder: \.\./x\.bin"):
        open_checkpoint(folder)
