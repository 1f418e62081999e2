"""The index: JSON that anyone may have written, turned into records that can be relied on."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from .layout import ACTIVATIONS, CODE_TYPES, DEFAULT_CHUNK, GRIDS, SIZES, Field, Record
from .names import check_layout

FLOATS = ("f64", "f32", "f16", "bf16")
EXPONENTS = 126  # the largest magnitude of the exponent of a fixed-point grid
MAX_SIZE = 1 << 48  # elements of a tensor, bytes of a section
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
    _need(about["batch_norm"] in ("", "pair", "fold"), f"batch norm {about['batch_norm']!r}")
    for alias, name in about["aliases"].items():
        _need(isinstance(name, str) and name in records and alias not in records, f"alias {alias!r} of nothing")
    check_layout(about["layout"], [*records, *about["aliases"]], files)
    return Index(sections, records, {name: _pair(size) for name, size in files.items()}, about)


def _section(value: Any) -> Section:
    if not isinstance(value, list):
        return Section(_int(value, 1, "a section"))
    _need(len(value) == 3 and isinstance(value[1], str) and isinstance(value[2], bool), "a section of unknown form")
    _need(
        not value[2] or value[1] == ACTIVATIONS,
        f"a critical section {value[1]!r} that this version does not know: upgrade tersenet",
    )
    return Section(_int(value[0], 1, "a section"), value[1])


def _record(entry: list[Any]) -> Record:
    _need(len(entry) in (7, 8, 9), f"a tensor with {len(entry)} members")
    name, shape, dtype = entry[0], _shape(entry[1]), _one_of(entry[2], SIZES)
    _need(isinstance(name, str) and not name.startswith("\0"), f"a tensor called {name!r}")
    if len(entry) == 7:
        _need(isinstance(entry[4], str), f"{name}: a reason that is no text")
        kept = Record(name, shape, dtype, reason=entry[4], stored=_one_of(entry[3], SIZES),
                      storage=_int(entry[5], 0, name),
                      stored_size=_int(entry[6], 0, name))  # fmt: skip
        _need(kept.storage <= 2, f"{name}: stored in an unknown way")
        _need(kept.storage == 1 or kept.stored_size == kept.kept_size, f"{name}: {kept.stored_size} bytes stored")
        return kept
    grid = entry[3]
    _need(dtype in FLOATS, f"{name}: quantised, but of dtype {dtype}")
    _need(isinstance(grid, dict) and grid.get("kind") in GRIDS, f"{name}: an unknown grid: upgrade tersenet")
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
            fields[key] = Field(_one_of(part[0], SIZES), _shape(part[1]))
    ordered = {key: fields[key] for key in GRIDS[grid["kind"]] if key in fields}
    chunks = tuple(_int(size, 0, f"{name}: a chunk") for size in _list(entry[7], f"{name}: chunks"))
    symbols = _int(entry[8], 1, f"{name}: chunk length") if len(entry) == 9 else DEFAULT_CHUNK
    record = Record(name, shape, dtype, grid["kind"], scalars, ordered, _one_of(entry[4], CODE_TYPES),
                    _int(entry[5], 0, name), _int(entry[6], 0, name), chunks, symbols)  # fmt: skip
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
        rows = max(1, record.shape[0])
        lead = (record.shape[0], -(-(record.count // rows) // group))
    if record.grid == "uniform":
        _need("scale" in record.fields, f"{record.name}: no scale")
        parts = record.fields.values()
        _need(all(part.shape in (lead, ()) for part in parts), f"{record.name}: a grid for another shape")
    else:
        values = record.fields.get("values")
        rest = [part.shape for name, part in record.fields.items() if name != "values"]
        _need(
            values is not None and len(values.shape) > 0 and values.shape[:-1] == (() if rest else lead)
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


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(_int(size, 0, "a dimension") for size in _list(value, "a shape"))


def _one_of(value: Any, names: Any) -> str:
    _need(isinstance(value, str) and value in names, f"{value!r} is none of {', '.join(names)}")
    return str(value)


def parse_activations(value: Any) -> dict[str, tuple[float, list[int], bool]]:
    """Path -> scale, levels, and whether these are (lowest, highest). **Raises** `ValueError` naming what is wrong."""
    _need(isinstance(value, dict), "activations are no object")
    found = {}
    for path, entry in value.items():
        kind, scale, levels = (*_list(entry, path), None, None, None)[:3]
        _need(kind in ("integers", "points"), f"{path}: an unknown kind of levels: upgrade tersenet")
        _need(isinstance(scale, float) and 0 < scale < 3.5e38, f"{path}: scale {scale!r}")
        numbers = [_int(number, -(1 << 31), path) for number in _list(levels, path)]
        _need(len(numbers) == 2 or (kind == "points" and len(numbers) > 2), f"{path}: {len(numbers)} levels")
        _need(all(a < b for a, b in pairwise(numbers)), f"{path}: levels that do not increase")
        found[path] = (scale, numbers, kind == "integers")
    return found
