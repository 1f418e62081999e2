"""What forged files are made of: tensors, activations, attachments and streams, valid but for what is asked."""

import struct
from typing import Any

import zstandard
from forge import assemble

ESCAPE = "\x1b]0;pwned\x07\x1b[2J"
HUGE = 1 << 48
STATE = struct.pack("<I", 1 << 16)
HALF = struct.pack("<f", 0.5)


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=19 if len(data) < 1 << 16 else 3).compress(data)


def claiming(size: int) -> bytes:
    """A zstd frame that says it holds `size` bytes and holds one."""
    return b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + b"\x09\x00\x00\x07"


def kept(data: bytes = b"\0\0\x80?" * 2, name: Any = "a", shape: Any = (2,), dtype: str = "f32", **more: Any) -> bytes:
    """A file with one kept tensor; `stored`, `storage`, `reason` and members of the index as given."""
    stored, storage, reason = more.pop("stored", dtype), more.pop("storage", 0), more.pop("reason", "r")
    entry = [name, list(shape), dtype, stored, reason, storage, len(data)]
    sections = more.pop("sections", [])
    contents = more.pop("contents", [])
    index = {"sections": ([len(data)] if data else []) + sections, "tensors": [entry], **more}
    return assemble(index, ([data] if data else []) + contents)


def quantised(shape: Any, params: bytes, chunks: Any = (), coder: int = 1, **more: Any) -> bytes:
    """A file with one quantised tensor; `grid`, `fields`, `kind`, `dtype` and `symbols` as given."""
    grid, fields = more.get("grid", {"kind": "uniform", "scale": ["f32", []]}), more.get("fields", HALF)
    entry = [more.get("name", "z"), list(shape), more.get("dtype", "f32"), grid, more.get("kind", "i8"), coder]
    entry += [len(params), [len(chunk) for chunk in chunks], *([more["symbols"]] if "symbols" in more else [])]
    data = fields + params + b"".join(chunks)
    index = {"sections": [len(data)] if data else [], "tensors": [entry], **more.get("about", {})}
    return assemble(index, [data] if data else [])


def activations(content: bytes, kind: Any = "activations", critical: bool = True, times: int = 1) -> bytes:
    """A file whose activations are `content`, as stored."""
    return kept(sections=[[len(content), kind, critical]] * times, contents=[content] * times)


def attached(name: str) -> bytes:
    """A file from a folder with an attachment of that name."""
    packed = zstd(b"abc")
    data = b"\0" * 8 + packed
    index = {"sections": [len(data)], "tensors": [["a", [2], "f32", "f32", "r", 0, 8]]}
    layout = {"layout": {"shards": {"model.safetensors": ["a"]}}}
    return assemble({**index, "files": {name: [len(packed), 3]}, **layout}, [data])


def raw_index(text: bytes) -> bytes:
    """A file with this index and the eight bytes of a tensor."""
    return assemble(text, [b"\0" * 8])


def indexed(members: str = "") -> bytes:
    """An index of one tensor with further members, as text."""
    return ('{"sections":[8],"tensors":[["a",[2],"f32","f32","r",0,8]]' + members + "}").encode()


def varint(value: int) -> bytes:
    low = b""
    while value > 127:
        low, value = low + bytes([value & 127 | 128]), value >> 7
    return low + bytes([value])


def honest() -> bytes:
    """An ordinary file of about 1 kB."""
    data = bytes(range(256)) * 2
    return kept(data + HALF, shape=(129,), provenance={"method": "rtn"})


CONSTANT = b"\x80\x02"  # every code is 1
TRELLIS = b"\x10\x00\x00\x00\x00"  # one symbol, two tables
TRELLIS_CHUNK = b"\0" + STATE
ACTIVATION = zstd(b'{"conv":["integers",0.5,[0,3]]}')
TWO = struct.pack("<2f", 0.5, 0.25)


def grouped(shape: Any, size: int, scales: Any, count: int) -> bytes:
    grid = {"kind": "uniform", "group_size": size, "scale": ["f32", scales]}
    return quantised(shape, b"\x80\x02", grid=grid, fields=HALF * count)


def uniform(field: list[Any], **more: Any) -> dict[str, Any]:
    return {"kind": "uniform", "scale": field, **more}


def codebook(shape: list[int], dtype: str = "f32", **more: Any) -> dict[str, Any]:
    return {"kind": "codebook", "values": [dtype, shape], **more}


def pointed(zero: list[Any], fields: bytes, params: bytes) -> bytes:
    grid = {"kind": "uniform", "scale": ["f32", []], "zero_point": zero}
    return quantised([3], params, kind="i32", grid=grid, fields=HALF + fields)


def nested(depth: int) -> Any:
    """Lists in lists."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value
