"""Small files that ask for much: memory, time, or bytes on disk. See `attacks`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from forge import assemble
from parts import HALF, STATE, activations, kept, quantised, raw_index, varint, zstd

BIG = 1 << 29  # codes
CHUNK = 1 << 20


def padded(text: bytes, padding: int) -> bytes:
    """A file of one small tensor and this index, with a section of so many bytes that do not compress."""
    import random

    junk = random.Random(0).randbytes(padding)
    return assemble(text, [bytes(8), junk])


def chunks(count: int, chunk: bytes, symbols: int, coder: int, params: bytes, **more: Any) -> bytes:
    """`count` codes in equal chunks of `symbols`."""
    return quantised([count], params, [chunk] * -(-count // symbols), coder, dtype="f16", symbols=symbols, **more)


def bomb(size: int) -> bytes:
    """A zstd frame that holds so many zeros, and says so: four bytes for 128 KiB."""
    block = lambda last: (last | 2 | (1 << 17) << 3).to_bytes(3, "little") + b"\0"  # noqa: E731
    blocks = block(0) * (size // (1 << 17) - 1) + block(1)
    return b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + blocks


def attached_bomb(size: int) -> bytes:
    data = bytes(8) + bomb(size)
    entry = ["a", [2], "f32", "f32", "r", 0, 8]
    return assemble({"sections": [len(data)], "tensors": [entry], "files": {"x": [len(data) - 8, size]}}, [data])


def many(entries: int) -> bytes:
    """Tensors of nothing."""
    listed = b",".join(b'["%d",[0],"i8","i8","",0,0]' % i for i in range(entries))
    return raw_index(b'{"sections":[8],"tensors":[["a",[2],"f32","f32","r",0,8],%s]}' % listed)


def provenance(value: bytes, times: int, padding: int = 0) -> bytes:
    """A provenance that repeats `value`."""
    head = b'{"sections":[8%s],"tensors":[["a",[2],"f32","f32","r",0,8]],"provenance":{"a":['
    section = b',[%d,"note",false]' % padding if padding else b""
    text = head % section + b",".join([value] * times) + b"]}}"
    return padded(text, padding) if padding else raw_index(text)


def members(times: int) -> bytes:
    """A provenance with very many short names."""
    listed = b",".join(b'"%x":0' % i for i in range(times))
    return raw_index(b'{"sections":[8],"tensors":[["a",[2],"f32","f32","r",0,8]],"provenance":{%s}}' % listed)


def states(count: int) -> bytes:
    """A rANS chunk of `count` times the one symbol there is."""
    lanes = 1 if count < 1 << 14 else 2 if count < 1 << 16 else 16 if count < 1 << 18 else 64
    return STATE * lanes


def trellis(rows: int, columns: int, symbols: int) -> bytes:
    chunk = b"\0" + states(symbols)
    params = b"\x10\0\0\0\0"
    pieces = [chunk] * -(-rows * columns // symbols)
    return quantised([rows, columns], params, pieces, dtype="f16", symbols=symbols)


def classes(count: int, symbols: int) -> bytes:
    inner = states(symbols)
    return chunks(count, varint(len(inner)) + inner, symbols, 3, b"\0\0\0\0")


ONE = b"\0\0\0\0"  # rANS parameters: a window of one symbol, 0
INSIDE = 1 << 27  # codes of fp16 that the limit allows

# what is refused
BOMBS: dict[str, Callable[[], bytes]] = {
    "act_16MB_points": lambda: activations(
        zstd(b'{"c":["points",0.5,[' + b",".join(b"%d" % i for i in range(2_000_000)) + b"]]}")
    ),
    "act_bomb": lambda: activations(zstd(b"[" + b"{}," * 5_000_000 + b"{}]")),
    "alias_amplify_60x": partial(kept, HALF, shape=[1 << 24], storage=2, aliases={f"b{i}": "a" for i in range(60)}),
    "shard_amplify_60x": partial(
        kept, HALF, shape=[1 << 24], storage=2, layout={"shards": {f"m{i}.safetensors": ["a"] for i in range(60)}}
    ),
    "attachment_bomb": lambda: attached_bomb(1 << 32),
    "chunks_2M_empty": lambda: chunks(2_000_000, b"", 1, 0, b"\0\0"),
    "chunks_2M_zero_default": lambda: quantised([2_000_000], b"\0\0", [b""] * 2_000_000, 0, dtype="f16"),
    "coder2_bomb_4GB": lambda: quantised([8], b"\1\0", [bomb(1 << 32)], 2),
    "const_1GiB_half": partial(quantised, [BIG], b"\x80\0", dtype="f16"),
    "const_1GiB_raw_w0": partial(quantised, [BIG], b"\0\0", [b""], 0, dtype="f16", symbols=1 << 30),
    "rans_1GiB_single_symbol": partial(quantised, [BIG], ONE, [STATE * 64], dtype="f16", symbols=1 << 30),
    "classes_1GiB": lambda: classes(BIG, 1 << 30),
    "trellis_1GiB_single_symbol": lambda: trellis(1 << 14, 1 << 15, 1 << 30),
    "index_12MB": lambda: provenance(b"{}", 1 << 22),
    "index_12MB_padded": lambda: provenance(b"{}", 1 << 22, 300_000),
    "provenance_list_5M": lambda: provenance(b"[]", 5_000_000, 40_000),
    "tensors_100k_empty": lambda: many(100_000),
    "tensors_300k_empty": lambda: many(300_000),
}
# what the limit just allows
HEAVY: dict[str, Callable[[], bytes]] = {
    "alias_amplify_allowed": partial(kept, HALF, shape=[1 << 24], storage=2, aliases={f"b{i}": "a" for i in range(3)}),
    "alias_30000": partial(kept, aliases={f"b{i}": "a" for i in range(30_000)}),
    "chunks_smallest": lambda: chunks(INSIDE, states(1 << 16), 1 << 16, 1, ONE),
    "const_256MiB": partial(quantised, [INSIDE], b"\x80\2", dtype="f16"),
    "const_256MiB_i32": partial(quantised, [INSIDE // 2], b"\x80\2", dtype="f16", kind="i32"),
    "const_256MiB_row_of_groups": lambda: quantised(
        [1, INSIDE],
        b"\x80\2",
        dtype="f16",
        fields=HALF * 1024,
        grid={"kind": "uniform", "group_size": INSIDE // 1024, "scale": ["f32", [1, 1024]]},
    ),
    "raw_w0_256MiB": lambda: chunks(INSIDE, b"", CHUNK, 0, b"\0\0"),
    "kept_256MiB_constant": partial(kept, HALF, shape=[1 << 26], storage=2),
    "kept_256MiB_zstd": lambda: kept(zstd(bytes(1 << 28)), shape=[1 << 26], storage=1),
    "attachment_256MiB": lambda: attached_bomb(250 << 20),
    "kept_256MiB_f16_zstd": lambda: kept(zstd(bytes(1 << 27)), shape=[1 << 26], storage=1, stored="f16"),
    "rans_256MiB": lambda: chunks(INSIDE, states(CHUNK), CHUNK, 1, ONE),
    "classes_256MiB": lambda: classes(INSIDE, CHUNK),
    "trellis_256MiB": lambda: trellis(1 << 13, 1 << 14, CHUNK),
    "trellis_256MiB_one_row": lambda: trellis(1, INSIDE, CHUNK),
    "index_2MiB_of_objects": lambda: provenance(b"{}", 690_000),
    "index_of_short_names": lambda: members(200_000),
    "tensors_19k_empty": lambda: many(19_000),
}
