"""Which step vlcq gives every weight: the rule by names and shapes, and what the spread of rows and columns says."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import tersenet
from tersenet.core.grid import Outer, Uniform, factors
from tersenet.core.model import QTensor, TensorSpec
from tersenet.methods.vlcq.plan import on_grid, relative_units, round_weight
from tersenet.methods.vlcq.rules import (
    EMBEDDED,
    EVEN,
    FILTER,
    FIRST_RECURRING,
    FREE_WORDS,
    OF_SCORES,
    OF_VALUES,
    PLAIN,
    RECURRING,
    WORDS,
    Rule,
    rules,
)
from tersenet.methods.vlcq.steps import MANTISSA, measured


def spread(*shape: int, seed: int = 0, octaves: float = 2.0) -> torch.Tensor:
    """Weights whose rows and columns differ."""
    make = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=make)
    for dim in (0, 1):
        scale = torch.exp2((torch.rand(shape[dim], generator=make) - 0.5) * octaves)
        weight *= scale.reshape([-1 if i == dim else 1 for i in range(len(shape))])
    return weight


ATTENDS = ("layers.0.self_attn.norm.bias",)


def rule_of(name: str, *shape: int, beside: tuple[str, ...] = (), aliases: dict[str, str] | None = None) -> Rule:
    specs = {name: TensorSpec(torch.Size(shape), torch.float32)}
    specs |= {other: TensorSpec(torch.Size([64]), torch.float32) for other in beside}
    return rules(specs, aliases or {}, [name])[name]


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "lstm.weight_ih_l0": FIRST_RECURRING,
        "lstm.weight_ih_l0_reverse": FIRST_RECURRING,
        "cell.weight_ih": FIRST_RECURRING,
        "lstm.weight_hh_l0": RECURRING,
        "lstm.weight_ih_l1": RECURRING,
        "gru.weight_hh_l2_reverse": RECURRING,
        "encoder.layer.0.attention.self.query.weight": OF_SCORES,
        "model.layers.3.self_attn.k_proj.weight": OF_SCORES,
        "h.0.attn.q_lin.weight": OF_SCORES,
        "encoder.layer.0.attention.self.value.weight": OF_VALUES,
        "model.layers.3.self_attn.v_proj.weight": OF_VALUES,
        "encoder.layer.0.attention.output.dense.weight": OF_VALUES,
        "model.layers.3.self_attn.o_proj.weight": OF_VALUES,
        "blocks.1.attn.proj.weight": OF_VALUES,
        "encoder.layer.0.output.dense.weight": PLAIN,
        "blocks.1.attn.qkv.weight": PLAIN,
        "model.layers.3.mlp.up_proj.weight": PLAIN,
        "fc1.weight": PLAIN,
    }.items(),
)
def test_a_matrix_is_told_by_its_name(name: str, expected: Rule) -> None:
    assert rule_of(name, 64, 64, beside=ATTENDS) == expected


def test_without_attention_and_recurrence_one_step_holds_for_all() -> None:
    """In LeNets steps of rows and columns cost most of the agreement (docs/design/0018)."""
    for name in ("fc1.weight", "conv2.weight", "value.weight", "embed.weight"):
        assert rule_of(name, 64, 64) == EVEN


def test_with_batch_norm_one_step_holds_for_all_but_recurrent_weights() -> None:
    for name in ("fc.weight", "embed.weight", "attn.v_proj.weight"):
        assert rule_of(name, 64, 64, beside=("bn.running_var",)) == EVEN
    assert rule_of("lstm.weight_hh_l0", 64, 64, beside=("bn.running_var",)) == RECURRING


def test_a_long_kernel_along_one_axis_is_a_filter() -> None:
    for shape in ((16, 4, 64), (16, 4, 64, 1), (16, 4, 1, 8)):
        assert rule_of("conv.weight", *shape, beside=("bn.running_mean",)).prior == FILTER
        assert rule_of("conv.weight", *shape, beside=ATTENDS) == Rule(0.5, 0.5, 1.0, prior=FILTER)
    for shape in ((16, 4, 7, 7), (16, 4, 3), (16, 64)):
        assert rule_of("conv.weight", *shape, beside=ATTENDS).prior == PLAIN.prior


def test_embeddings_that_are_no_head_get_larger_steps() -> None:
    name, words = "embeddings.word_embeddings.weight", (5000, 64)
    encoder = ("encoder.layer.0.attention.output.dense.bias",)
    assert rule_of(name, *words, beside=encoder) == FREE_WORDS
    assert rule_of(name, *words, beside=ATTENDS) == WORDS  # a decoder without a head: it is tied
    assert rule_of(name, *words, beside=encoder, aliases={"head.weight": name}) == WORDS
    assert rule_of("embeddings.position_embeddings.weight", 512, 64, beside=encoder) == EMBEDDED
    names = ("embed_tokens.weight", "lm_head.weight", *ATTENDS)
    specs = {key: TensorSpec(torch.Size(words), torch.float32) for key in names}
    assert rules(specs, {}, names[:2]) == {"embed_tokens.weight": FREE_WORDS, "lm_head.weight": PLAIN}


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(40, 30), (40, 30, 3), (1, 300), (300, 1)], ids=str)
def test_weights_are_divided_by_a_power_of_the_magnitude_of_rows_and_columns(shape: tuple[int, ...], axis: int) -> None:
    weight = spread(*shape)
    known = measured(weight, axis, RECURRING)
    whole = weight.abs().transpose(0, axis)
    for exponent, numbers, magnitude in (
        (1.0, known.rows, whole.flatten(1).mean(1)),
        (0.5, known.columns, whole.transpose(0, 1).flatten(1).mean(1)),
    ):
        if len(magnitude) == 1 or len(magnitude) * 16 > weight.numel():  # one weight is no row
            assert numbers is None
            continue
        assert numbers is not None
        logs = magnitude.log2() * exponent
        assert (factors(numbers, MANTISSA).log2() - (logs - logs.mean())).abs().max() < 0.18


@pytest.mark.parametrize("axis", [0, 1])
def test_codes_and_grid_give_back_the_weight_within_half_a_step_of_its_row_and_column(axis: int) -> None:
    weight = spread(50, 20, 3)
    plain = Rule(0.5, 0.5, 1.0, prior=EMBEDDED.prior)
    known = measured(weight, axis, plain)
    entry = on_grid(round_weight(weight, known, 0.1), 0.1, known, torch.float32)
    assert isinstance(entry.grid, Outer)
    steps = entry.grid.decode(torch.ones(weight.shape))
    assert ((entry.dequantize() - weight).abs() <= steps * 0.5001).all() and steps.max() > 2 * steps.min()


def test_rows_of_zeros_and_of_tiny_numbers_survive() -> None:
    weight = spread(40, 30)
    weight[3], weight[:, 4], weight[5] = 0.0, 0.0, 1e-30
    known = measured(weight, 0, RECURRING)
    back = on_grid(round_weight(weight, known, 0.1), 0.1, known, torch.float32).dequantize()
    assert torch.isfinite(back).all() and (back[[3, 5]] == 0).all() and (back[:, 4] == 0).all()
    zeros = measured(torch.zeros(20, 20), 0, RECURRING)
    assert zeros.rows is None and zeros.columns is None and zeros.spread == 0


def test_rare_words_get_larger_steps() -> None:
    known = measured(torch.randn(8000, 16, generator=torch.Generator().manual_seed(0)), 0, FREE_WORDS)
    assert known.rows is not None
    found = factors(known.rows, MANTISSA)
    assert found[-100:].mean() / found[:100].mean() == pytest.approx((8450 / 550) ** 0.2, rel=0.1)


def test_steps_of_one_kind_follow_the_spread_and_kinds_meet_in_the_middle() -> None:
    weights = {"a": torch.randn(64, 64), "b": torch.randn(64, 64) * 0.25}
    even = relative_units({name: measured(weight, 0, PLAIN) for name, weight in weights.items()})
    assert even["a"] / even["b"] == pytest.approx(4, rel=0.1)
    mixed = relative_units({"a": measured(weights["a"], 0, EVEN), "b": measured(weights["a"], 0, PLAIN)})
    assert mixed["a"] / mixed["b"] == pytest.approx(1, rel=0.05)


def test_rows_and_columns_help_at_equal_bytes(tmp_path: Path) -> None:
    """Inputs that are large where columns are small, as training leaves them: the error of outputs halves."""
    weight = spread(256, 192, octaves=4.0)
    moment = 1 / weight.abs().mean(0)
    errors, grids = [], []
    for name in ("attn.norm.bias", "bn.running_var"):
        beside = {name: torch.ones(64)}
        save_file({"fc.weight": weight, **beside}, tmp_path / "x.safetensors")
        small = tersenet.compress(tmp_path / "x.safetensors", "vlcq", target_bits=3)
        tersenet.save(small, tmp_path / "x.terse", overwrite=True)
        entry = tersenet.load(tmp_path / "x.terse").tensors["fc.weight"]
        assert isinstance(entry, QTensor)
        relative = (entry.dequantize() - weight).square() * moment / weight.abs().mean(1, keepdim=True)
        errors.append(float(relative.sum()))
        grids.append(type(entry.grid))
    assert grids == [Outer, Uniform] and errors[0] < 0.6 * errors[1]
