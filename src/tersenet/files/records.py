"""The index: JSON that anyone may have written, turned into records that can be relied on."""

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from .layout import ACTIVATIONS, CODE_TYPES, DEFAULT_CHUNK, GRIDS, LEAST_CHUNK, SIZES, Field, Record
from .names import check_layout
from .strict import check_depth

FLOATS = ("f64", "f32", "f16", "bf16")
INTEGERS = ("i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8")
FIELD_TYPES = {"zero_point": INTEGERS, "values": FLOATS + INTEGERS}  # of a grid; others are floats
EXPONENTS = 126  # the largest magnitude of the exponent of a fixed-point grid
MAX_SIZE = 1 << 48  # elements of a tensor, bytes of a section
MAX_DIMENSIONS = 32
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
        """What the data sections hold, in order: tensors, then attachments (their names behind a zero byte)."""
        tensors = [(name, record.size) for name, record in self.records.items()]
        return tensors + [("\0" + name, size[0]) for name, size in self.files.items()]


def parse_index(value: Any) -> Index:
    """A checked index. **Raises** `ValueError` naming what is wrong."""
    _need(isinstance(value, dict), "the index is no object")
    unknown = set(value) - {"sections", "tensors", "files", *JSON_MEMBERS}
    _need(not unknown, f"unknown members {sorted(unknown)}: upgrade tersenet")
    sections = [_section(each) for each in _list(value.get("sections"), "sections")]
    _need(sum(each.kind == ACTIVATIONS for each in sections) <= 1, "two sections of activations")
    records: dict[str, Record] = {}
    for entry in _list(value.get("tensors"), "tensors"):
        record = _record(_list(entry, "a tensor"))
        _need(record.name not in records, f"tensor {record.name!r} appears twice")
        records[record.name] = record
    files = value.get("files", {})
    _need(isinstance(files, dict), "files is no object")
    about = {key: value.get(key, kind()) for key, kind in JSON_MEMBERS.items()}
    for key, kind in JSON_MEMBERS.items():
        _need(isinstance(about[key], kind), f"{key} is no {kind.__name__}")
    _need(value.get("batch_norm", "pair") in ("pair", "fold"), f"batch norm {about['batch_norm']!r}")
    check_depth(about)
    for alias, name in about["aliases"].items():
        _need(isinstance(name, str) and name in records and alias not in records, f"alias {alias!r} of nothing")
    check_layout(about["layout"], [*records, *about["aliases"]], files)
    return Index(sections, records, {name: _pair(size) for name, size in files.items()}, about)


def _section(value: Any) -> Section:
    if not isinstance(value, list):
        return Section(_int(value, 1, "a section"))
    _need(len(value) == 3 and isinstance(value[1], str) and isinstance(value[2], bool), "a section of unknown form")
    _need(
        value[2] == (value[1] == ACTIVATIONS),
        f"a section {value[1]!r} that is {'' if value[2] else 'not '}critical: upgrade tersenet",
    )
    _need(value[1] != "data", "a data section that is given a kind")
    return Section(_int(value[0], 1, "a section"), value[1])


def _record(entry: list[Any]) -> Record:
    _need(len(entry) in (7, 8, 9), f"a tensor with {len(entry)} members")
    name = entry[0]
    _need(isinstance(name, str) and not name.startswith("\0"), f"a tensor called {name!r}")
    shape, dtype = _shape(entry[1], name), _one_of(entry[2], SIZES, name)
    if len(entry) == 7:
        _need(isinstance(entry[4], str), f"{name}: a reason that is no text")
        kept = Record(name, shape, dtype, reason=entry[4], stored=_one_of(entry[3], SIZES, name),
                      storage=_int(entry[5], 0, name),
                      stored_size=_int(entry[6], 0, name))  # fmt: skip
        _need(kept.storage <= 2, f"{name}: stored in an unknown way")
        _need(
            kept.stored == dtype or (kept.stored in FLOATS and dtype in FLOATS),
            f"{name}: stored as {kept.stored}, but of dtype {dtype}",
        )
        _need(kept.storage == 1 or kept.stored_size == kept.kept_size, f"{name}: {kept.stored_size} bytes stored")
        return kept
    grid = entry[3]
    _need(dtype in FLOATS, f"{name}: quantised, but of dtype {dtype}")
    _need(
        isinstance(grid, dict) and isinstance(grid.get("kind"), str) and grid["kind"] in GRIDS,
        f"{name}: an unknown grid: upgrade tersenet",
    )
    scalars, fields = {}, {}
    for key, value in grid.items():
        if key in ("axis", "group_size"):
            scalars[key] = _int(value, 0, f"{name}: {key}")
        elif key == "exponent":
            scalars[key] = _int(value, -EXPONENTS, f"{name}: {key}")
        elif key != "kind":
            _need(key in GRIDS[grid["kind"]], f"{name}: a grid with an unknown {key!r}")
            part = _list(value, f"{name}: {key}")
            _need(len(part) == 2, f"{name}: {key} of unknown form")
            fields[key] = Field(_one_of(part[0], FIELD_TYPES.get(key, FLOATS), name), _shape(part[1], name))
    ordered = {key: fields[key] for key in GRIDS[grid["kind"]] if key in fields}
    chunks = tuple(_int(size, 0, f"{name}: a chunk") for size in _list(entry[7], f"{name}: chunks"))
    symbols = _int(entry[8], LEAST_CHUNK, f"{name}: chunk length") if len(entry) == 9 else DEFAULT_CHUNK
    _need(symbols <= DEFAULT_CHUNK, f"{name}: chunks of {symbols} codes")
    record = Record(name, shape, dtype, grid["kind"], scalars, ordered, _one_of(entry[4], CODE_TYPES, name),
                    _int(entry[5], 0, name), _int(entry[6], 0, name), chunks, symbols)  # fmt: skip
    _need(len(chunks) in (0, -(-record.count // symbols)), f"{name}: {len(chunks)} chunks")
    _check_grid(record)
    return record


def _check_grid(record: Record) -> None:
    """The grid's fields have the shapes that its kind, axis and groups ask for."""
    if record.grid == "fixed":
        _need(
            set(record.scalars) == {"exponent"} and record.scalars["exponent"] <= EXPONENTS, f"{record.name}: exponent"
        )
        return
    _need("exponent" not in record.scalars, f"{record.name}: an exponent")
    axis, group = record.scalars.get("axis"), record.scalars.get("group_size")
    _need(axis is None or (axis < len(record.shape) and group is None), f"{record.name}: axis {axis}")
    _need(
        group is None or (group >= 1 and len(record.shape) >= 1 and record.grid == "uniform"), f"{record.name}: groups"
    )
    lead: tuple[int, ...] = (record.shape[axis],) if axis is not None else ()
    if group is not None:
        _need(record.count > 0, f"{record.name}: groups of nothing")
        lead = (record.shape[0], -(-(record.count // record.shape[0]) // group))
    if record.grid == "uniform":
        _need("scale" in record.fields, f"{record.name}: no scale")
        parts = record.fields.values()
        _need(all(part.shape in (lead, ()) for part in parts), f"{record.name}: a grid for another shape")
    else:
        values = record.fields.get("values")
        rest = [part.shape for name, part in record.fields.items() if name != "values"]
        _need(
            values is not None and len(values.shape) > 0 and values.shape[:-1] in ((), () if rest else lead)
            and all(shape in (lead, ()) for shape in rest),
            f"{record.name}: a codebook of another shape",
        )  # fmt: skip


def _need(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def _list(value: Any, what: str) -> list[Any]:
    _need(isinstance(value, list), f"{what} is no list")
    return list(value)


def _int(value: Any, least: int, what: str) -> int:
    _need(
        isinstance(value, int) and not isinstance(value, bool) and least <= value <= MAX_SIZE,
        f"{what}: {value!r} is out of range",
    )
    return int(value)


def _pair(value: Any) -> tuple[int, int]:
    both = _list(value, "a file")
    _need(len(both) == 2, "a file of unknown form")
    return _int(both[0], 1, "a file"), _int(both[1], 0, "a file")


def _shape(value: Any, what: str) -> tuple[int, ...]:
    shape = tuple(_int(size, 0, what) for size in _list(value, what))
    if len(shape) > MAX_DIMENSIONS or prod(size or 1 for size in shape) > MAX_SIZE:
        raise ValueError(f"{what}: a shape of {len(shape)} dimensions with too many elements")
    return shape


def _one_of(value: Any, names: Any, what: str) -> str:
    if not (isinstance(value, str) and value in names):
        raise ValueError(f"{what}: {value!r} is none of {', '.join(names)}")
    return value


def parse_activations(value: Any) -> dict[str, tuple[float, list[int], bool]]:
    """Path -> scale, levels, and whether these are (lowest, highest). **Raises** `ValueError` naming what is wrong."""
    _need(isinstance(value, dict), "activations are no object")
    found = {}
    for path, entry in value.items():
        _need(isinstance(entry, list) and len(entry) == 3, f"{path}: activations of unknown form")
        kind, scale, levels = entry
        _need(
            isinstance(kind, str) and kind in ("integers", "points"),
            f"{path}: an unknown kind of levels: upgrade tersenet",
        )
        with np.errstate(over="ignore"):
            right = isinstance(scale, float) and bool(0 < np.float32(scale) < np.inf)
        _need(right, f"{path}: scale {scale!r}")
        numbers = [_int(number, -MAX_LEVEL, path) for number in _list(levels, path)]
        _need(all(number < MAX_LEVEL for number in numbers), f"{path}: levels beyond 32 bits")
        _need(len(numbers) == 2 or (kind == "points" and len(numbers) > 2), f"{path}: {len(numbers)} levels")
        _need(all(a < b for a, b in pairwise(numbers)), f"{path}: levels that do not increase")
        found[path] = (scale, numbers, kind == "integers")
    return found
