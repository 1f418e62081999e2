"""Inputs and options at the edge: what an unfriendly user found, kept as facts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn
from torch.nn import functional as F

import tersenet
from tersenet.cli import main
from tersenet.errors import (
    BudgetError,
    CheckpointError,
    FormatError,
    OutputError,
    TersenetError,
    UsageError,
    WeightError,
)
from tersenet.files.checkpoint_write import write_checkpoint
from tersenet.methods import settings

pytestmark = pytest.mark.filterwarnings("ignore:.* has no batch-norm statistics")


class Net(nn.Module):
    """Two convolutions and batch norms; `way` says how they are wired."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.bn1, self.bn2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        for norm in (self.bn1, self.bn2):
            norm.weight.data.uniform_(-2, 2)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.1, 3)
        if way == "tied weight":
            self.conv2.weight = self.conv1.weight
        if way == "tied norms":
            self.bn2.weight, self.bn2.bias = self.bn1.weight, self.bn1.bias
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        if self.way == "skip before the norm":
            return y + self.conv2(F.relu(self.bn1(y)))
        if self.way == "in place":
            y += x
        if self.way == "relu in place":
            y = F.relu_(y)
        if self.way == "functional":
            return self.bn2(self.conv2(F.relu(self.bn1(y)))) + F.conv2d(x, self.conv1.weight, padding=1)
        return self.bn2(self.conv2(F.relu(self.bn1(y))))


WAYS = ["plain", "skip before the norm", "in place", "relu in place", "functional", "tied weight", "tied norms"]


@pytest.mark.parametrize("bn", ["scale-shift", "fold"])
@pytest.mark.parametrize("way", WAYS)
def test_a_batch_norm_is_merged_only_where_it_alone_sees_its_layer(way: str, bn: str) -> None:
    net, x = Net(way), torch.randn(4, 8, 12, 12)
    fields: dict[str, Any] = {"target_bits": 8, "images": 8, "synthesis_steps": 3, "input_shape": "8x12x12"}
    try:
        small = tersenet.compress(net, "vlcq", bn=bn, **fields)
    except UsageError:
        assert way == "tied norms"
        return
    expected = net(x)
    assert (small.apply_to(Net(way))(x) - expected).norm() < 0.02 * expected.norm()


def test_a_larger_budget_is_never_a_worse_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 256) / 16
    save_file({"w": weight}, tmp_path / "w.safetensors")
    errors = []
    for size in (6_000, 20_000, 60_000, 200_000, 2_000_000):
        small = tersenet.compress(tmp_path / "w.safetensors", "vlcq", max_bytes=size)
        assert tersenet.save(small, tmp_path / "w.terse", overwrite=True) <= size
        errors.append(float((tersenet.load(tmp_path / "w.terse").state_dict()["w"] - weight).norm()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-4


@pytest.mark.parametrize("scale", [1e-25, 1e-6, 1e6, 1e20])
def test_the_scale_of_all_weights_does_not_matter(scale: float) -> None:
    torch.manual_seed(0)
    weight = torch.randn(32, 64) * scale
    for method in ("rtn", "vlcq"):
        back = tersenet.compress(_module(weight), method).state_dict()["weight"]
        assert (back.double() - weight).norm() < 0.2 * weight.double().norm(), method


def test_a_tiny_tensor_beside_a_normal_one_keeps_its_bits() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(_module(torch.randn(32, 64)), _module(torch.randn(32, 64) * 1e-14))
    for name, weight in tersenet.compress(net, "vlcq").state_dict().items():
        original = net.state_dict()[name].double()
        assert (weight.double() - original).norm() <= 0.2 * original.norm(), name


@pytest.mark.parametrize("value", [3e38, float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["rtn", "vlcq"])
def test_weights_beyond_arithmetic_are_refused_by_name(value: float, method: str) -> None:
    weight = torch.randn(32, 64)
    weight[3, 4] = value
    with pytest.raises(WeightError, match=r"tensor weight has .* at \[3, 4\]"):
        tersenet.compress(_module(weight), method)


def test_half_precision_weights_at_its_end_stay_finite() -> None:
    weight = torch.full((32, 64), 65504.0).half()
    back = tersenet.compress(_module(weight), "rtn").state_dict()["weight"]
    assert back.dtype == torch.float16 and torch.isfinite(back).all()


def _module(weight: Tensor) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight)
    return layer


def test_a_budget_holds_where_nothing_can_be_quantised() -> None:
    with pytest.raises(BudgetError, match="nothing to quantise"):
        tersenet.compress(nn.Linear(3, 3), "vlcq", max_bytes=100)


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


def test_garbage_is_called_damaged_not_dangerous(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(bytes(range(256)) * 20)
    with pytest.raises(CheckpointError, match="damaged"):
        tersenet.compress(tmp_path / "x.pt", "rtn")


def test_a_renamed_terse_file_is_recognised(tmp_path: Path) -> None:
    tersenet.save(tersenet.compress(nn.Linear(64, 64), "rtn"), tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="compressed"):
        tersenet.compress(tmp_path / "x.safetensors", "rtn")


class Tied(nn.Module):
    """An embedding that is also the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(40, 16), nn.Linear(16, 40, bias=False)
        self.head.weight = self.embed.weight


def test_a_tied_tensor_that_the_checkpoint_left_out_is_no_mismatch(tmp_path: Path) -> None:
    net = Tied()
    save_model(net, str(tmp_path / "x.safetensors"))
    tersenet.save(tersenet.compress(tmp_path / "x.safetensors", "rtn", module=Tied()), tmp_path / "x.terse")
    with torch.device("meta"):
        empty = Tied()
    for target in (Tied(), empty):
        back = tersenet.load(tmp_path / "x.terse").apply_to(target)
        assert back.head.weight is back.embed.weight and not back.head.weight.is_meta


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    source, out = tmp_path / "hf", tmp_path / "keep"
    source.mkdir(), out.mkdir()
    save_file({"w": torch.randn(32, 32)}, source / "model.safetensors")
    (out / "thesis.txt").write_text("years of work")
    small = tersenet.compress(source, "rtn")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        write_checkpoint(small, out, overwrite=True)
    assert (out / "thesis.txt").read_text() == "years of work"


def test_codes_include_tied_tensors_and_refuse_what_they_cannot_name(tmp_path: Path) -> None:
    write_checkpoint(tersenet.compress(Tied(), "rtn"), tmp_path / "c.safetensors", codes=True)
    assert {"embed.weight", "head.weight"} <= set(load_file(tmp_path / "c.safetensors"))
    both = {"w": torch.randn(32, 32), "w:scale": torch.ones(3)}
    torch.save(both, tmp_path / "both.pt")
    small = tersenet.compress(tmp_path / "both.pt", "rtn")
    for target in ("c2.safetensors", "c2.pt"):
        with pytest.raises(OutputError):
            write_checkpoint(small, tmp_path / target, codes=True)


def test_a_forged_layout_is_a_format_error(tmp_path: Path) -> None:
    small = tersenet.compress(nn.Linear(64, 64), "rtn")
    for layout in ({"shards": {"a": ["nope"]}}, {"shards": 3}, {"metadata": {"a": 1}}):
        forged = tersenet.CompressedModel(small.tensors, layout=layout)
        with pytest.raises(FormatError):
            write_checkpoint(forged, tmp_path / "out.safetensors")


WRONG = {
    "a boolean that is no boolean": ["--method", "rtn", "--affine=perhaps"],
    "a negated number": ["--method", "rtn", "--no-bits", "3"],
    "an unknown effort": ["--effort", "heroic"],
    "calibration without data": ["--calibrate"],
    "arguments for no model": ["--model-arg", "a=b"],
    "an include that matches nothing": ["--include", "nothing*"],
    "rtn cannot fold": ["--method", "rtn", "--bn", "fold"],
    "a folder for a training that is none": ["--run", "somewhere"],
    "an unknown argument of the model": ["--model", "digits", "--model-arg", "depth=3", "--task", "x.py:y"],
}


@pytest.mark.parametrize("flags", WRONG.values(), ids=WRONG.keys())
def test_wrong_usage_is_named_and_nothing_is_written(
    flags: list[str], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["compress", str(checkpoint), "-o", str(tmp_path / "o.terse"), "--json", *flags])
    assert stop.value.code == 2 and not list(tmp_path.iterdir())
    assert json.loads(capsys.readouterr().out)["error"] == "UsageError"


def test_false_is_false(checkpoint: Path, tmp_path: Path) -> None:
    main_ok(["compress", str(checkpoint), "-o", str(tmp_path / "o.terse"), "--method", "rtn", "--affine=false"])
    (affine,) = (s for s in settings(tersenet.load(tmp_path / "o.terse").provenance).fields if s.name == "affine")
    assert affine.value is False


def main_ok(arguments: list[str]) -> None:
    try:
        main(arguments)
    except SystemExit as stop:
        assert not stop.code


def test_names_with_brackets_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tersenet.CompressedModel({"blocks[attn].w": tersenet.KeptTensor(torch.ones(3), torch.float32, "[/red]")})
    tersenet.save(model, tmp_path / "x.terse")
    main_ok(["inspect", str(tmp_path / "x.terse")])
    assert "blocks[attn].w" in capsys.readouterr().out


def test_an_output_name_that_is_too_long_is_a_typed_error(checkpoint: Path, tmp_path: Path) -> None:
    small = tersenet.compress(checkpoint, "rtn")
    with pytest.raises(TersenetError):
        tersenet.save(small, tmp_path / ("x" * 400))
    tersenet.save(small, tmp_path / ("x" * 250))


def test_huge_groups_take_no_memory(tmp_path: Path) -> None:
    small = tersenet.compress(nn.Linear(64, 64), "rtn", granularity="group", group_size=1 << 31)
    tersenet.save(small, tmp_path / "x.terse")
    assert tersenet.load(tmp_path / "x.terse").state_dict()["weight"].shape == (64, 64)


def test_compress_works_inside_no_grad(network: nn.Module) -> None:
    fields: dict[str, Any] = {"images": 4, "synthesis_steps": 2}
    with torch.no_grad():
        inside = tersenet.compress(network, "vlcq", **fields).state_dict()
    outside = tersenet.compress(network, "vlcq", **fields).state_dict()
    assert all(torch.equal(inside[name], value) for name, value in outside.items())
