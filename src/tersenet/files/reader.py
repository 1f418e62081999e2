"""Reading the container: nothing is believed before it is checked, nothing is allocated before it is plausible."""

import json
from pathlib import Path
from typing import Any, BinaryIO

import xxhash
import zstandard

from ..codec import CodecError, Stream
from ..errors import ChecksumError, FormatError, SizeLimitError, VersionError
from .layout import (
    ACTIVATIONS,
    ALIGN,
    END,
    FREE_OUTPUT,
    HASH,
    HEADER,
    MAGIC,
    MAX_ACTIVATIONS,
    MAX_GROWTH,
    MAX_INDEX,
    PREFIX,
    TRAILER,
    VERSION,
    Record,
)
from .records import Index, parse_activations, parse_index
from .writer import header, prefix


class Reader:
    """An open container; sections are read and checked when something in them is asked for.

    **Raises** `FormatError` (or a more precise child) if the file is damaged, foreign or newer; `SizeLimitError` if its
    tensors decode to more than max(1 GiB, 1000 x the file) bytes and `max_output` does not allow it.
    """

    def __init__(self, path: str | Path, max_output: int | None = None) -> None:
        self.path = Path(path)
        try:
            with self.path.open("rb") as stream:
                self.size = stream.seek(0, 2)
                self.index, self.index_size = self._open(stream)
        except OSError as error:
            raise FormatError(f"{self.path} cannot be read: {error.strerror or error}") from error
        self._place()
        self._limit(max_output)
        self._held = (-1, b"")

    def _open(self, stream: BinaryIO) -> tuple[Index, int]:
        if self.size < HEADER + PREFIX + TRAILER:
            raise FormatError(self._says(f"has only {self.size} bytes: it is empty, truncated or no .terse file"))
        stream.seek(0)
        head = stream.read(HEADER + PREFIX)
        self._check_head(head)
        stream.seek(self.size - TRAILER)
        trailer = stream.read(TRAILER)
        offset, length, digest = (int.from_bytes(trailer[i : i + 8], "little") for i in (0, 8, 16))
        if trailer[24:] != END or offset + length + TRAILER != self.size or offset < HEADER + PREFIX:
            raise FormatError(self._says(f"does not end in a trailer at byte {self.size - TRAILER}: it is truncated"))
        stream.seek(offset)
        packed = stream.read(length)
        if xxhash.xxh3_64_intdigest(head + packed) != digest:
            raise ChecksumError(self._says("has a damaged header or index: copy or download it again"))
        return self._index(packed), length

    def _check_head(self, head: bytes) -> None:
        magic = head[HEADER : HEADER + len(MAGIC)]
        if magic != MAGIC:
            if int.from_bytes(head[:8], "little") < self.size and head[8:9] == b"{":
                raise FormatError(
                    self._says("is a safetensors checkpoint, not a .terse file: run tersenet compress first")
                )
            raise FormatError(self._says(f"is no .terse file: {MAGIC!r} expected at byte {HEADER}, got {magic!r}"))
        version = int.from_bytes(head[HEADER + 8 : HEADER + 12], "little")
        if version > VERSION:
            raise VersionError(
                self._says(f"has format version {version}, this tersenet reads up to {VERSION}: upgrade it")
            )
        if head != header(self.size - HEADER) + prefix():
            raise FormatError(self._says("has a header that tersenet did not write: it is damaged or forged"))

    def _index(self, packed: bytes) -> Index:
        size = zstandard.frame_content_size(packed) if packed[:4] == b"\x28\xb5\x2f\xfd" else -1
        if not 0 <= size <= min(MAX_INDEX, (1 << 16) + MAX_GROWTH * len(packed)):
            raise FormatError(self._says(f"has an index that claims {size} bytes"))
        try:
            raw = zstandard.ZstdDecompressor().decompress(packed, max_output_size=size, allow_extra_data=False)
            return parse_index(json.loads(raw, parse_constant=_no_constant))
        except (zstandard.ZstdError, ValueError, RecursionError) as error:
            raise FormatError(self._says(f"has an index that cannot be read: {error}")) from error

    def _place(self) -> None:
        """Find every section in the file and every record in its section; no holes, no overlaps."""
        self._sections: list[tuple[int, int]] = []
        position = HEADER + PREFIX
        for section in self.index.sections:
            self._sections.append((position, section.size))
            position += section.size + HASH
            position += -position % ALIGN
        if position != self.size - TRAILER - self.index_size:
            raise FormatError(self._says(f"has sections that end at byte {position}, but its index is elsewhere"))
        data = [(i, section.size) for i, section in enumerate(self.index.sections) if section.kind == "data"]
        self._where: dict[str, tuple[int, int]] = {}
        turn, used = 0, 0
        for name, size in self.index.contents:
            while turn < len(data) and used == data[turn][1]:
                turn, used = turn + 1, 0
            at = data[turn][0] if turn < len(data) else -1
            if size and (at < 0 or used + size > data[turn][1]):
                raise FormatError(self._says(f"has no room for {name!r} in its sections"))
            self._where[name] = (at, used)
            used += size
        if turn < len(data) and (turn, used) != (len(data) - 1, data[turn][1]):
            raise FormatError(self._says("has data in its sections that belongs to nothing"))

    def _limit(self, max_output: int | None) -> None:
        output = sum(record.output for record in self.index.records.values()) + sum(
            s[1] for s in self.index.files.values()
        )
        allowed = max(FREE_OUTPUT, MAX_GROWTH * self.size) if max_output is None else max_output
        if output > allowed:
            raise SizeLimitError(
                self._says(f"claims {output:,} bytes of tensors, more than the {allowed:,} allowed for its size; "
                           f"if you trust it, give max_output={output}")
            )  # fmt: skip

    def stream(self, record: Record) -> tuple[list[bytes], Stream]:
        """The grid's fields (in the order of the record) and the codes of a quantised tensor, still encoded."""
        data = self._bytes(record.name, record.size)
        lengths = [part.size for part in record.fields.values()] + [record.params, *record.chunks]
        parts, at = [], 0
        for length in lengths:
            parts.append(data[at : at + length])
            at += length
        fields, params, chunks = parts[: len(record.fields)], parts[len(record.fields)], parts[len(record.fields) + 1 :]
        return fields, Stream(record.coder, params, tuple(chunks), record.chunk_symbols, record.count)

    def kept(self, record: Record) -> bytes:
        """The stored bytes of a kept tensor (one element for a constant one), decompressed."""
        data = self._bytes(record.name, record.stored_size)
        return self.inflate(data, record.kept_size, record.name) if record.storage == 1 else data

    def file(self, name: str) -> bytes:
        """An attachment."""
        packed, size = self.index.files[name]
        return self.inflate(self._bytes("\0" + name, packed), size, name)

    def activations(self) -> dict[str, tuple[float, list[int], bool]]:
        """What layers round their inputs to: see `parse_activations`."""
        found: dict[str, tuple[float, list[int], bool]] = {}
        for number, section in enumerate(self.index.sections):
            if section.kind == ACTIVATIONS:
                packed = self._section(number)
                size = zstandard.frame_content_size(packed) if packed[:4] == b"\x28\xb5\x2f\xfd" else -1
                if not 0 <= size <= MAX_ACTIVATIONS:
                    raise FormatError(self._says(f"has activations that claim {size} bytes"))
                try:
                    found |= parse_activations(json.loads(self.inflate(packed, size, ACTIVATIONS)))
                except (ValueError, RecursionError) as error:
                    raise FormatError(self._says(f"has activations that cannot be read: {error}")) from error
        return found

    def inflate(self, data: bytes, size: int, name: str) -> bytes:
        """One zstd frame of exactly `size` bytes."""
        try:
            if zstandard.frame_content_size(data) != size:
                raise FormatError(self._says(f"stores {name!r} with another size than its index says"))
            return zstandard.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise FormatError(self._says(f"has a damaged {name!r}: {error}")) from error

    def broken(self, name: str, error: CodecError) -> FormatError:
        """The error for a tensor whose codes do not decode."""
        section, at = self._where[name]
        return FormatError(
            self._says(f"has codes of {name!r} at byte {self._sections[section][0] + at} that do not decode: {error}")
        )

    def need(self, record: Record, condition: bool) -> None:
        """**Raises** `FormatError` unless the codes of a codebook tensor are levels of it."""
        if not condition:
            raise FormatError(self._says(f"has codes of {record.name!r} outside its codebook"))

    def check_all(self) -> None:
        """Read and check every section, unknown ones too."""
        for i in range(len(self._sections)):
            self._section(i)

    def _bytes(self, name: str, size: int) -> bytes:
        section, at = self._where[name]
        return self._section(section)[at : at + size] if size else b""

    def _section(self, number: int) -> bytes:
        if self._held[0] != number:
            position, size = self._sections[number]
            with self.path.open("rb") as stream:
                stream.seek(position)
                data = stream.read(size)
                tail = stream.read(HASH + -(position + size + HASH) % ALIGN)
            if xxhash.xxh3_64_intdigest(data).to_bytes(HASH, "little") != tail[:HASH] or any(tail[HASH:]):
                raise ChecksumError(
                    self._says(f"is damaged between bytes {position} and {position + size + len(tail)}: copy it again")
                )
            self._held = (number, data)
        return self._held[1]

    def _says(self, what: str) -> str:
        return f"{self.path} {what}"


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not allowed in the index")
