"""`.terse` files: the one place where the container meets tensors."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .. import codec
from ..core.activation import Activation
from ..core.grid import Codebook, FixedPoint, Grid, Uniform
from ..core.levels import Integers, Points
from ..core.model import CompressedModel, Entry, Finding, KeptTensor, Piece, QTensor, TensorSpec
from .atomic import replacing_file
from .layout import ACTIVATIONS, CONSTANT_BYTES, GRIDS, RAW_BYTES, ZSTD_BYTES, Field, Record
from .reader import Reader
from .writer import Writer, compress

DTYPES = {
    "f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16,
    "f8e4m3": torch.float8_e4m3fn, "f8e5m2": torch.float8_e5m2, "i64": torch.int64, "i32": torch.int32,
    "i16": torch.int16, "i8": torch.int8, "u64": torch.uint64, "u32": torch.uint32, "u16": torch.uint16,
    "u8": torch.uint8, "bool": torch.bool, "c64": torch.complex64, "c128": torch.complex128,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
KINDS: dict[str, type[Grid]] = {"uniform": Uniform, "codebook": Codebook, "fixed": FixedPoint}


def save(model: CompressedModel, path: str | Path, *, force: bool = False, effort: str = "fast") -> int:
    """Write `model` to `path` and return the file's size in bytes.

    **Raises** `OutputError` if `path` exists (without `force`) or cannot be written; then nothing has changed.
    """
    pieces = itertools.chain(model.tensors.items(), model.activations.items())
    return write(path, pieces, model, force=force, effort=effort)


def write(
    path: str | Path,
    pieces: Iterable[Piece],
    around: CompressedModel,
    *,
    force: bool = False,
    effort: str = "fast",
) -> int:
    """Write tensors and activations as they come, and everything else from `around`; return the file's size in
    bytes."""
    with replacing_file(path, force=force) as stream:
        return _write(stream, pieces, around, effort)


def measure(pieces: Iterable[Piece], around: CompressedModel) -> int:
    """The size in bytes of the file that `write` would make, one tensor in memory at a time."""
    return _write(_Nowhere(), pieces, around, "fast")


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
    claims to hold more than `max_output` bytes (default: the larger of 1 GiB and 1000 times its size).
    """
    reader = Reader(path, max_output)
    about = reader.index.about
    specs = {n: TensorSpec(torch.Size(r.shape), DTYPES[r.dtype]) for n, r in reader.index.records.items()}
    return CompressedModel(
        LazyTensors(reader),
        aliases=about["aliases"],
        provenance=about["provenance"],
        layout=about["layout"],
        attachments={name: reader.file(name) for name in reader.index.files},
        batch_norm=about["batch_norm"] or "keep",
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

    def __getitem__(self, name: str) -> Entry:
        record = self._reader.index.records[name]
        return _read_quantised(self._reader, record) if record.grid else _read_kept(self._reader, record)

    def __iter__(self) -> Iterator[str]:
        return iter(self._reader.index.records)

    def __len__(self) -> int:
        return len(self._reader.index.records)


def _write(stream: BinaryIO | RawIOBase, pieces: Iterable[Piece], around: CompressedModel, effort: str) -> int:
    writer = Writer(stream)
    activations: dict[str, Any] = {}
    findings: dict[str, Any] = {}
    for name, piece in pieces:
        if isinstance(piece, Activation):
            activations[name] = described(piece)
        elif isinstance(piece, Finding):
            findings[name] = piece.facts
        else:
            writer.add(*(_quantised(name, piece, effort) if isinstance(piece, QTensor) else _kept(name, piece)))
    for name in sorted(around.attachments):
        writer.add_file(name, around.attachments[name])
    if activations:
        writer.add_section(ACTIVATIONS, activations)
    return writer.close(
        aliases=dict(around.aliases),
        provenance={**around.provenance, **findings},
        layout=dict(around.layout),
        batch_norm="" if around.batch_norm == "keep" else around.batch_norm,
    )


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
    return record, [*parts.values(), encoded.params, *encoded.chunks]


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
    return record, [data]


def _read_quantised(reader: Reader, record: Record) -> QTensor:
    parts, stream = reader.stream(record)
    shape = record.shape
    matrix = (shape[0], record.count // shape[0]) if len(shape) > 1 and record.count else shape
    kind = {"i8": "int8", "i16": "int16", "i32": "int32"}[record.code_type]
    try:
        codes = torch.from_numpy(codec.decode(stream, matrix, kind)).reshape(shape)
    except codec.CodecError as error:
        raise reader.broken(record.name, error) from error
    members: dict[str, Any] = {
        name: _tensor(data, part.dtype, part.shape)
        for (name, part), data in zip(record.fields.items(), parts, strict=True)
    }
    grid = KINDS[record.grid](**members | record.scalars)
    if isinstance(grid, Codebook):
        reader.need(record, codes.numel() == 0 or 0 <= int(codes.min()) <= int(codes.max()) < grid.values.shape[-1])
    return QTensor(codes, grid, DTYPES[record.dtype])


def _read_kept(reader: Reader, record: Record) -> KeptTensor:
    data = reader.kept(record)
    shape = (1,) * min(1, record.count) if record.storage == CONSTANT_BYTES else record.shape
    tensor = _tensor(data, record.stored, shape)
    if record.storage == CONSTANT_BYTES and record.count:
        tensor = tensor.repeat(record.count).reshape(record.shape)
    return KeptTensor(tensor.reshape(record.shape), DTYPES[record.dtype], record.reason)


def _bytes(tensor: Tensor) -> bytes:
    raw: bytes = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return raw


def _tensor(data: bytes, dtype: str, shape: tuple[int, ...]) -> Tensor:
    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    return raw.view(DTYPES[dtype]).reshape(shape)
