"""Writing the container: bytes go out as they come, the header is rewritten at the end."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import RawIOBase
from typing import Any, BinaryIO

import xxhash
import zstandard

from ..errors import OutputError
from .layout import (
    ACTIVATIONS,
    ALIGN,
    CLOSE_SECTION,
    END,
    HASH,
    HEADER,
    MAGIC,
    PREFIX,
    RESULTS,
    ROOM,
    TRAILER,
    VERSION,
    entry_of,
    parse_activations,
    parse_index,
)
from .records import Record
from .strict import parse_json


class Writer:
    """A container that is being written to `stream`, which must be seekable and empty."""

    def __init__(self, stream: BinaryIO | RawIOBase) -> None:
        self._stream = stream
        self._records: list[Record] = []
        self._files: dict[str, list[int]] = {}
        self._sections: list[int | list[Any]] = []
        self._open = 0  # bytes in the open section
        self._hash = xxhash.xxh3_64()
        self._position = 0
        self._write(bytes(HEADER) + prefix())

    def add(self, record: Record, parts: list[bytes]) -> None:
        """Append a tensor whose `parts` have `record.size` bytes together."""
        self._records.append(record)
        self._append(parts)

    def add_file(self, name: str, content: bytes) -> None:
        """Append an attachment."""
        packed = compress(content)
        self._files[name] = [len(packed), len(content)]
        self._append([packed])

    def add_activations(self, content: Mapping[str, Any]) -> None:
        """Append the critical section that says what inputs are rounded to.

        **Raises** `OutputError` if it is nothing that a reader takes.
        """
        self._close_section()
        with writing("what inputs are rounded to"):
            text = canonical(content)
            parse_activations(parse_json(text))
        packed = compress(text)
        digest = xxhash.xxh3_64_intdigest(packed).to_bytes(HASH, "little")
        self._write(packed + digest)
        self._write(bytes(-self._position % ALIGN))
        self._sections.append([len(packed), ACTIVATIONS, True])

    def add_results(self, results: list[Any]) -> None:
        """Append the section of results, the last one. **Raises** `OutputError` if they are too long."""
        self._close_section()
        self._write(results_section(results))
        self._sections.append([ROOM, RESULTS, False])

    def close(self, about: Mapping[str, Any], *, check: bool = True) -> int:
        """Write index, trailer and header; `about` are the model's further JSON members. Returns the file's bytes.

        **Raises** `OutputError` if a reader would refuse the index (without `check` nobody asks).
        """
        self._close_section()
        index: dict[str, Any] = {
            "sections": self._sections,
            "tensors": [entry_of(record) for record in self._records],
            **({"files": self._files} if self._files else {}),
            **{key: value for key, value in about.items() if value},
        }
        with writing("the index"):
            text = canonical(index)
            if check:
                parse_index(parse_json(text))
        packed = compress(text)
        offset = self._position
        total = offset + len(packed) + TRAILER
        head = header(total - HEADER)
        digest = xxhash.xxh3_64_intdigest(head + prefix() + packed)
        numbers = b"".join(value.to_bytes(8, "little") for value in (offset, len(packed), digest))
        self._write(packed + numbers + END)
        self._stream.seek(0)
        self._stream.write(head)
        return total

    def _append(self, parts: list[bytes]) -> None:
        for part in parts:
            self._hash.update(part)
            self._write(part)
            self._open += len(part)
        if self._open >= CLOSE_SECTION:
            self._close_section()

    def _close_section(self) -> None:
        if not self._open:
            return
        self._write(self._hash.intdigest().to_bytes(HASH, "little"))
        self._sections.append(self._open)
        self._write(bytes(-self._position % ALIGN))
        self._open, self._hash = 0, xxhash.xxh3_64()

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._position += len(data)


@contextmanager
def writing(part: str) -> Iterator[None]:
    """Turn the refusal of what the body makes, in a reader's words, into an `OutputError`."""
    try:
        yield
    except (ValueError, TypeError, RecursionError) as error:
        raise OutputError(f"{part} cannot be written, because no reader takes it: {error}") from error


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def results_section(results: list[Any]) -> bytes:
    """The section of results and its hash. **Raises** `OutputError` if they are too long."""
    text = canonical(results)
    if len(text) > ROOM:
        raise OutputError(f"results of {len(text)} bytes; there is room for {ROOM}")
    padded = text.ljust(ROOM)
    return padded + xxhash.xxh3_64_intdigest(padded).to_bytes(HASH, "little")


def compress(data: bytes) -> bytes:
    """One zstd frame with its content size."""
    return zstandard.ZstdCompressor(level=19, write_content_size=True).compress(data)


def prefix() -> bytes:
    """The bytes between the safetensors header and the first section."""
    return (MAGIC + VERSION.to_bytes(4, "little")).ljust(PREFIX, b"\0")


def header(size: int) -> bytes:
    """The safetensors header of a file with one U8 tensor of `size` bytes, padded with spaces."""
    tensor = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    text = json.dumps(
        {"__metadata__": {"format": "terse", "version": str(VERSION)}, "terse": tensor}, separators=(",", ":")
    )
    return (HEADER - 8).to_bytes(8, "little") + text.encode().ljust(HEADER - 8)
