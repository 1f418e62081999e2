"""Reading the container: nothing is believed before it is checked, nothing is allocated before it is plausible."""

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, TypeVar

import xxhash

from ..codec import CodecError, inflate, stated_size
from ..errors import ChecksumError, FormatError, VersionError
from .grids import GRIDS, Arrays, check_codes, check_fields, ends_of
from .layout import (
    ACTIVATIONS,
    ALIGN,
    END,
    HASH,
    HEADER,
    MAGIC,
    PREFIX,
    RESULTS,
    TRAILER,
    VERSION,
    Index,
    parse_activations,
    parse_index,
)
from .limits import Limit
from .names import container_of
from .records import ZSTD_BYTES, Array, Encoded, Record
from .strict import check_bools, list_of, parse_json
from .writer import header, prefix

HELD = 1 << 24  # bytes of sections that are kept in memory
BATCH_NORMS = {"": "keep", "pair": "scale-shift", "fold": "fold"}  # what the index says -> what a method's `bn` says
T = TypeVar("T")


def stored_batch_norm(bn: str) -> str:
    """What the index says of batch norm where a method's `bn` says this; what it may not say comes back as it is."""
    return next((stored for stored, name in BATCH_NORMS.items() if name == bn), bn)


class Reader:
    """An open container, that of a folder too; sections are read and checked when something in them is asked for.

    **Raises** `FormatError` (or a more precise child) if the file is damaged, foreign or newer; `SizeLimitError` if its
    tensors decode to more bytes than `limits` allows it and `max_output` does not say that they may.
    """

    def __init__(self, path: str | Path, max_output: int | None = None) -> None:
        self.path = container_of(Path(path))
        try:
            with self.path.open("rb") as stream:
                self.size = stream.seek(0, 2)
                self._limit = Limit.of(self.path, self.size, max_output)
                self.index, self.index_size = self._open(stream)
        except OSError as error:
            raise FormatError(f"{self.path} cannot be read: {error.strerror or error}") from error
        self._place()
        index = self.index
        self._limit.check(index)
        self._held: dict[int, bytes] = {}
        self._lock = Lock()

    @property
    def batch_norm(self) -> str:
        """What became of batch norm, as a method's `bn` says it."""
        return BATCH_NORMS[self.index.about["batch_norm"]]

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
        return self._json(packed, "an index", parse_index)

    def _json(self, packed: bytes, what: str, parse: Callable[[Any], T]) -> T:
        """What `parse` makes of a zstd frame of JSON. **Raises** `FormatError`."""
        size = stated_size(packed)
        if size < 0:
            raise FormatError(self._says(f"has {what} without a stated size"))
        self._limit.check_text(size, what)
        try:
            return parse(parse_json(inflate(packed, size)))
        except (ValueError, RecursionError) as error:
            raise FormatError(self._says(f"has {what} that cannot be read: {error}")) from error

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

    def quantised(self, record: Record, use: Callable[[Arrays, list[Encoded]], T]) -> T:
        """What `use` makes of a quantised tensor's fields, which are right, and its arrays of codes."""
        return self._right(record, lambda: use(*self._parts(record)))

    def _parts(self, record: Record) -> tuple[Arrays, list[Encoded]]:
        data = self._bytes(record.name, record.size)
        pieces, at = [], 0
        for part in (*record.fields.values(), *record.codes):
            pieces.append(data[at : at + part.size])
            at += part.size
        count = len(record.fields)
        fields = {
            name: part.array(piece) for (name, part), piece in zip(record.fields.items(), pieces[:count], strict=True)
        }
        check_fields(record, fields)
        return fields, [Encoded(part, piece) for part, piece in zip(record.codes, pieces[count:], strict=True)]

    def codes(self, record: Record) -> tuple[Arrays, Array]:
        """Fields and codes of a quantised tensor, which go together."""

        def decode(fields: Arrays, arrays: list[Encoded]) -> tuple[Arrays, Array]:
            found = [array.array() for array in arrays]
            check_codes(record, fields, lambda number: ends_of(found[number]))
            return fields, GRIDS[record.grid].join(record, fields, found)

        return self.quantised(record, decode)

    def check(self, record: Record) -> None:
        """Decode a tensor, a chunk at a time. **Raises** `FormatError` if it is not what it must be."""

        def decode(fields: Arrays, arrays: list[Encoded]) -> None:
            ends = [array.extremes() for array in arrays]
            check_codes(record, fields, ends.__getitem__)

        if record.grid:
            self.quantised(record, decode)
        else:
            self.kept(record)

    def kept(self, record: Record) -> bytes:
        """The stored bytes of a kept tensor (one element for a constant one), decompressed."""
        data = self._bytes(record.name, record.stored_size)
        if record.storage == ZSTD_BYTES:
            data = self._right(record, lambda: inflate(data, record.kept_size))
        if record.stored == "bool":
            self._right(record, lambda: check_bools(record.name, data))
        return data

    def file(self, name: str) -> bytes:
        """An attachment."""
        packed, size = self.index.files[name]
        try:
            return inflate(self._bytes("\0" + name, packed), size)
        except CodecError as error:
            raise FormatError(self._says(f"has a damaged attachment {name!r}: {error}")) from error

    def activations(self) -> dict[str, tuple[float, list[int], bool]]:
        """What layers round their inputs to: see `parse_activations`."""
        for number, section in enumerate(self.index.sections):
            if section.kind == ACTIVATIONS:
                return self._json(self._section(number), ACTIVATIONS, parse_activations)
        return {}

    def results(self) -> list[Any] | None:
        """What was measured of the file, as JSON; None if it keeps no room for that."""
        if self.room is None:
            return None
        try:
            return list_of(parse_json(self._section(len(self.index.sections) - 1)), RESULTS)
        except (ValueError, RecursionError) as error:
            raise FormatError(self._says(f"has results that cannot be read: {error}")) from error

    @property
    def room(self) -> int | None:
        """Where the section of results begins; None if there is none."""
        last = self.index.sections[-1:]
        return self._sections[-1][0] if last and last[0].kind == RESULTS else None

    def _right(self, record: Record, work: Callable[[], T]) -> T:
        """The result of `work` on a tensor. **Raises** `FormatError` that says where the tensor is if it fails."""
        try:
            return work()
        except ValueError as error:
            section, at = self._where[record.name]
            place = self._sections[section][0] + at if section >= 0 else self.size
            raise FormatError(
                self._says(f"has a tensor {record.name!r} at byte {place} that does not decode: {error}")
            ) from error

    def check_all(self) -> None:
        """Read and check every section, unknown ones too."""
        for i in range(len(self._sections)):
            self._section(i)

    def _bytes(self, name: str, size: int) -> bytes:
        section, at = self._where[name]
        return self._section(section)[at : at + size] if size else b""

    def _section(self, number: int) -> bytes:
        data = self._held.get(number)  # several threads may read: what one drops, another holds
        if data is None:
            position, size = self._sections[number]
            with self.path.open("rb") as stream:
                stream.seek(position)
                data = stream.read(size)
                tail = stream.read(HASH + -(position + size + HASH) % ALIGN)
            if xxhash.xxh3_64_intdigest(data).to_bytes(HASH, "little") != tail[:HASH] or any(tail[HASH:]):
                raise ChecksumError(
                    self._says(f"is damaged between bytes {position} and {position + size + len(tail)}: copy it again")
                )
            with self._lock:
                if sum(map(len, self._held.values())) + size > HELD:
                    self._held.clear()
                self._held[number] = data
        return data

    def _says(self, what: str) -> str:
        return f"{self.path} {what}"
