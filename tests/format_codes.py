"""The codes of a second reader, written from docs/format.md alone; imports nothing of tersenet. Slow and strict."""

from typing import Any

import numpy as np
import zstandard

QUARTERS = (4294967296, 3611622603, 3037000500, 2553802834)
EVEN, ODD = (0, 3, 5, 6, 1, 2, 4, 7), (1, 2, 4, 7, 0, 3, 5, 6)
LOWEST = {"i8": -(2**7), "i16": -(2**15), "i32": -(2**31)}


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def inflate(data: bytes, size: int | None = None) -> bytes:
    """One zstd frame that states its size (`size`, if given), and nothing else."""
    assert data[:4] == b"\x28\xb5\x2f\xfd"
    stated = zstandard.frame_content_size(data)
    assert stated >= 0 and size in (None, stated)
    opened = zstandard.ZstdDecompressor().decompressobj()
    content = opened.decompress(data)
    assert opened.eof and not opened.unused_data and len(content) == stated
    return content


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        assert shift < 63
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at


def unzigzag(value: int) -> int:
    return value // 2 if value % 2 == 0 else -(value + 1) // 2


def fields(data: bytes, count: int, width: int) -> list[int]:
    whole = number(data)
    return [whole >> (i * width) & ((1 << width) - 1) for i in range(count)]


def decode(coder: int, head: bytes, chunks: list[bytes], per_chunk: int, shape: list[int], kind: str) -> list[int]:
    """Codes in C order, each of which fits the code type."""
    count = int(np.prod(shape, dtype=object))
    if coder == 1 and head[0] == 128:
        value, end = varint(head, 1)
        assert end == len(head) and not chunks
        return fitting([unzigzag(value)] * max(1, count), kind)[:count]
    assert coder in (0, 1, 2, 3) and len(chunks) == -(-count // per_chunk)
    pieces = [(chunk, min(per_chunk, count - per_chunk * i)) for i, chunk in enumerate(chunks)]
    return fitting(packed(coder, head, pieces) if coder in (0, 2) else modelled(coder, head, pieces, shape), kind)


def fitting(codes: list[int], kind: str) -> list[int]:
    assert all(LOWEST[kind] <= code < -LOWEST[kind] for code in codes)
    return codes


def packed(coder: int, head: bytes, pieces: list[tuple[bytes, int]]) -> list[int]:
    low, end = varint(head, 1)
    width, codes = head[0], []
    assert end == len(head) and width <= 32
    for data, c in pieces:
        size = -(-c * width // 8)
        opened = inflate(data, size) if coder == 2 else data
        assert len(opened) == size
        codes += [unzigzag(low) + value for value in fields(opened, c, width)]
    return codes


def modelled(coder: int, head: bytes, pieces: list[tuple[bytes, int]], shape: list[int]) -> list[int]:
    group, size, split, at = (head[0] & 3) + 1, (head[1] & 31) + 1, head[1] >> 5, 2
    trellis, mirrored = bool(head[0] & 16), bool(head[0] & 8)
    if split == 7:
        split, at = head[2], 3
    assert not head[0] & 192 and group <= 3 and split <= 31 and (trellis or not head[0] & 32)
    assert not (group > 1 and split) and not (trellis and (group > 1 or split or coder == 3))
    low, at = varint(head, at)
    window = (group, size, split, unzigzag(low))
    alphabet, tables = size**group, 2 if trellis else 1
    half = alphabet // 2 if mirrored else 0
    assert alphabet <= 32 and len(head) - at == -(-6 * tables * (alphabet - half) // 8)
    levels = fields(head[at:], tables * (alphabet - half), 6)
    maps = []
    for t in range(tables):
        own = levels[t * (alphabet - half) : (t + 1) * (alphabet - half)]
        maps.append(slots([own[max(i, alphabet - 1 - i) - half] for i in range(alphabet)] if half else own))
    assert not trellis or (shape and pieces)
    codes: list[int] = []
    for data, c in pieces:
        if coder == 3:
            size, at = varint(data, 0)
            assert at + size <= len(data)
            codes += magnitudes(data[at + size :], chunk(data[at : at + size], c, head[0], window, maps))
        else:
            codes += chunk(data, c, head[0], window, maps)
    if not trellis:
        return codes
    rows = shape[0]
    return [codes[column * rows + row] for row in range(rows) for column in range(len(codes) // rows)]


def magnitudes(data: bytes, kinds: list[int]) -> list[int]:
    """Codes of these classes, with their low bits in `data`."""
    codes, at = list(kinds), 0
    assert all(-32 <= kind <= 32 for kind in kinds)
    for n in range(2, 33):
        places = [i for i, kind in enumerate(kinds) if abs(kind) == n]
        size = (len(places) * (n - 1) + 7) // 8
        assert at + size <= len(data)
        for i, low in zip(places, fields(data[at : at + size], len(places), n - 1), strict=True):
            codes[i] = (2 ** (n - 1) + low) * (1 if kinds[i] > 0 else -1)
        at += size
    assert at == len(data)
    return codes


def slots(levels: list[int]) -> tuple[list[int], list[int], list[int]]:
    """Frequency of each symbol; symbol and rank of each slot."""
    assert all(level == 63 or level <= 52 for level in levels) and min(levels) < 63
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
        assert state <= 7
    if flags & 4:
        listed, at = varint(data, at)
        position = -1
        assert listed <= count
        for _ in range(listed):
            gap, at = varint(data, at)
            difference, at = varint(data, at)
            position += gap + 1
            outside[position] = unzigzag(difference)
            assert position < count and difference
    raw_size = (count * split + 7) // 8
    raw = fields(data[at : at + raw_size], count, split)
    assert at + raw_size <= len(data)
    data = data[at + raw_size :]
    n = -(-count // group)
    lanes = 1 if n < 16384 else 2 if n < 65536 else 16 if n < 262144 else 64
    assert len(data) >= 4 * lanes and len(data) % 2 == 0
    states = [number(data[4 * i : 4 * i + 4]) for i in range(lanes)]
    assert min(states) >= 65536
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
