"""Changes that keep a file readable up to the place that is changed: hashes, lengths and checksums are made anew."""

import contextlib
import io
import itertools
import json
import random
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard

sys.path.insert(0, str(Path(__file__).parents[1] / "hostile"))
from forge import assemble, take_apart

Change = Callable[[bytes, random.Random], bytes]
NUMBERS = (
    *(
        0,
        1,
        -1,
        2,
        3,
        7,
        8,
        63,
        64,
        127,
        128,
        255,
        256,
        4095,
        4096,
        2**15,
        2**16,
        2**20,
        2**24,
        2**31 - 1,
        2**31,
        2**32,
    ),
    *(2**32, 2**40, 2**48, 2**48 + 1, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, 10**30, -(2**31), -(2**63)),
    *(0.5, 1e-45, 1e39, 1e308, -0.0),
)
TEXTS = (
    *("", "/", "..", "../x", "/tmp/x", "a/b", "C:\\x", "\0", "\x1b[2J", "\ud800", "\u00e9", "x" * 300, "model.py"),
    *("weight", "raw", "kept", "uniform", "codebook", "fixed", "f32", "f16", "i8", "i32", "u8", "bool", "c64", "axis"),
    *("group_size", "exponent", "scale", "values", "offset", "zero_point", "data", "activations", "integers", "points"),
    *("shards", "metadata", "a.safetensors", "fold", "pair"),
)


def vary(value: Any, rng: random.Random) -> Any:
    """JSON with one or a few of its parts changed, each as likely as the others."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        value = _at(value, rng.choice(_paths(value)), rng)
    return value


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the parts of `value` are, itself included; of what is long or deep not all."""
    found = [path]
    if len(path) < 8:
        steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, part in itertools.islice(steps, 64):
            found += _paths(part, (*path, key))
    return found


def _at(value: Any, path: tuple[Any, ...], rng: random.Random) -> Any:
    if not path:
        return _other(value, rng)
    key, *rest = path
    how = rng.random() if not rest else 1.0
    if isinstance(value, dict):
        if how < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if how < 0.2:
            return {**value, rng.choice(TEXTS): value[key]}
        return {k: _at(v, tuple(rest), rng) if k == key else v for k, v in value.items()}
    if how < 0.1:
        return value[:key] + value[key + 1 :]
    if how < 0.2:
        return value[:key] + [value[key]] * rng.choice((2, 3, 50)) + value[key + 1 :]
    return [_at(v, tuple(rest), rng) if i == key else v for i, v in enumerate(value)]


def _other(value: Any, rng: random.Random) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.6:
        near = (value + 1, value - 1, value * 2, -value, value // 2, value ^ 1 << rng.randrange(8))
        return rng.choice((*near, *NUMBERS))
    if isinstance(value, str) and rng.random() < 0.6:
        return rng.choice((*TEXTS, value + "x", value[:-1]))
    return rng.choice(
        (None, True, False, [], {}, [[]], "x", 0, rng.choice(NUMBERS), [value], {"": value}, [0] * 64, _deep(rng))
    )


def _deep(rng: random.Random) -> Any:
    value: Any = 0
    for _ in range(rng.choice((3, 100, 900))):
        value = [value]
    return value


def dump(value: Any) -> bytes:
    """JSON as bytes, lone surrogates escaped."""
    return json.dumps(value).encode()


def flip(data: bytes, rng: random.Random) -> bytes:
    """As many bytes, some of them others."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.choice((0, 255, 128, rng.randrange(256)))
    return bytes(changed)


def havoc(data: bytes, rng: random.Random) -> bytes:
    """Bytes put in, taken out, copied from elsewhere or made others."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, size = rng.randrange(len(changed) + 1), rng.choice((1, 1, 2, 4, 8, 64))
        what = rng.randrange(4)
        if what == 0:
            changed[at:at] = rng.randbytes(size)
        elif what == 1:
            del changed[at : at + size]
        elif what == 2:
            start = rng.randrange(len(changed) + 1)
            changed[at : at + size] = changed[start : start + size]
        else:
            changed = bytearray(flip(bytes(changed), rng))
    return bytes(changed)


def file(data: bytes, rng: random.Random) -> bytes:
    """A `.terse` file with another index, another section, or the text inside a section changed; all hashes right."""
    index, sections = take_apart(data)
    what = rng.randrange(10)
    if what < 4 or not sections:
        return assemble(dump(vary(index, rng)), sections)
    at = rng.randrange(len(sections))
    if what < 8:
        sections[at] = flip(sections[at], rng)
        return assemble(dump(index), sections)
    if what == 8:
        changed = havoc(sections[at], rng)
    else:  # a frame is all of the section, or its end
        start = max(0, sections[at].rfind(b"\x28\xb5\x2f\xfd"))
        changed = sections[at][:start] + _frame(sections[at][start:], rng)
    _resize(index, at, len(changed) - len(sections[at]))
    sections[at] = changed
    return assemble(dump(index), sections)


def _frame(packed: bytes, rng: random.Random) -> bytes:
    try:
        raw = zstandard.ZstdDecompressor().decompress(packed)
    except (zstandard.ZstdError, MemoryError):
        return havoc(packed, rng)
    try:
        raw = dump(vary(json.loads(raw), rng))
    except (ValueError, RecursionError):
        raw = havoc(raw, rng)
    return zstandard.ZstdCompressor(level=1).compress(raw)


def _resize(index: Any, at: int, by: int) -> None:
    """Say in the index that section `at`, and the last tensor of the file, are `by` bytes longer."""
    section = index["sections"][at]
    if isinstance(section, list):
        section[0] += by
        return
    index["sections"][at] = section + by
    last = index["tensors"][-1] if index.get("tensors") else None
    if last and len(last) == 7:
        last[6] += by
    elif last and last[7]:
        last[7][-1] += by


def stream(data: bytes, rng: random.Random) -> bytes:
    """An encoded array with another head, other parameters, or other bytes; lengths right."""
    line, _, rest = data.partition(b"\n")
    numbers = json.loads(line)
    what = rng.randrange(8)
    if what == 0:
        return dump(vary(numbers, rng)) + b"\n" + rest
    size = numbers[5]
    if what < 4:
        params = flip(rest[:size], rng) if what > 1 else havoc(rest[:size], rng)
        return dump([*numbers[:5], len(params), *numbers[6:]]) + b"\n" + params + rest[size:]
    body = flip(rest[size:], rng)
    if what == 7 and len(numbers) == 7:
        body = havoc(rest[size:], rng)
        numbers[6] = len(body)
    return dump(numbers) + b"\n" + rest[:size] + body


def safetensors(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header is changed and has the right length."""
    (size,) = struct.unpack("<Q", data[:8])
    head = dump(vary(json.loads(data[8 : 8 + size]), rng))
    return struct.pack("<Q", len(head)) + head + data[8 + size :]


def archive(data: bytes, rng: random.Random) -> bytes:
    """A torch archive with one entry changed, left out or renamed, stored or deflated; checksums right."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        names = source.namelist()
        chosen, what = rng.choice(names), rng.randrange(10)
        if rng.random() < 0.6:
            chosen = next((name for name in names if name.endswith("data.pkl")), chosen)
        how = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        with zipfile.ZipFile(target, "w", how) as changed:
            for name in names:
                content = source.read(name)
                if name == chosen and what == 0:
                    continue
                if name == chosen and what == 1:
                    name = name + rng.choice(TEXTS).replace("\0", "").replace("\ud800", "")
                elif name == chosen:
                    content = flip(content, rng) if what < 6 else havoc(content, rng)
                changed.writestr(name, content)
    return target.getvalue()


def checkpoint(data: bytes, rng: random.Random) -> bytes:
    """A checkpoint after the byte of its kind."""
    kind, rest = data[:1], data[1:]
    if kind == b"\0":
        return kind + safetensors(rest, rng)
    if kind == b"\1":
        return kind + archive(rest, rng)
    return kind + dump(vary(json.loads(rest), rng))


def structured(change: Change) -> Callable[[bytes, int, int], bytes]:
    """A custom mutator for libFuzzer: `change` nine times of ten where the bytes allow it, else bytes like any."""

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        with contextlib.suppress(Exception):  # what was changed before may have no structure any more
            changed = change(data, rng) if rng.random() < 0.9 else b""
            if 0 < len(changed) <= most:
                return changed
        return havoc(data, rng)[:most]

    return mutator
