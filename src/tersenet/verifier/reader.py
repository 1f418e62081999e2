"""Tensors of a file: kept as they are stored, quantised with everything that makes their values."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from .bases import sums
from .bits import Ints, inflate
from .checks import listed, need, refusing, shaped, whole
from .codes import decode, is_trellis
from .container import Container, Taker, opened
from .grids import DTYPES, FLOATS, ORDER, Array, check_grid, single, values
from .index import check_layout


@dataclass(frozen=True)
class Coded:
    """A coded array: its integers, its coder, whether that is a trellis, and the bytes of parameters and chunks."""

    integers: Ints
    coder: int
    trellis: bool
    tables: int
    chunks: int


@dataclass(frozen=True)
class Tensor:
    """One tensor: its values, and if it is quantised the grid, its fields, the codes and the bytes of the fields."""

    name: str
    shape: list[int]
    dtype: str
    values: Array
    stored: str = ""
    reason: str = ""
    size: int = 0
    grid: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Array] = field(default_factory=dict)
    arrays: list[Coded] = field(default_factory=list)
    grid_size: int = 0


def read(path: str | Path) -> dict[str, Array]:
    """Name -> values: kept tensors as stored, quantised ones in fp32 before the rounding to their dtype; `input of
    LAYER` -> kind, scale, levels; `file:NAME` -> bytes. **Raises** `RefusedError` for what breaks a rule."""
    with refusing(str(path)):
        container = opened(path)
        taker = Taker(container.contents)
        found: dict[str, Array] = {tensor.name: tensor.values for tensor in tensors(container, taker)}
        aliases = {alias: found[name] for alias, name in container.index.get("aliases", {}).items()}
        files = {f"file:{name}": np.frombuffer(data, np.uint8) for name, data in attachments(container, taker)}
        inputs = {f"input of {layer}": np.array(each, object) for layer, each in container.inputs.items()}
        return found | aliases | files | inputs


def tensors(container: Container, taker: Taker) -> Iterator[Tensor]:
    """All tensors, in order."""
    index = container.index
    names: set[str] = set()
    for entry in index["tensors"]:
        need(len(entry) in (5, 7, 8, 9) and isinstance(entry[0], str), "a tensor of unknown form")
        need(entry[0][:1] != "\0" and entry[0] not in names, f"the name {entry[0]!r:.80}")
        names.add(entry[0])
        form = {5: _in_bases, 7: _kept}.get(len(entry), _quantised)
        yield form(entry, taker)
    aliases = index.get("aliases", {})
    need(not names & set(aliases) and names.issuperset(aliases.values()), "a tied name of nothing")
    check_layout(index.get("layout", {}), [*names, *aliases], list(index.get("files", {})))


def attachments(container: Container, taker: Taker) -> Iterator[tuple[str, bytes]]:
    """All attachments, after the tensors; then nothing is left."""
    for name, (size, original) in container.index.get("files", {}).items():
        yield name, inflate(taker.take(whole(size, 1)), whole(original))
    taker.check_end()


def _kept(entry: list[Any], taker: Taker) -> Tensor:
    name, shape, dtype, kind, reason, storage, size = entry
    count = prod(shaped(shape))
    right = isinstance(reason, str) and dtype in DTYPES and (kind == dtype or {kind, dtype} <= set(FLOATS))
    need(right, f"the dtype of {name!r:.80}")
    item = np.dtype(DTYPES[kind]).itemsize
    data = taker.take(whole(size))
    if whole(storage, 0, 2) == 1:
        data = inflate(data, count * item)
    need(len(data) == (min(1, count) if storage == 2 else count) * item, f"the bytes of {name!r:.80}")
    need(kind != "bool" or set(data) <= {0, 1}, f"a bool of {name!r:.80}")
    found = np.frombuffer(data * count if storage == 2 else data, DTYPES[kind]).reshape(shape)
    return Tensor(name, shape, dtype, found, kind, reason, size)


def _quantised(entry: list[Any], taker: Taker) -> Tensor:
    name, shape, dtype, grid = entry[:4]
    check_grid(grid, shaped(shape), dtype)
    coded = [entry[4], shape, *entry[5:]]
    keys = [key for key in ORDER[grid["kind"]] if key in grid]
    sizes = [_field_size(listed(grid[key])) for key in keys]
    size = sum(sizes)
    own = Taker([taker.take(size + _size(coded))])
    fields = {}
    for key, length in zip(keys, sizes, strict=True):
        if _is_coded(grid[key]):
            fields[key] = _coded(grid[key], own).integers
            continue
        kind, field_shape = grid[key]
        fields[key] = single(np.frombuffer(own.take(length), DTYPES[kind]).reshape(field_shape), kind, key)
    array = _coded(coded, own)
    codes = array.integers.reshape(shape)
    return Tensor(name, shape, dtype, values(grid, fields, codes), "", "", 0, grid, fields, [array], size)


def _field_size(entry: list[Any]) -> int:
    """The bytes of a field."""
    return _size(entry) if _is_coded(entry) else prod(entry[1]) * np.dtype(DTYPES[entry[0]]).itemsize


def _is_coded(entry: list[Any]) -> bool:
    """Whether a field is a coded array, rather than its dtype and shape."""
    return len(listed(entry)) != 2


def _size(entry: list[Any]) -> int:
    """The bytes of a coded array."""
    need(len(entry) in (5, 6), "a coded array of unknown form")
    return whole(entry[3]) + sum(whole(size) for size in listed(entry[4]))


def _coded(entry: list[Any], taker: Taker) -> Coded:
    kind, shape, coder, params = entry[:4]
    chunks = [whole(size) for size in listed(entry[4])]
    per_chunk = whole(entry[5], 65536, 1 << 20) if len(entry) == 6 else 1 << 20
    data = taker.take(whole(params) + sum(chunks))
    ends = np.cumsum([params, *chunks]).tolist()
    pieces = [data[end - size : end] for end, size in zip(ends[1:], chunks, strict=True)]
    head = data[:params]
    found = decode(whole(coder), head, pieces, per_chunk, shaped(shape), kind)
    return Coded(found, coder, is_trellis(coder, head), params, sum(chunks))


def _in_bases(entry: list[Any], taker: Taker) -> Tensor:
    name, shape, dtype, grid, listing = entry
    need(dtype in FLOATS and grid["kind"] == "bases" and shape and prod(shaped(shape)), f"the grid of {name!r:.80}")
    members = {"kind", "mantissa", "group_size", "stride", "counts", "coordinates"}
    need(set(grid) == members, f"the grid of {name!r:.80}")
    m, g, s = (whole(grid[key], least) for key, least in (("mantissa", 0), ("group_size", 1), ("stride", 1)))
    row = prod(shape[1:])
    need(m <= 10 and row % (g * s) == 0 and grid["counts"][0] == "i8", f"the groups of {name!r:.80}")
    arrays = [listed(grid["counts"]), listed(grid["coordinates"]), *map(listed, listed(listing))]
    own = Taker([taker.take(sum(map(_size, arrays)))])
    coded = [_coded(each, own) for each in arrays]
    counts, numbers, planes = coded[0].integers, coded[1].integers, coded[2:]
    need(grid["counts"][1] == [shape[0], row // g] and len(grid["coordinates"][1]) == 1, f"the groups of {name!r:.80}")
    need(all(len(each[1]) == 1 for each in listing), f"the planes of {name!r:.80}")
    found = sums(counts, numbers, [plane.integers for plane in planes], m, g)
    found = found.reshape(-1, s, g).swapaxes(1, 2).reshape(shape)
    size = sum(part.tables + part.chunks for part in coded[:2])
    fields = {"counts": counts, "coordinates": numbers}
    return Tensor(name, shape, dtype, found, "", "", 0, grid, fields, planes, size)
