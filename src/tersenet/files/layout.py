"""The layout of the container: its constants, and its index, which is JSON that anyone may have written.

`parse_index` turns it into records that can be relied on; `entry_of` writes what it says about one of them.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from .grids import GRIDS, FieldRule
from .names import check_layout
from .records import CODE_TYPES, DEFAULT_CHUNK, FLOATS, SIZES, Coded, Field, Record, matrix, product
from .strict import check_depth, integer, list_of, need, one_of, shape_of

VERSION = 1
MAGIC = b"TERSENET"
END = b"TERSEEND"
ALIGN = 64
HEADER = 192  # bytes of the safetensors header with its length: a multiple of ALIGN
PREFIX = 64  # magic, version and zeros
TRAILER = 32
HASH = 8
CLOSE_SECTION = 1 << 18  # a section ends after the first tensor that brings it to this many bytes
LEAST_CHUNK = 1 << 16  # codes
ACTIVATIONS = "activations"  # the one critical section
RESULTS, ROOM = "results", 184  # the last section, if there, and its bytes
MAX_LEVEL = 1 << 31  # magnitude of a level of an activation
JSON_MEMBERS = {"aliases": dict, "batch_norm": str, "layout": dict, "provenance": dict}


@dataclass(frozen=True)
class Section:
    """A section of `size` bytes; kinds other than "data" and "activations" are skipped, unless they are critical."""

    size: int
    kind: str = "data"


@dataclass(frozen=True)
class Index:
    """Sections, tensors by name, attachments (stored and original bytes by name), and the model's JSON members."""

    sections: list[Section]
    records: dict[str, Record]
    files: dict[str, tuple[int, int]]
    about: dict[str, Any]

    @property
    def contents(self) -> list[tuple[str, int]]:
        """What the data sections hold, in order: tensors, then attachments (their names after a zero byte)."""
        tensors = [(name, record.size) for name, record in self.records.items()]
        return tensors + [("\0" + name, size[0]) for name, size in self.files.items()]


def parse_index(value: Any) -> Index:
    """A checked index. **Raises** `ValueError` naming what is wrong."""
    need(isinstance(value, dict), "the index is no object")
    unknown = set(value) - {"sections", "tensors", "files", *JSON_MEMBERS}
    need(not unknown, f"unknown members {sorted(unknown)}: upgrade tersenet")
    sections = [_section(each) for each in list_of(value.get("sections"), "sections")]
    need(sum(each.kind == ACTIVATIONS for each in sections) <= 1, "two sections of activations")
    need(all(each.kind != RESULTS for each in sections[:-1]), "results that are not the last section")
    records: dict[str, Record] = {}
    for entry in list_of(value.get("tensors"), "tensors"):
        record = _record(list_of(entry, "a tensor"))
        need(record.name not in records, f"tensor {record.name!r} appears twice")
        records[record.name] = record
    files = value.get("files", {})
    need(isinstance(files, dict), "files is no object")
    about = {key: value.get(key, kind()) for key, kind in JSON_MEMBERS.items()}
    for key, kind in JSON_MEMBERS.items():
        need(isinstance(about[key], kind), f"{key} is no {kind.__name__}")
    need(value.get("batch_norm", "pair") in ("pair", "fold"), f"batch norm {about['batch_norm']!r}")
    check_depth(about)
    for alias, name in about["aliases"].items():
        need(isinstance(name, str) and name in records and alias not in records, f"alias {alias!r} of nothing")
    check_layout(about["layout"], [*records, *about["aliases"]], files)
    return Index(sections, records, {name: _pair(size) for name, size in files.items()}, about)


def _section(value: Any) -> Section:
    if not isinstance(value, list):
        return Section(integer(value, 1, "a section"))
    need(len(value) == 3 and isinstance(value[1], str) and isinstance(value[2], bool), "a section of unknown form")
    need(
        value[2] == (value[1] == ACTIVATIONS),
        f"a section {value[1]!r} that is {'' if value[2] else 'not '}critical: upgrade tersenet",
    )
    need(value[1] != "data", "a data section that is given a kind")
    need(value[1] != RESULTS or value[0] == ROOM, "results of another size")
    return Section(integer(value[0], 1, "a section"), value[1])


def _record(entry: list[Any]) -> Record:
    need(len(entry) in (5, 7, 8, 9), f"a tensor with {len(entry)} members")
    name = entry[0]
    need(isinstance(name, str) and not name.startswith("\0"), f"a tensor called {name!r}")
    shape, dtype = shape_of(entry[1], name), one_of(entry[2], SIZES, name)
    return _kept(name, shape, dtype, entry[3:]) if len(entry) == 7 else _quantised(name, shape, dtype, entry[3:])


def _kept(name: str, shape: tuple[int, ...], dtype: str, rest: list[Any]) -> Record:
    stored, reason = one_of(rest[0], SIZES, name), rest[1]
    need(isinstance(reason, str), f"{name}: a reason that is no text")
    storage, size = integer(rest[2], 0, name), integer(rest[3], 0, name)
    need(storage <= 2, f"{name}: stored in an unknown way")
    need(stored == dtype or (stored in FLOATS and dtype in FLOATS), f"{name}: stored as {stored}, but of dtype {dtype}")
    kept = Record(name, shape, dtype, reason=reason, stored=stored, storage=storage, stored_size=size)
    need(storage == 1 or size == kept.kept_size, f"{name}: {size} bytes stored")
    return kept


def _quantised(name: str, shape: tuple[int, ...], dtype: str, rest: list[Any]) -> Record:
    grid = rest[0]
    need(dtype in FLOATS, f"{name}: quantised, but of dtype {dtype}")
    need(isinstance(grid, dict) and isinstance(grid.get("kind"), str), f"{name}: a grid without a kind")
    need(grid["kind"] in GRIDS, f"{name}: an unknown grid {grid['kind']!r}: upgrade tersenet")
    row = GRIDS[grid["kind"]]
    integers, fields = {}, {}
    for key, value in grid.items():
        if key in row.integers:
            integers[key] = integer(value, row.integers[key][0], f"{name}: {key}", row.integers[key][1])
        elif key != "kind":
            need(key in row.fields, f"{name}: a grid with an unknown {key!r}")
            fields[key] = _field(list_of(value, f"{name}: {key}"), row.fields[key], f"{name}: {key}")
    need(row.several == (len(rest) == 2), f"{name}: codes of unknown form")
    if row.several:
        codes = tuple(_coded(list_of(each, f"{name}: codes"), f"{name}: codes") for each in list_of(rest[1], name))
    else:
        codes = (_coded([rest[1], list(matrix(shape)), *rest[2:]], name),)
    ordered = {key: fields[key] for key in row.fields if key in fields}
    record = Record(name, shape, dtype, grid["kind"], integers, ordered, codes)
    try:
        row.check(record)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return record


def _field(value: list[Any], rule: FieldRule, what: str) -> Field | Coded:
    if rule.coded:
        found = _coded(value, what)
        one_of(found.dtype, rule.dtypes, what)
        return found
    need(len(value) == 2, f"{what} of unknown form")
    return Field(one_of(value[0], rule.dtypes, what), shape_of(value[1], what))


def _coded(value: list[Any], what: str) -> Coded:
    """`[code type, shape, coder, params, chunks]`, perhaps with the number of codes per chunk."""
    need(len(value) in (5, 6), f"{what} of unknown form")
    kind, shape = one_of(value[0], CODE_TYPES, what), shape_of(value[1], what)
    coder, params = integer(value[2], 0, what), integer(value[3], 0, what)
    chunks = tuple(integer(size, 0, f"{what}: a chunk") for size in list_of(value[4], f"{what}: chunks"))
    symbols = (
        integer(value[5], LEAST_CHUNK, f"{what}: chunk length", DEFAULT_CHUNK) if len(value) == 6 else DEFAULT_CHUNK
    )
    need(len(chunks) in (0, -(-product(shape) // symbols)), f"{what}: {len(chunks)} chunks")
    return Coded(kind, shape, coder, params, chunks, symbols)


def entry_of(record: Record) -> list[Any]:
    """The entry of a tensor in the index, as JSON."""
    head = [record.name, list(record.shape), record.dtype]
    if not record.grid:
        return [*head, record.stored, record.reason, record.storage, record.stored_size]
    members = {name: _written(part) for name, part in record.fields.items()}
    grid = {"kind": record.grid, **record.integers, **members}
    if GRIDS[record.grid].several:
        return [*head, grid, [_written(part) for part in record.codes]]
    kind, _, *rest = _written(record.codes[0])
    return [*head, grid, kind, *rest]


def _written(part: Field | Coded) -> list[Any]:
    if isinstance(part, Field):
        return [part.dtype, list(part.shape)]
    found = [part.dtype, list(part.shape), part.coder, part.params, list(part.chunks)]
    return found if part.chunk_symbols == DEFAULT_CHUNK else [*found, part.chunk_symbols]


def _pair(value: Any) -> tuple[int, int]:
    both = list_of(value, "a file")
    need(len(both) == 2, "a file of unknown form")
    return integer(both[0], 1, "a file"), integer(both[1], 0, "a file")


def parse_activations(value: Any) -> dict[str, tuple[float, list[int], bool]]:
    """Path -> scale, levels, and whether these are (lowest, highest). **Raises** `ValueError` naming what is wrong."""
    need(isinstance(value, dict), "activations are no object")
    found = {}
    for path, entry in value.items():
        need(isinstance(entry, list) and len(entry) == 3, f"{path}: activations of unknown form")
        kind, scale, levels = entry
        need(
            isinstance(kind, str) and kind in ("integers", "points"),
            f"{path}: an unknown kind of levels: upgrade tersenet",
        )
        with np.errstate(over="ignore"):
            right = isinstance(scale, float) and bool(0 < np.float32(scale) < np.inf)
        need(right, f"{path}: scale {scale!r}")
        numbers = [integer(number, -MAX_LEVEL, path) for number in list_of(levels, path)]
        need(all(number < MAX_LEVEL for number in numbers), f"{path}: levels beyond 32 bits")
        need(len(numbers) == 2 or (kind == "points" and len(numbers) > 2), f"{path}: {len(numbers)} levels")
        need(all(a < b for a, b in pairwise(numbers)), f"{path}: levels that do not increase")
        found[path] = (scale, numbers, kind == "integers")
    return found
