"""`.terse` files: the one place where the container meets tensors."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypedDict

import torch
from torch import Tensor

from .. import codec
from ..core.activation import Activation
from ..core.fields import check_names, check_value
from ..core.grid import Codebook, FixedPoint, Grid, Uniform
from ..core.levels import Integers, Points
from ..core.model import CompressedModel, Entry, Item, KeptTensor, ProvenanceNote, QTensor, TensorSpec
from ..errors import UsageError
from .atomic import replacing_file
from .boundary import reading
from .layout import CONSTANT_BYTES, GRIDS, RAW_BYTES, ZSTD_BYTES, Field, Record
from .reader import Reader, stored_batch_norm
from .strict import check_bools, check_codes, check_fields
from .writer import Writer, compress, writing

Effort = Literal["fast", "best"]


class Writing(TypedDict, total=False):
    """How a file is written: whether what is there may be replaced (not if absent), the coder's effort ("fast")."""

    overwrite: bool
    effort: str


DTYPES = {
    "f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16,
    "f8e4m3": torch.float8_e4m3fn, "f8e5m2": torch.float8_e5m2, "i64": torch.int64, "i32": torch.int32,
    "i16": torch.int16, "i8": torch.int8, "u64": torch.uint64, "u32": torch.uint32, "u16": torch.uint16,
    "u8": torch.uint8, "bool": torch.bool, "c64": torch.complex64, "c128": torch.complex128,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
KINDS: dict[str, type[Grid]] = {"uniform": Uniform, "codebook": Codebook, "fixed": FixedPoint}


def check_writing(writing: Writing) -> None:
    """**Raises** `UsageError` for other names than those of `Writing`, and for an effort that the coder does not have."""
    check_names("writing a file has no option", writing, Writing.__annotations__)
    check_value("effort", Effort, writing.get("effort", "fast"))


def save(model: CompressedModel, path: str | Path, *, overwrite: bool = False, effort: str = "fast") -> int:
    """Write `model` to `path` and return the file's size in bytes.

    **Raises** `OutputError` if `path` exists (without `overwrite`), cannot be written, or could not be read again; then
    nothing has changed.
    """
    if not isinstance(model, CompressedModel):
        raise UsageError(f"got a {type(model).__name__}: expected what compress, freeze or load return")
    pieces = itertools.chain(model.tensors.items(), model.activations.items())
    return write(path, pieces, model, overwrite=overwrite, effort=effort)


def write(
    path: str | Path,
    pieces: Iterable[Item],
    envelope: CompressedModel,
    *,
    overwrite: bool = False,
    effort: str = "fast",
) -> int:
    """Write tensors and activations as they come, and everything else from `envelope`; return the file's size in
    bytes."""
    check_value("effort", Effort, effort)
    with replacing_file(path, overwrite=overwrite) as stream:
        return _write(stream, pieces, envelope, effort)


def measure(pieces: Iterable[Item], envelope: CompressedModel) -> int:
    """The size in bytes of the file that `write` would make, one tensor in memory at a time.

    `pieces` may be a part of the model, which no reader would take: tied names lack their tensors then.
    """
    return _write(_Nowhere(), pieces, envelope, "fast", check=False)


def stored_size(entry: KeptTensor) -> int:
    """The bytes that a kept tensor takes in a file."""
    return _kept("", entry)[0].stored_size


class _Nowhere(RawIOBase):
    """A stream that forgets."""

    def write(self, data: Any) -> int:
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return offset


def load(path: str | Path, *, max_output: int | None = None) -> CompressedModel:
    """Open the file at `path`: its tensors are decoded each time they are asked for.

    **Raises** `FormatError` for a damaged or foreign file, `VersionError` for a newer one, `SizeLimitError` if it
    claims to hold more than `max_output` bytes (default: the larger of 256 MiB and 250 times its size).
    """
    with reading(path, "index"):
        return _opened(Reader(path, max_output))


def _opened(reader: Reader) -> CompressedModel:
    about = reader.index.about
    specs = {n: TensorSpec(torch.Size(r.shape), DTYPES[r.dtype]) for n, r in reader.index.records.items()}
    return CompressedModel(
        LazyTensors(reader),
        aliases=about["aliases"],
        provenance=about["provenance"],
        layout=about["layout"],
        attachments={name: reader.file(name) for name in reader.index.files},
        batch_norm=reader.batch_norm,
        known_specs=specs,
        activations={
            path: Activation(Integers(*numbers) if plain else Points(tuple(numbers)), scale)
            for path, (scale, numbers, plain) in reader.activations().items()
        },
    )


class LazyTensors(Mapping[str, Entry]):
    """The tensors of an open file; every access decodes anew."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.path = reader.path

    def __getitem__(self, name: str) -> Entry:
        record = self._reader.index.records[name]
        with reading(self.path, f"tensor {name!r}"):
            return _read_quantised(self._reader, record) if record.grid else _read_kept(self._reader, record)

    def __iter__(self) -> Iterator[str]:
        return iter(self._reader.index.records)

    def __len__(self) -> int:
        return len(self._reader.index.records)


def _write(
    stream: BinaryIO | RawIOBase, pieces: Iterable[Item], envelope: CompressedModel, effort: str, *, check: bool = True
) -> int:
    writer = Writer(stream)
    activations: dict[str, Any] = {}
    findings: dict[str, Any] = {}
    for name, piece in pieces:
        if isinstance(piece, Activation):
            activations[name] = described(piece)
        elif isinstance(piece, ProvenanceNote):
            findings[name] = piece.facts
        else:
            writer.add(*(_quantised(name, piece, effort) if isinstance(piece, QTensor) else _kept(name, piece)))
    for name in sorted(envelope.attachments):
        writer.add_file(name, envelope.attachments[name])
    if activations:
        writer.add_activations(activations)
    about = {
        "aliases": dict(envelope.aliases),
        "provenance": {**envelope.provenance, **findings},
        "layout": dict(envelope.layout),
        "batch_norm": stored_batch_norm(envelope.batch_norm),
    }
    return writer.close(about, check=check)


def described(piece: Activation) -> list[Any]:
    """An activation as JSON: kind of levels, scale, levels."""
    if isinstance(piece.levels, Integers):
        return ["integers", piece.scale, [piece.levels.low, piece.levels.high]]
    return ["points", piece.scale, list(piece.levels.values)]


def _quantised(name: str, entry: QTensor, effort: str) -> tuple[Record, list[bytes]]:
    codes = entry.codes.contiguous().numpy()
    matrix = codes.reshape(len(codes), -1) if codes.ndim > 1 and codes.size else codes
    encoded = codec.encode(matrix, effort=effort)
    kind = next(kind for kind, grid in KINDS.items() if isinstance(entry.grid, grid))
    members: dict[str, Any] = {key: value for key, value in vars(entry.grid).items() if value is not None}
    parts = {key: _bytes(members[key]) for key in GRIDS[kind] if key in members}
    record = Record(
        name,
        tuple(entry.shape),
        NAMES[entry.dtype],
        kind,
        {key: value for key, value in members.items() if key not in parts},
        {key: Field(NAMES[members[key].dtype], tuple(members[key].shape)) for key in parts},
        NAMES[entry.codes.dtype],
        encoded.coder,
        len(encoded.params),
        tuple(map(len, encoded.chunks)),
        encoded.chunk_symbols,
    )
    fields = list(parts.values())
    with writing(name):
        check_fields(record, fields)
        check_codes(record, fields, _ends(record, entry.codes))
    return record, [*fields, encoded.params, *encoded.chunks]


def _kept(name: str, entry: KeptTensor) -> tuple[Record, list[bytes]]:
    data, size = _bytes(entry.tensor), entry.tensor.element_size()
    storage = RAW_BYTES
    if len(data) > size and data == data[:size] * (len(data) // size):
        storage, data = CONSTANT_BYTES, data[:size]
    elif len(packed := compress(data)) < len(data):
        storage, data = ZSTD_BYTES, packed
    stored = NAMES[entry.tensor.dtype]
    record = Record(
        name,
        tuple(entry.shape),
        NAMES[entry.dtype],
        reason=entry.reason,
        stored=stored,
        storage=storage,
        stored_size=len(data),
    )
    if entry.tensor.dtype == torch.bool:
        with writing(name):
            check_bools(record, _bytes(entry.tensor))
    return record, [data]


def _read_quantised(reader: Reader, record: Record) -> QTensor:
    parts, found = reader.decoded(record, codec.decode)
    codes = torch.from_numpy(found).reshape(record.shape)
    reader.check_codes(record, parts, _ends(record, codes))
    members: dict[str, Any] = {
        name: _tensor(data, part.dtype, part.shape)
        for (name, part), data in zip(record.fields.items(), parts, strict=True)
    }
    return QTensor(codes, KINDS[record.grid](**members | record.scalars), DTYPES[record.dtype])


def _read_kept(reader: Reader, record: Record) -> KeptTensor:
    one = record.storage == CONSTANT_BYTES and record.count > 0
    tensor = _tensor(reader.kept(record), record.stored, (1,) if one else record.shape)
    if one:
        tensor = tensor.repeat(record.count)
    return KeptTensor(tensor.reshape(record.shape), DTYPES[record.dtype], record.reason)


def _ends(record: Record, codes: Tensor) -> tuple[int, int] | None:
    """The lowest and the highest code, if there are codes and not every integer is right for the grid."""
    limited = record.grid == "codebook" or "zero_point" in record.fields
    return (int(codes.min()), int(codes.max())) if limited and codes.numel() else None


def _bytes(tensor: Tensor) -> bytes:
    raw: bytes = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return raw


def _tensor(data: bytes, dtype: str, shape: tuple[int, ...]) -> Tensor:
    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    return raw.view(DTYPES[dtype]).reshape(shape)
