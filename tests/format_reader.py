"""A second reader, written from docs/format.md alone; it imports nothing of tersenet. Slow, strict where cheap."""

import json
from math import prod
from typing import Any

import numpy as np
import xxhash
import zstandard

DTYPES = {
    "f64": "<f8", "f32": "<f4", "f16": "<f2", "bf16": "<u2", "i64": "<i8", "i32": "<i4", "i16": "<i2", "i8": "<i1",
    "u64": "<u8", "u32": "<u4", "u16": "<u2", "u8": "u1", "bool": "?",
}  # fmt: skip
QUARTERS = (4294967296, 3611622603, 3037000500, 2553802834)
EVEN, ODD = (0, 3, 5, 6, 1, 2, 4, 7), (1, 2, 4, 7, 0, 3, 5, 6)


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def inflate(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(data)


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at


def unzigzag(value: int) -> int:
    return value // 2 if value % 2 == 0 else -(value + 1) // 2


def fields(data: bytes, count: int, width: int) -> list[int]:
    whole = number(data)
    return [whole >> (i * width) & ((1 << width) - 1) for i in range(count)]


def read(path: str) -> dict[str, np.ndarray]:
    """Tensor name -> values: kept tensors as stored, quantised ones in fp32 before the rounding to their dtype."""
    with open(path, "rb") as stream:
        data = stream.read()
    assert (
        number(data[:8]) == 184
        and data[192:200] == b"TERSENET"
        and number(data[200:204]) == 1
        and not any(data[204:256])
    )
    offset, length, digest = (number(data[-32 + i : -24 + i]) for i in (0, 8, 16))
    assert data[-8:] == b"TERSEEND" and offset + length + 32 == len(data)
    assert xxhash.xxh3_64_intdigest(data[:256] + data[offset:-32]) == digest
    index = json.loads(inflate(data[offset:-32]))
    tensors: dict[str, np.ndarray] = {}
    body, at = b"", 256
    for section in index["sections"]:
        size, kind, critical = section if isinstance(section, list) else (section, "data", True)
        part = data[at : at + size]
        if kind == "activations":
            tensors |= {
                "input of " + path: np.array(entry, object) for path, entry in json.loads(inflate(part)).items()
            }
        assert xxhash.xxh3_64_intdigest(part) == number(data[at + size : at + size + 8])
        assert kind in ("data", "activations") or not critical
        body += part if kind == "data" else b""
        at += size + 8
        assert not any(data[at : at + -at % 64])
        at += -at % 64
    assert at == offset
    at = 0
    for entry in index["tensors"]:
        size = (
            entry[6]
            if len(entry) == 7
            else sum(stored(f).nbytes for f in grid_fields(entry)) + entry[6] + sum(entry[7])
        )
        part = body[at : at + size]
        tensors[entry[0]] = kept(entry, part) if len(entry) == 7 else quantised(entry, part)
        at += size
    for name, (size, original) in sorted(index.get("files", {}).items()):
        tensors["file:" + name] = np.frombuffer(inflate(body[at : at + size]), np.uint8)
        assert len(tensors["file:" + name]) == original
        at += size
    assert at == len(body)
    return tensors | {alias: tensors[name] for alias, name in index.get("aliases", {}).items()}


def stored(field: list[Any]) -> np.ndarray:
    return np.empty(field[1], DTYPES[field[0]])


def grid_fields(entry: list[Any]) -> list[list[Any]]:
    return [entry[3][name] for name in ("values", "scale", "zero_point", "offset") if name in entry[3]]


def kept(entry: list[Any], data: bytes) -> np.ndarray:
    _, shape, _, kind, _, storage, _ = entry
    if storage == 1:
        data = inflate(data)
    if storage == 2:
        data = data * prod(shape)
    return np.frombuffer(data, DTYPES[kind]).reshape(shape)


def quantised(entry: list[Any], data: bytes) -> np.ndarray:
    _, shape, _, grid, _, coder, params, chunks = entry[:8]
    per_chunk = entry[8] if len(entry) == 9 else 1 << 20
    parts, at = {}, 0
    for name in ("values", "scale", "zero_point", "offset"):
        if name in grid:
            array = stored(grid[name])
            parts[name] = np.frombuffer(data[at : at + array.nbytes], array.dtype).reshape(array.shape)
            at += array.nbytes
    head = data[at : at + params]
    at += params
    count, pieces = prod(shape), []
    for size in chunks:
        pieces.append((data[at : at + size], min(per_chunk, count - per_chunk * len(pieces))))
        at += size
    codes = np.array(decode(coder, head, pieces, count, shape), np.int64).reshape(shape)
    if grid["kind"] == "codebook":
        values = parts["values"].astype(np.float32)
        if values.ndim == 1:
            found = values[codes]
            for name, operation in (("scale", np.multiply), ("offset", np.add)):
                if name in parts:
                    found = operation(found, spread(parts[name], grid, shape).astype(np.float32))
            return found
        channel = np.arange(shape[grid["axis"]]).reshape([-1 if i == grid["axis"] else 1 for i in range(len(shape))])
        return values[channel, codes]
    if grid["kind"] == "fixed":
        return codes.astype(np.float32) * np.float32(2.0) ** grid["exponent"]
    zero = codes - spread(parts["zero_point"], grid, shape).astype(np.int64) if "zero_point" in parts else codes
    values = zero.astype(np.float32) * spread(parts["scale"], grid, shape).astype(np.float32)
    return values + spread(parts["offset"], grid, shape).astype(np.float32) if "offset" in parts else values


def spread(part: np.ndarray, grid: dict[str, Any], shape: list[int]) -> np.ndarray:
    if not part.shape:
        return part
    if "group_size" in grid:
        row = prod(shape[1:])
        return np.repeat(part, grid["group_size"], axis=1)[:, :row].reshape(shape)
    if "axis" in grid:
        return part.reshape([-1 if i == grid["axis"] else 1 for i in range(len(shape))])
    return part


def decode(coder: int, head: bytes, pieces: list[tuple[bytes, int]], count: int, shape: list[int]) -> list[int]:
    if coder in (0, 2):
        low = unzigzag(varint(head, 1)[0])
        opened = [(inflate(data) if coder == 2 else data, c) for data, c in pieces]
        return [low + value for data, c in opened for value in fields(data, c, head[0])]
    if head[0] == 128:
        return [unzigzag(varint(head, 1)[0])] * count
    group, size, split, at = (head[0] & 3) + 1, (head[1] & 31) + 1, head[1] >> 5, 2
    if split == 7:
        split, at = head[2], 3
    low, at = varint(head, at)
    window = (group, size, split, unzigzag(low))
    alphabet, tables = size**group, 2 if head[0] & 16 else 1
    half = alphabet // 2 if head[0] & 8 else 0
    levels = fields(head[at:], tables * (alphabet - half), 6)
    maps = []
    for t in range(tables):
        own = levels[t * (alphabet - half) : (t + 1) * (alphabet - half)]
        maps.append(slots([own[max(i, alphabet - 1 - i) - half] for i in range(alphabet)] if half else own))
    codes: list[int] = []
    for data, c in pieces:
        if coder == 3:
            size, at = varint(data, 0)
            kinds = chunk(data[at : at + size], c, head[0], window, maps)
            codes += magnitudes(data[at + size :], kinds)
        else:
            codes += chunk(data, c, head[0], window, maps)
    if not head[0] & 16:
        return codes
    rows = shape[0]
    return [codes[column * rows + row] for row in range(rows) for column in range(count // rows)]


def magnitudes(data: bytes, kinds: list[int]) -> list[int]:
    """Codes of these classes, with their low bits in `data`."""
    codes, at = list(kinds), 0
    for n in range(2, 33):
        places = [i for i, kind in enumerate(kinds) if abs(kind) == n]
        size = (len(places) * (n - 1) + 7) // 8
        for i, low in zip(places, fields(data[at : at + size], len(places), n - 1), strict=True):
            codes[i] = (2 ** (n - 1) + low) * (1 if kinds[i] > 0 else -1)
        at += size
    assert at == len(data)
    return codes


def slots(levels: list[int]) -> tuple[list[int], list[int], list[int]]:
    """Frequency of each symbol; symbol and rank of each slot."""
    weights = [0 if level == 63 else QUARTERS[level % 4] >> (level // 4) for level in levels]
    total = sum(weights)
    freq = [max(1, (8192 * w + total) // (2 * total)) if w else 0 for w in weights]
    freq[freq.index(max(freq))] += 4096 - sum(freq)
    buckets = 16 if len(levels) <= 16 else 32
    full = 4096 // buckets
    left, used = freq + [0] * (buckets - len(freq)), [0] * buckets
    symbol, rank, is_open = [0] * 4096, [0] * 4096, set(range(buckets))

    def assign(bucket: int, start: int, stop: int, s: int) -> None:
        for i in range(start, stop):
            symbol[bucket * full + i], rank[bucket * full + i] = s, used[s]
            used[s] += 1

    while short := sorted(b for b in is_open if left[b] < full):
        b = short[0]
        donor = min(d for d in is_open if left[d] > full)
        assign(b, 0, left[b], b)
        assign(b, left[b], full, donor)
        left[donor] -= full - left[b]
        is_open.remove(b)
    for b in is_open:
        assign(b, 0, full, b)
    return freq, symbol, rank


def chunk(data: bytes, count: int, flags: int, window: tuple[int, int, int, int], maps: list[Any]) -> list[int]:
    group, size, split, low = window
    state, at, outside = 0, 0, {}
    if flags & 16:
        state, at = data[0], 1
    if flags & 4:
        listed, at = varint(data, at)
        position = -1
        for _ in range(listed):
            gap, at = varint(data, at)
            difference, at = varint(data, at)
            position += gap + 1
            outside[position] = unzigzag(difference)
    raw_size = (count * split + 7) // 8
    raw = fields(data[at : at + raw_size], count, split)
    data = data[at + raw_size :]
    n = -(-count // group)
    lanes = 1 if n < 16384 else 2 if n < 65536 else 16 if n < 262144 else 64
    states = [number(data[4 * i : 4 * i + 4]) for i in range(lanes)]
    words = iter(np.frombuffer(data[4 * lanes :], "<u2").tolist())
    codes: list[int] = []
    for i in range(n):
        freq, symbol, rank = maps[state & 1]
        x = states[i % lanes]
        s = symbol[x % 4096]
        x = freq[s] * (x // 4096) + rank[x % 4096]
        states[i % lanes] = x if x >= 65536 else x * 65536 + next(words)
        if flags & 16:
            k = low + s + outside.get(i, 0)
            codes.append(2 * k if not state & 1 else 2 * k - 1 if flags & 32 else 2 * k - (k > 0) + (k < 0))
            state = (ODD if k % 2 else EVEN)[state]
            continue
        for digit in [s // size**g % size for g in range(group - 1, -1, -1)][: count - len(codes)]:
            part = low + digit + outside.get(len(codes), 0)
            codes.append(part * 2**split + (raw[len(codes)] if split else 0))
    assert all(x == 65536 for x in states) and next(words, None) is None
    return codes
