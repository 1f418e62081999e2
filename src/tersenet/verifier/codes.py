"""The codes of coded arrays, by all coders."""

from itertools import groupby
from math import prod
from typing import Any, NamedTuple

import numpy as np

from . import mixed
from .bits import Ints, fields, inflate, unzigzag, varint
from .checks import need
from .rans import Table, begun, symbols, table

EVEN, ODD = (0, 3, 5, 6, 1, 2, 4, 7), (1, 2, 4, 7, 0, 3, 5, 6)
LOWEST = {"i8": -(2**7), "i16": -(2**15), "i32": -(2**31)}
BEYOND = 1 << 33  # no code is


class Model(NamedTuple):
    """What parameters say: flags, group, size of the window, split, its lowest code, tables."""

    flags: int
    group: int
    size: int
    split: int
    low: int
    tables: list[Table]


def decode(coder: int, head: bytes, chunks: list[bytes], per_chunk: int, shape: list[int], kind: str) -> Ints:
    """Codes in C order, each of which fits the code type."""
    count = prod(shape)
    if coder == 1 and head[0] == 128:
        value, end = varint(head, 1)
        need(end == len(head) and not chunks, "a constant with more than its value")
        _check_fits(unzigzag(value), unzigzag(value), kind)
        return np.full(count, unzigzag(value), np.int64)
    need(coder in (0, 1, 2, 3, 4) and len(chunks) == -(-count // per_chunk), "a coder, or the number of its chunks")
    pieces = [(chunk, min(per_chunk, count - per_chunk * i)) for i, chunk in enumerate(chunks)]
    if coder == 4:
        found = _joined(mixed.decode(head, pieces))
    else:
        found = _packed(coder, head, pieces) if coder in (0, 2) else _modelled(coder, head, pieces, shape)
    if len(found):
        _check_fits(int(found.min()), int(found.max()), kind)
    return found


def is_trellis(coder: int, head: bytes) -> bool:
    """Whether codes are a path of the trellis."""
    return coder == 1 and head[0] != 128 and bool(head[0] & 16)


def _check_fits(least: int, most: int, kind: str) -> None:
    need(LOWEST[kind] <= least and most < -LOWEST[kind], f"a code that does not fit {kind}")


def _joined(parts: list[Ints]) -> Ints:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _packed(coder: int, head: bytes, pieces: list[tuple[bytes, int]]) -> Ints:
    low, end = varint(head, 1)
    width, codes = head[0], []
    need(end == len(head) and width <= 32, "parameters of packed codes")
    for data, c in pieces:
        size = -(-c * width // 8)
        opened = inflate(data, size) if coder == 2 else data
        need(len(opened) == size, "packed codes of another size")
        codes.append(_near(unzigzag(low)) + fields(opened, c, width))
    return _joined(codes)


def _near(low: int) -> int:
    """`low`, or something beyond every code as it is."""
    return max(-BEYOND, min(BEYOND, low))


def _model(coder: int, head: bytes) -> Model:
    group, size, split, at = (head[0] & 3) + 1, (head[1] & 31) + 1, head[1] >> 5, 2
    trellis = bool(head[0] & 16)
    if split == 7:
        split, at = head[2], 3
    need(not head[0] & 192 and group <= 3 and split <= 31 and (trellis or not head[0] & 32), "flags of parameters")
    need(not (group > 1 and split) and not (trellis and (group > 1 or split or coder == 3)), "parameters together")
    low, at = varint(head, at)
    alphabet, count = size**group, 2 if trellis else 1
    half = alphabet // 2 if head[0] & 8 else 0
    need(alphabet <= 32 and len(head) - at == -(-6 * count * (alphabet - half) // 8), "tables of another size")
    levels = fields(head[at:], count * (alphabet - half), 6).tolist()
    tables = []
    for t in range(count):
        own = levels[t * (alphabet - half) : (t + 1) * (alphabet - half)]
        tables.append(table([own[max(i, alphabet - 1 - i) - half] for i in range(alphabet)] if half else own))
    return Model(head[0], group, size, split, unzigzag(low), tables)


def _modelled(coder: int, head: bytes, pieces: list[tuple[bytes, int]], shape: list[int]) -> Ints:
    model = _model(coder, head)
    if model.flags & 16:
        need(shape and pieces, "a trellis of nothing")
        codes = _joined([_path(data, c, model) for data, c in pieces])
        return codes.reshape(-1, shape[0]).T.reshape(-1)
    if coder == 1:
        return _joined(_windows(pieces, model))
    parts, rest = [], []
    for data, c in pieces:
        size, at = varint(data, 0)
        need(at + size <= len(data), "classes that are too short")
        parts.append((data[at : at + size], c))
        rest.append(data[at + size :])
    classes = _windows(parts, model)
    return _joined([_magnitudes(*each) for each in zip(rest, classes, strict=True)])


def _magnitudes(data: bytes, kinds: Ints) -> Ints:
    """Codes of these classes, with their low bits in `data`."""
    codes, at = kinds.copy(), 0
    need(not kinds.size or abs(kinds).max() <= 32, "a class of more than 32 bits")
    for n in range(2, 33):
        places = np.flatnonzero(abs(kinds) == n)
        size = (len(places) * (n - 1) + 7) // 8
        need(at + size <= len(data), "low bits that are too short")
        codes[places] = (2 ** (n - 1) + fields(data[at : at + size], len(places), n - 1)) * np.sign(kinds[places])
        at += size
    need(at == len(data), "something after low bits")
    return codes


def _exceptions(data: bytes, at: int, count: int, model: Model) -> tuple[dict[int, int], int]:
    found: dict[int, int] = {}
    if model.flags & 4:
        listed, at = varint(data, at)
        position = -1
        need(listed <= count, "more exceptions than codes")
        for _ in range(listed):
            gap, at = varint(data, at)
            difference, at = varint(data, at)
            position += gap + 1
            found[position] = unzigzag(difference)
            need(position < count and difference, "an exception that is none")
    return found, at


def _windows(pieces: list[tuple[bytes, int]], model: Model) -> list[Ints]:
    """The codes of chunks; those that follow each other and have one length are decoded together."""
    found: list[Ints] = []
    for count, same in groupby(pieces, key=lambda piece: piece[1]):
        opened: list[tuple[dict[int, int], Ints]] = []
        bodies = []
        for data, _ in same:
            outside, at = _exceptions(data, 0, count, model)
            raw = (count * model.split + 7) // 8
            need(at + raw <= len(data), "raw bits that are too short")
            opened.append((outside, fields(data[at : at + raw], count, model.split)))
            bodies.append(data[at + raw :])
        drawn = symbols(bodies, -(-count // model.group), model.tables[0])
        found += [_codes(s, count, *each, model) for s, each in zip(drawn, opened, strict=True)]
    return found


def _codes(drawn: Ints, count: int, outside: dict[int, int], raw: Ints, model: Model) -> Ints:
    digits = np.stack([drawn // model.size**g % model.size for g in range(model.group - 1, -1, -1)], axis=1)
    digit = digits.reshape(-1)[:count]
    parts = np.clip(_near(model.low) + digit, -(1 << 31) - 1, 1 << 31)
    codes: Ints = (parts << model.split) + raw
    for place, difference in outside.items():
        part = model.low + int(digit[place]) + difference
        codes[place] = _near(part * 2**model.split + int(raw[place]))
    return codes


def _path(data: bytes, count: int, model: Model) -> Ints:
    """The codes of a chunk of a trellis."""
    state = data[0]
    need(state <= 7, "a start state")
    outside, at = _exceptions(data, 1, count, model)
    states, words = begun(data[at:], count)
    x, left = states.tolist(), iter(words.tolist())
    tables: list[list[Any]] = [[part.tolist() for part in each] for each in model.tables]
    codes = []
    for i in range(count):
        frequency, symbol, rank = tables[state & 1]
        lane = i % len(x)
        now = x[lane]
        s = symbol[now & 4095]
        now = frequency[s] * (now >> 12) + rank[now & 4095]
        x[lane] = now if now >= 65536 else now << 16 | next(left)
        k = model.low + s + outside.get(i, 0)
        odd = 2 * k - 1 if model.flags & 32 else 2 * k - (k > 0) + (k < 0)
        codes.append(_near(odd if state & 1 else 2 * k))
        state = (ODD if k % 2 else EVEN)[state]
    need(all(each == 65536 for each in x) and next(left, None) is None, "a chunk that does not end as it must")
    return np.array(codes, np.int64)
