"""Forged `.terse` files: any index and any sections, with every hash right, as an attacker would write them.

Imports nothing of tersenet, so that a fuzzer can use it: `take_apart`, edit, `assemble`.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import xxhash
import zstandard

ALIGN, HEADER, PREFIX, TRAILER = 64, 192, 64, 32


def take_apart(data: bytes) -> tuple[Any, list[bytes]]:
    """The index of a valid file and the bytes of its sections (hashes and padding left out)."""
    offset, length = (int.from_bytes(data[at : at + 8], "little") for at in (len(data) - 32, len(data) - 24))
    index = json.loads(zstandard.ZstdDecompressor().decompress(data[offset : offset + length]))
    sections, at = [], HEADER + PREFIX
    for section in index["sections"]:
        size = section[0] if isinstance(section, list) else section
        sections.append(data[at : at + size])
        at += size + 8
        at += -at % ALIGN
    return index, sections


def assemble(index: Any, sections: Sequence[bytes] = (), *, version: int = 1, frame: bytes | None = None) -> bytes:
    """A file with this index (JSON, or bytes as they are) and these sections.

    `frame` is the index as stored, in place of the zstd frame that is made of it.
    """
    raw = index if isinstance(index, bytes) else json.dumps(index).encode()
    packed = (
        frame if frame is not None else zstandard.ZstdCompressor(level=19 if len(raw) < 1 << 16 else 3).compress(raw)
    )
    body = bytearray()
    for section in sections:
        body += section + xxhash.xxh3_64_intdigest(section).to_bytes(8, "little")
        body += bytes(-len(body) % ALIGN)
    offset = HEADER + PREFIX + len(body)
    size = offset + len(packed) + TRAILER - HEADER
    tensor = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    text = json.dumps({"__metadata__": {"format": "terse", "version": "1"}, "terse": tensor}, separators=(",", ":"))
    head = (HEADER - 8).to_bytes(8, "little") + text.encode().ljust(HEADER - 8)
    head += (b"TERSENET" + version.to_bytes(4, "little")).ljust(PREFIX, b"\0")
    digest = xxhash.xxh3_64_intdigest(head + packed)
    numbers = b"".join(number.to_bytes(8, "little") for number in (offset, len(packed), digest))
    return head + bytes(body) + packed + numbers + b"TERSEEND"


def forge(
    data: bytes, edit: Callable[[Any], Any], sections: Callable[[list[bytes]], Any] | None = None, *, version: int = 1
) -> bytes:
    """The valid file `data` with its index changed by `edit` and its sections by `sections`.

    Both get what is there and change it in place, or return something else to take instead (bytes for the raw index).
    """
    index, parts = take_apart(data)
    changed = edit(index)
    other = sections(parts) if sections else None
    return assemble(index if changed is None else changed, parts if other is None else other, version=version)
