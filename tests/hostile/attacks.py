"""Files that an attacker would make, by name: every hash is right, one thing is not. `bombs` are those that are large.

`ATTACKS[name]()` gives the bytes. A reader refuses each with a typed error, or gives a right result.
"""

import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

from forge import assemble
from parts import (
    ACTIVATION,
    CONSTANT,
    ESCAPE,
    HALF,
    HUGE,
    STATE,
    TRELLIS,
    TRELLIS_CHUNK,
    TWO,
    activations,
    attached,
    claiming,
    codebook,
    grouped,
    indexed,
    kept,
    nested,
    pointed,
    quantised,
    raw_index,
    uniform,
    varint,
    zstd,
)

ATTACKS: dict[str, Callable[[], bytes]] = {
    # what inputs are rounded to
    "act_deep": partial(activations, zstd(b"[" * 100_000)),
    "act_huge_range": partial(activations, zstd(b'{"c":["integers",0.5,[-2147483648,281474976710656]]}')),
    "act_kind_list": partial(activations, zstd(b'{"c":[["points"],0.5,[0,1]]}')),
    "act_magic_only": partial(activations, b"\x28\xb5\x2f\xfd"),
    "act_not_critical": partial(activations, ACTIVATION, critical=False),
    "act_path_surrogate": partial(activations, zstd(b'{"c\\ud800":["integers",0.5,[0,1]]}')),
    "act_scale_above_fp32": partial(activations, zstd(b'{"c":["integers",3.45e38,[0,1]]}')),
    "act_scale_denormal_zero": partial(activations, zstd(b'{"c":["integers",1e-60,[0,1]]}')),
    "act_two_sections": partial(activations, ACTIVATION, times=2),
    "act_twice_the_same_layer": partial(activations, zstd(b'{"c":["integers",0.5,[0,1]],"c":["integers",1.0,[0,1]]}')),
    "data_section_with_a_kind": lambda: kept(sections=[[8, "data", False]], contents=[bytes(8)]),
    # names and attachments
    "alias_lone_surrogate": lambda: raw_index(indexed(',"aliases":{"b\\ud800":"a"}')),
    **{
        f"att_{key}": partial(attached, name)
        for key, name in {
            "abs": "/tmp/tersenet-evil",
            "deep": "a/" * 3000 + "a",
            "dot": ".",
            "dotdot": "../evil",
            "mid": "a/../../evil",
            "empty": "",
            "file_and_dir": "model.safetensors/x",
            "hidden": ".git/hooks/pre-commit",
            "long": "a" * 300,
            "newline": "a\nb",
            "nul": "a\0b",
            "pickle": "pytorch_model.bin",
            "pyfile": "modeling_x.py",
            "shard_overwrite": "model.safetensors",
            "slash_end": "a/",
            "win": "..\\..\\evil",
            "winabs": "C:\\evil",
        }.items()
    },
    **{
        f"shard_{key}": partial(kept, layout={"shards": {name: ["a"]}})
        for key, name in {
            "abs": "/tmp/tersenet-evil",
            "dot": ".",
            "dotdot": "../evil.safetensors",
            "empty": "",
            "nul": "a\0b",
            "surrogate": "a\ud800",
        }.items()
    },
    **{
        f"name_{key}": partial(kept, name=name)
        for key, name in {
            "ansi": "a" + ESCAPE,
            "bidi": "a\u202etxt.exe",
            "empty": "",
            "nul": "a\0b",
            "surrogate": "a\ud800",
            "1MB": "a" * 1_000_000,
            "number": 7,
        }.items()
    },
    "att_surrogate": partial(attached, "a\ud800"),
    "reason_ansi": partial(kept, reason=ESCAPE),
    "provmethod_ansi": partial(kept, provenance={"method": ESCAPE}),
    "err_ansi": partial(quantised, [3], b"\0\0", [b""], 0, name="a" + ESCAPE, kind="i64"),
    # layout
    **{
        f"layout_{key}": partial(kept, layout=layout)
        for key, layout in {
            "meta_surrogate": {"metadata": {"m": {"format\ud800": "x"}}},
            "metadata_list": {"metadata": [1]},
            "names_list": {"shards": {"m.safetensors": [[1]]}},
            "names_nonstr": {"shards": {"m.safetensors": [1]}},
            "omits_tensor": {"shards": {"m.safetensors": []}},
            "shards_list": {"shards": ["a"]},
            "same_name_repeated": {"shards": {"m.safetensors": ["a", "a", "a"]}},
            "shared_by_two": {"shards": {"m.safetensors": ["a"], "n.safetensors": ["a"]}},
        }.items()
    },
    # the index
    "batch_norm_empty": partial(kept, batch_norm=""),
    "duplicate_json_keys": lambda: raw_index(indexed(',"aliases":{"x":"a"},"aliases":{"y":"a"}')),
    "index_5000_digit_int": lambda: raw_index(indexed(f',"provenance":{{"x":{"9" * 5000}}}')),
    "index_utf16": lambda: raw_index(indexed().decode().encode("utf-16")),
    "index_utf8_bom": lambda: raw_index(b"\xef\xbb\xbf" + indexed()),
    "index_magic_only": lambda: assemble({}, [bytes(8)], frame=b"\x28\xb5\x2f\xfd"),
    "index_truncated_frame_header": lambda: assemble({}, [bytes(8)], frame=b"\x28\xb5\x2f\xfd\xa0"),
    "index_claims_2e63": lambda: assemble({}, [bytes(8)], frame=claiming(2**63 - 1)),
    "index_junk_after": lambda: assemble({}, [bytes(8)], frame=zstd(indexed()) + b"junk"),
    "prov_nested_400": lambda: kept(provenance={"x": nested(400)}),
    "prov_nested_900": lambda: kept(provenance={"x": nested(900)}),
    "provenance_1e400": lambda: raw_index(indexed(',"provenance":{"x":1e400}')),
    "provenance_method_is_list": partial(kept, provenance={"method": [1, {"a": 2}]}),
    **{
        f"recorded_{key}": partial(quantised, [3], CONSTANT, about={"provenance": {"accgrad": facts}})
        for key, facts in {
            "list": [1],
            "text": {"nonzeros": {"z": "x"}},
            "words": {"nonzeros": {"z": {"four": 1}}},
            "negative": {"nonzeros": {"z": {"4": -1}}},
            "too_many": {"nonzeros": {"z": {"4": 10**30}}},
            "wide": {"nonzeros": {"z": {"9" * 50: 1}}},
            "float": {"nonzeros": {"z": {"4": 1.5}}},
        }.items()
    },
    # kept tensors
    "kept_100_dims": partial(kept, b"\0" * 4, shape=[1] * 100),
    "kept_200000_dims": partial(kept, b"\0" * 4, shape=[1] * 200_000),
    "kept_bool_byte_7": partial(kept, b"\0\1\7", shape=[3], dtype="bool"),
    "kept_bool_constant_7": partial(kept, b"\7", shape=[3], dtype="bool", storage=2),
    "kept_bool_zstd_7": lambda: kept(zstd(b"\7" * 100), shape=[100], dtype="bool", storage=1),
    "kept_c128": partial(kept, b"\0" * 16, shape=[1], dtype="c128"),
    "kept_complex_as_int": partial(kept, b"\0" * 16, shape=[1], dtype="i8", stored="c128"),
    "kept_f64_nan_as_bool": partial(kept, struct.pack("<d", float("nan")), shape=[1], dtype="bool", stored="f64"),
    "kept_i64_as_f8": partial(kept, b"\0" * 8, shape=[1], dtype="f8e4m3", stored="i64"),
    "kept_u64_as_u16": partial(kept, b"\xff" * 8, shape=[1], dtype="u16", stored="u64"),
    "kept_constant_of_nothing": partial(kept, b"", shape=[0, 3], storage=2),
    "kept_const_huge_dims_times_zero": partial(kept, b"", shape=[0, HUGE, HUGE], storage=2),
    "kept_huge_dims_times_zero": partial(kept, b"", shape=[HUGE, HUGE, HUGE, 0]),
    "kept_zstd_empty_with_junk": lambda: kept(zstd(b"") + b"junk!", shape=[0], storage=1),
    "kept_zstd_empty": lambda: kept(zstd(b""), shape=[0], storage=1),
    "kept_zstd_no_bytes": partial(kept, b"", shape=[0], storage=1),
    "kept_zstd_four_bytes": partial(kept, b"\x28\xb5\x2f\xfd", shape=[2], storage=1),
    # grids
    "axis_dim_zero": partial(quantised, [3, 0], CONSTANT, grid=uniform(["f32", [0]], axis=1), fields=b""),
    "codebook_2d": partial(quantised, [2, 2], b"\x80\0", grid=codebook([2, 1], axis=1), fields=TWO),
    "codebook_axis_1d": partial(
        quantised, [2, 2], b"\x80\0", grid=codebook([1], axis=0, scale=["f32", []]), fields=TWO
    ),
    "codebook_of_nothing": partial(quantised, [0], CONSTANT, grid=codebook([0]), fields=b""),
    "codebook_scalar": partial(quantised, [], b"\x80\0", grid=codebook([1])),
    "codebook_u64_f64": partial(quantised, [1], b"\x80\0", dtype="f64", grid=codebook([1], "u64"), fields=b"\xff" * 8),
    "codes_outside_codebook": partial(quantised, [4], CONSTANT, grid=codebook([1])),
    "grid_kind_list": partial(quantised, [3], CONSTANT, grid={"kind": ["uniform"], "scale": ["f32", []]}),
    "group_1d": partial(grouped, [4], 1, [4, 1], 4),
    "group_row_zero_len": partial(grouped, [3, 0], 2, [3, 0], 0),
    "group_rows_zero": partial(grouped, [0, 5], 2, [0, 0], 0),
    "group_rows_zero_3": partial(grouped, [0, 5], 2, [0, 3], 0),
    "group_size_2p48": partial(grouped, [3, 4], HUGE, [3, 1], 3),
    "quant_100_dims": partial(quantised, [1] * 100, CONSTANT),
    "quant_70_dims_raw": partial(quantised, [1] * 70, b"\1\0", [b"\0"], 0),
    "quant_huge_dims_times_zero": partial(quantised, [HUGE, HUGE, HUGE, 0], CONSTANT),
    **{
        f"scale_{key}": partial(quantised, [3], CONSTANT, grid=uniform([dtype, []]), fields=data)
        for key, (dtype, data) in {
            "bool_byte_7": ("bool", b"\7"),
            "complex": ("c128", HALF * 4),
            "nan": ("f32", struct.pack("<f", float("nan"))),
            "infinite": ("f32", struct.pack("<f", float("inf"))),
            "zero": ("f32", b"\0" * 4),
            "zero_f16": ("f16", b"\0\0"),
            "above_fp32": ("f64", struct.pack("<d", 1e39)),
            "below_fp32": ("f64", struct.pack("<d", 1e-60)),
            "bf16_nan": ("bf16", b"\xff\x7f"),
            "integer": ("i32", b"\1\0\0\0"),
        }.items()
    },
    "zero_point_extreme": partial(pointed, ["i32", []], struct.pack("<i", -(2**31)), b"\x80" + varint(2 * (2**31 - 1))),
    "zero_point_nan_f64": partial(pointed, ["f64", []], struct.pack("<d", float("nan")), CONSTANT),
    "zero_point_beyond_32_bits": partial(pointed, ["i64", []], struct.pack("<q", 2**40), CONSTANT),
    # codes
    "coder2_chunk_claims_100GB": lambda: quantised([8], b"\1\0", [claiming(10**11)], 2),
    "coder2_chunk_claims_2e63": lambda: quantised([8], b"\1\0", [claiming(2**63 - 1)], 2),
    "coder2_empty_frame_for_nothing": lambda: quantised([8], b"\0\0", [zstd(b"")], 2),
    "coder2_empty_frame_with_junk": lambda: quantised([8], b"\0\0", [zstd(b"") + b"x"], 2),
    "coder2_no_frame": lambda: quantised([8], b"\1\0", [b"\x28\xb5\x2f\xfd"], 2),
    "constant_out_of_type": partial(quantised, [3], b"\x80" + varint(2000)),
    "constant_out_of_type_of_nothing": partial(quantised, [0], b"\x80" + varint(2000)),
    "low_2p62_minus_raw": partial(quantised, [1], b"\x20" + varint(2**63 - 1), [b"\0" * 4], 0, kind="i32"),
    "low_2p62_raw": partial(quantised, [1], b"\x20" + varint(2**63 - 2), [b"\xff" * 4], 0, kind="i32"),
    "low_2p62_rans": partial(quantised, [3], b"\0\0" + varint(2**63 - 2) + b"\0", [STATE], kind="i32"),
    "low_out_of_i8_raw": partial(quantised, [3], b"\0" + varint(2000), [b""], 0),
    "split31_window": partial(quantised, [3], b"\0\xe0\x1f\0\0", [b"\xff" * 12 + STATE], kind="i32"),
    "trellis_1d": partial(quantised, [3], TRELLIS, [TRELLIS_CHUNK]),
    "trellis_scalar": partial(quantised, [], TRELLIS, [TRELLIS_CHUNK]),
    "trellis_zero_columns": partial(quantised, [7, 0], TRELLIS),
    "trellis_zero_rows": partial(quantised, [0], TRELLIS),
    "trellis_zero_rows_2d": partial(quantised, [0, 7], TRELLIS),
}


def write_all(folder: Path) -> list[Path]:
    """Write every attack into a new folder."""
    from bombs import BOMBS, HEAVY

    folder.mkdir(parents=True)
    for name, make in (ATTACKS | BOMBS | HEAVY).items():
        (folder / f"{name}.terse").write_bytes(make())
    return sorted(folder.iterdir())
