"""A file as its index and its sections, every hash checked."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from .bits import inflate, number
from .checks import need, parse
from .index import activations, check_index, results, sections_of

HEAD = '{"__metadata__":{"format":"terse","version":"1"},"terse":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}'


@dataclass(frozen=True)
class Container:
    """A whole file: its bytes, its index, what that takes, the contents of its data sections, the sizes of all sections
    by kind, activations, results (None without room for them), and its content hash."""

    size: int
    index: dict[str, Any]
    index_size: int
    contents: list[bytes]
    sections: list[tuple[int, str]]
    inputs: dict[str, tuple[str, float, list[int]]]
    results: list[Any] | None
    content: str


def opened(path: str | Path) -> Container:
    """The file at `path`."""
    data = Path(path).read_bytes()
    size = len(data) - 192
    need(number(data[:8]) == 184 and data[8:192] == (HEAD % (size, size)).encode().ljust(184), "the header")
    need(data[192:256] == b"TERSENET\x01".ljust(64, b"\0"), "the magic number or the version")
    offset, length, digest = (number(data[-32 + i : -24 + i]) for i in (0, 8, 16))
    need(data[-8:] == b"TERSEEND" and offset + length + 32 == len(data) and offset >= 256, "the trailer")
    need(xxhash.xxh3_64_intdigest(data[:256] + data[offset:-32]) == digest, "the hash of the index")
    index = parse(inflate(data[offset:-32]))
    check_index(index)
    contents, at = [], 256
    inputs: dict[str, tuple[str, float, list[int]]] = {}
    found: list[Any] | None = None
    blank = bytearray(data)
    sections = sections_of(index)
    for place, (length, kind) in enumerate(sections):
        part = data[at : at + length]
        need(
            xxhash.xxh3_64_intdigest(part) == number(data[at + length : at + length + 8]),
            f"the hash of section {place}",
        )
        if kind == "activations":
            inputs = activations(parse(inflate(part)))
        elif kind == "results":
            found = results(parse(part))
            blank[at : at + length + 8] = bytes(length + 8)
        elif kind == "data":
            contents.append(part)
        at += length + 8
        need(not any(data[at : at + -at % 64]), "padding that is not zero")
        at += -at % 64
    need(at == offset, "sections that end where the index does not begin")
    content = hashlib.sha256(blank).hexdigest()
    return Container(len(data), index, len(data) - 32 - offset, contents, sections, inputs, found, content)


class Taker:
    """Takes the contents of data sections, one after the other; nothing lies across the end of a section."""

    def __init__(self, contents: list[bytes]) -> None:
        self._contents, self._section, self._at = contents, 0, 0

    def take(self, size: int) -> bytes:
        """The next bytes."""
        if not size:
            return b""
        while self._section < len(self._contents) and self._at == len(self._contents[self._section]):
            self._section, self._at = self._section + 1, 0
        need(self._section < len(self._contents), "no section for a tensor")
        part = self._contents[self._section][self._at : self._at + size]
        need(len(part) == size, "a tensor across the end of a section")
        self._at += size
        return part

    def check_end(self) -> None:
        """Nothing is left over."""
        last = len(self._contents) - 1
        whole = self._section == last and self._at == len(self._contents[last]) if self._contents else True
        need(whole, "data that belongs to nothing")
