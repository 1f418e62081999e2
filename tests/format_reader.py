"""A second reader, written from docs/format.md alone; imports nothing of tersenet. Slow, and as strict as the page."""

import json
import re
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import xxhash

from format_bases import sums
from format_codes import decode, inflate, number
from format_outer import by_rows_and_columns, check_outer

DTYPES = {
    "f64": "<f8", "f32": "<f4", "f16": "<f2", "bf16": "<u2", "f8e4m3": "u1", "f8e5m2": "u1", "i64": "<i8",
    "i32": "<i4", "i16": "<i2", "i8": "<i1", "u64": "<u8", "u32": "<u4", "u16": "<u2", "u8": "u1", "bool": "?",
    "c64": "<c8", "c128": "<c16",
}  # fmt: skip
FLOATS = ("f64", "f32", "f16", "bf16")
INTEGERS = ("i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8")
ORDER = {"uniform": ("scale", "zero_point", "offset"), "codebook": ("values", "scale", "offset"), "fixed": (),
         "outer": ("scale", "rows", "columns")}  # fmt: skip
TYPES = {"zero_point": INTEGERS, "values": FLOATS + INTEGERS, "scale": FLOATS, "offset": FLOATS}
HEAD = '{"__metadata__":{"format":"terse","version":"1"},"terse":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}'
MEMBERS = {
    "sections": list,
    "tensors": list,
    "files": dict,
    "aliases": dict,
    "batch_norm": str,
    "layout": dict,
    "provenance": dict,
}


def read(path: str) -> dict[str, np.ndarray]:
    """Tensor name -> values: kept tensors as stored, quantised ones in fp32 before the rounding to their dtype."""
    with open(path, "rb") as stream:
        data = stream.read()
    size = len(data) - 192
    assert number(data[:8]) == 184 and data[8:192] == (HEAD % (size, size)).encode().ljust(184)
    assert data[192:256] == b"TERSENET\x01".ljust(64, b"\0")
    offset, length, digest = (number(data[-32 + i : -24 + i]) for i in (0, 8, 16))
    assert data[-8:] == b"TERSEEND" and offset + length + 32 == len(data)
    assert xxhash.xxh3_64_intdigest(data[:256] + data[offset:-32]) == digest
    index = parse(inflate(data[offset:-32]))
    check_index(index)
    tensors: dict[str, np.ndarray] = {}
    contents, at = [], 256
    for section in index["sections"]:
        size, kind, critical = section if isinstance(section, list) else (section, "", False)
        part = data[at : at + whole(size, 1)]
        assert xxhash.xxh3_64_intdigest(part) == number(data[at + size : at + size + 8])
        assert isinstance(kind, str) and isinstance(critical, bool) and critical == (kind == "activations")
        assert kind != "data" and not any(key.startswith("input of ") for key in tensors if kind == "activations")
        if kind == "activations":
            tensors |= activations(parse(inflate(part)))
        if not isinstance(section, list):
            contents.append(part)
        at += size + 8
        assert not any(data[at : at + -at % 64])
        at += -at % 64
    assert at == offset and sum(isinstance(s, list) and s[1] == "activations" for s in index["sections"]) <= 1
    take = taker(contents)
    for entry in index["tensors"]:
        assert (
            len(entry) in (5, 7, 8, 9)
            and isinstance(entry[0], str) and entry[0][:1] != "\0" and entry[0] not in tensors
        )  # fmt: skip
        form = {5: in_bases, 7: kept}.get(len(entry), quantised)
        tensors[entry[0]] = form(entry, take)
    aliases = {alias: tensors[name] for alias, name in index.get("aliases", {}).items()}
    names = {entry[0] for entry in index["tensors"]}
    assert not names & set(aliases) and names.issuperset(index.get("aliases", {}).values())
    check_layout(index.get("layout", {}), [*names, *aliases], list(index.get("files", {})))
    for name, (size, original) in index.get("files", {}).items():
        tensors["file:" + name] = np.frombuffer(inflate(take(whole(size, 1)), whole(original)), np.uint8)
    assert take(0) == b"" and not any(contents)
    return tensors | aliases


def parse(raw: bytes) -> Any:
    """JSON of which readers cannot think differently."""

    def named(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    def finite(text: str) -> float:
        assert abs(float(text)) < float("inf")
        return float(text)

    value = json.loads(raw.decode("utf-8"), object_pairs_hook=named, parse_float=finite, parse_constant=finite)
    json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def depth(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(depth, parts), default=0) if isinstance(value, dict | list) else 0


def check_index(index: Any) -> None:
    assert set(index) <= set(MEMBERS) and {"sections", "tensors"} <= set(index)
    assert all(isinstance(value, MEMBERS[name]) for name, value in index.items())
    assert all(depth(index.get(name, {})) <= 64 for name in ("aliases", "layout", "provenance"))
    assert index.get("batch_norm", "pair") in ("pair", "fold")


def check_layout(layout: dict[str, Any], tensors: list[str], attachments: list[str]) -> None:
    shards, metadata = layout.get("shards", {}), layout.get("metadata", {})
    assert isinstance(shards, dict) and isinstance(metadata, dict)
    assert all(isinstance(v, dict) and all(isinstance(text, str) for text in v.values()) for v in metadata.values())
    files = [*shards, *attachments]
    assert len(set(files)) == len(files)
    for name in files:
        parts = name.split("/")
        assert len(name.encode()) <= 1024 and len(parts) <= 32 and all(len(part.encode()) <= 255 for part in parts)
        assert all(set(part) - set(". ") for part in parts)
        assert not re.search(r"[\\:\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", name)
        assert not any(other.startswith(name + "/") for other in files)
    assert all(re.search(r"\A[^/]*\.(safetensors|bin)\Z", shard) for shard in shards)
    assert not shards or sorted(name for names in shards.values() for name in check_list(names)) == sorted(tensors)


def check_list(value: Any) -> list[Any]:
    assert isinstance(value, list)
    return value


def whole(value: Any, least: int = 0, most: int = 2**48) -> int:
    assert type(value) is int and least <= value <= most
    return value


def shaped(shape: Any) -> list[int]:
    assert isinstance(shape, list) and len(shape) <= 32 and prod(max(1, whole(size)) for size in shape) <= 2**48
    return shape


def taker(contents: list[bytes]) -> Any:
    """A function that takes the next bytes, which lie in one section."""

    def take(size: int) -> bytes:
        while contents and not contents[0]:
            contents.pop(0)
        if not size:
            return b""
        assert len(contents[0]) >= size
        taken, contents[0] = contents[0][:size], contents[0][size:]
        return taken

    return take


def activations(value: Any) -> dict[str, np.ndarray]:
    found = {}
    for path, (kind, scale, levels) in value.items():
        assert kind in ("integers", "points") and isinstance(scale, float) and 0 < np.float32(scale) < np.inf
        assert len(levels) == 2 or (kind == "points" and len(levels) > 2)
        assert all(a < b for a, b in pairwise(levels))
        assert all(-(2**31) <= whole(level, -(2**31)) < 2**31 for level in levels)
        found["input of " + path] = np.array([kind, scale, levels], object)
    return found


def kept(entry: list[Any], take: Any) -> np.ndarray:
    _, shape, dtype, kind, reason, storage, size = entry
    count = prod(shaped(shape))
    assert isinstance(reason, str) and dtype in DTYPES and (kind == dtype or {kind, dtype} <= set(FLOATS))
    item = np.dtype(DTYPES[kind]).itemsize
    data = take(whole(size))
    if whole(storage, 0, 2) == 1:
        data = inflate(data, count * item)
    assert len(data) == (min(1, count) if storage == 2 else count) * item
    assert kind != "bool" or set(data) <= {0, 1}
    return np.frombuffer(data * count if storage == 2 else data, DTYPES[kind]).reshape(shape)


def quantised(entry: list[Any], take: Any) -> np.ndarray:
    _, shape, dtype, grid, kind, coder, params, chunks = entry[:8]
    assert isinstance(chunks, list)
    per_chunk = whole(entry[8], 65536, 1 << 20) if len(entry) == 9 else 1 << 20
    check_grid(grid, shaped(shape), dtype)
    parts = {name: field(name, grid[name], take) for name in ORDER[grid["kind"]] if name in grid}
    data = take(whole(params) + sum(whole(chunk) for chunk in chunks))
    head, at = data[:params], params
    pieces = []
    for length in chunks:
        pieces.append(data[at : at + length])
        at += length
    codes = np.array(decode(whole(coder), head, pieces, per_chunk, shape, kind), np.int64).reshape(shape)
    return values(grid, parts, codes)


def field(name: str, entry: list[Any], take: Any) -> np.ndarray:
    if name in ("rows", "columns"):
        return coded(entry, take)
    array = np.empty(entry[1], DTYPES[entry[0]])
    return single(np.frombuffer(take(array.nbytes), array.dtype), entry[0], name).reshape(array.shape)


def coded(entry: list[Any], take: Any) -> np.ndarray:
    """A coded array."""
    assert len(entry) in (5, 6) and isinstance(entry[4], list)
    kind, shape, coder, params, chunks = entry[:5]
    per_chunk = whole(entry[5], 65536, 1 << 20) if len(entry) == 6 else 1 << 20
    data = take(whole(params) + sum(whole(chunk) for chunk in chunks))
    head, at, pieces = data[:params], params, []
    for length in chunks:
        pieces.append(data[at : at + length])
        at += length
    return np.array(decode(whole(coder), head, pieces, per_chunk, shaped(shape), kind), np.int64).reshape(shape)


def in_bases(entry: list[Any], take: Any) -> np.ndarray:
    _, shape, dtype, grid, arrays = entry
    assert dtype in FLOATS and grid["kind"] == "bases" and shape and prod(shaped(shape))
    assert set(grid) == {"kind", "mantissa", "group_size", "stride", "counts", "coordinates"}
    m, g, s = (whole(grid[key], least) for key, least in (("mantissa", 0), ("group_size", 1), ("stride", 1)))
    row = prod(shape[1:])
    assert m <= 10 and row % (g * s) == 0 and grid["counts"][0] == "i8"
    counts, numbers = coded(grid["counts"], take), coded(grid["coordinates"], take)
    assert counts.shape == (shape[0], row // g)
    planes = [coded(array, take) for array in check_list(arrays)]
    return sums(counts.reshape(-1), numbers, planes, m, g).reshape(-1, s, g).swapaxes(1, 2).reshape(shape)


def single(array: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """The entries of a field: zero points as 64-bit integers that fit 32 bits, others in fp32."""
    if name == "zero_point":
        assert all(-(2**31) <= value < 2**31 for value in array.tolist())
        return array.astype(np.int64)
    with np.errstate(over="ignore"):
        found = (array.astype("<u4") << 16).view("<f4") if dtype == "bf16" else array.astype("<f4")
    assert np.isfinite(found).all() and (name != "scale" or found.all())
    return found


def check_grid(grid: Any, shape: list[int], dtype: str) -> None:
    kind, names = grid["kind"], set(grid) - {"kind"}
    assert dtype in FLOATS
    if kind == "fixed":
        assert names == {"exponent"}
        whole(grid["exponent"], -126, 126)
        return
    if kind == "outer":
        check_outer(grid, shape)
        return
    assert names <= {*ORDER[kind], "axis", "group_size"} and not {"axis", "group_size"} <= names
    given = {name: shaped(grid[name][1]) for name in ORDER[kind] if name in grid}
    assert all(len(grid[name]) == 2 and grid[name][0] in TYPES[name] for name in given)
    lead = []
    if "axis" in grid:
        lead = [shape[whole(grid["axis"])]]
    if "group_size" in grid:
        assert kind == "uniform" and prod(shape) and shape
        lead = [shape[0], -(-prod(shape[1:]) // whole(grid["group_size"], 1))]
    if kind == "codebook":
        of_values = given.pop("values")
        assert of_values and of_values[:-1] in ([], [] if given else lead)
    else:
        assert "scale" in given
    assert all(each in ([], lead) for each in given.values())


def values(grid: dict[str, Any], parts: dict[str, np.ndarray], codes: np.ndarray) -> np.ndarray:
    shape = codes.shape
    if grid["kind"] == "fixed":
        return codes.astype(np.float32) * np.float32(2.0) ** grid["exponent"]
    if grid["kind"] == "outer":
        return by_rows_and_columns(codes, grid["mantissa"], **parts)
    if grid["kind"] == "codebook":
        assert not codes.size or (codes.min() >= 0 and codes.max() < parts["values"].shape[-1])
        if parts["values"].ndim == 2:
            axis = grid["axis"]
            channel = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
            return parts["values"][channel, codes]
        found = parts["values"][codes]
        found = found * spread(parts["scale"], grid, shape) if "scale" in parts else found
    else:
        if "zero_point" in parts and codes.size:
            zero = parts["zero_point"]
            assert codes.min() - zero.max() >= -(2**31) and codes.max() - zero.min() < 2**31
            codes = codes - spread(zero, grid, shape)
        found = codes.astype(np.float32) * spread(parts["scale"], grid, shape)
    return found + spread(parts["offset"], grid, shape) if "offset" in parts else found


def spread(part: np.ndarray, grid: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    if not part.shape:
        return part
    if "group_size" in grid:
        row = prod(shape[1:])
        return np.repeat(part, min(row, grid["group_size"]), axis=1)[:, :row].reshape(shape)
    return part.reshape([-1 if i == grid["axis"] else 1 for i in range(len(shape))])
