"""`.terse` files: the one place where the container meets tensors."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypedDict

import torch
from torch import Tensor

from .. import codec
from ..core import blocks as core_blocks
from ..core import grid as core_grids
from ..core.activation import Activation
from ..core.fields import check_names, check_value
from ..core.levels import Integers, Points
from ..core.model import CompressedModel, Entry, Item, KeptTensor, ProvenanceNote, QTensor, TensorSpec
from ..errors import UsageError
from .atomic import replacing_file
from .boundary import reading
from .grids import GRIDS, check_codes, check_fields, ends_of, kind_of
from .nowhere import Nowhere
from .packed_folder import names_folder, unpacked, write_packed
from .reader import Reader, stored_batch_norm
from .records import CONSTANT_BYTES, RAW_BYTES, ZSTD_BYTES, Array, Coded, Field, Record, matrix
from .strict import check_bools, one_of
from .writer import Writer, compress, writing

Effort = Literal["fast", "best"]


class Writing(TypedDict, total=False):
    """How a file is written: whether what is there may be replaced (not if absent), the coder's effort ("fast"),
    whether it is measured where it can be (yes), and `card_fields`, what only the user knows about it."""

    overwrite: bool
    effort: str
    measured: bool
    card_fields: Mapping[str, str]


DTYPES = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f8e4m3": torch.float8_e4m3fn,
    "f8e5m2": torch.float8_e5m2,
    "i64": torch.int64,
    "i32": torch.int32,
    "i16": torch.int16,
    "i8": torch.int8,
    "u64": torch.uint64,
    "u32": torch.uint32,
    "u16": torch.uint16,
    "u8": torch.uint8,
    "bool": torch.bool,
    "c64": torch.complex64,
    "c128": torch.complex128,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def check_writing(writing: Writing) -> None:
    """**Raises** `UsageError` for other names than those of `Writing`, and for an effort that there is not."""
    check_names("writing a file has no option", writing, Writing.__annotations__)
    check_value("effort", Effort, writing.get("effort", "fast"))
    check_card_fields(writing.get("card_fields", {}))


def check_card_fields(given: Mapping[str, str]) -> None:
    """**Raises** `UsageError` for what is no field of a card."""
    for name, value in given.items():
        texts = isinstance(name, str) and isinstance(value, str)
        if not (texts and 0 < len(name) <= 100 and (name + value).encode(errors="replace").decode() == name + value):
            raise UsageError(f"card_fields has {name!r:.120}: {value!r:.120}; names (up to 100 characters) and texts")


def save(model: CompressedModel, path: str | Path, *, overwrite: bool = False, effort: str = "fast") -> int:
    """Write `model` to `path` and return the file's size in bytes. A path that ends in a slash is a folder for
    transformers: the model must come from one.

    **Raises** `OutputError` if `path` exists (without `overwrite`), cannot be written, or could not be read again; then
    nothing has changed.

    >>> model = CompressedModel({"bias": KeptTensor(torch.ones(2), torch.float32, "bias")})
    >>> size = save(model, "net.terse")
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
    bytes (where `path` names a folder, that of the container in it)."""
    check_value("effort", Effort, effort)
    if names_folder(path):
        return write_packed(path, pieces, envelope, partial(_write, effort=effort), overwrite=overwrite)
    with replacing_file(path, overwrite=overwrite) as stream:
        return _write(stream, pieces, envelope, effort)


def measure(pieces: Iterable[Item], envelope: CompressedModel) -> int:
    """The size in bytes of the file that `write` would make, one tensor in memory at a time.

    `pieces` may be a part of the model, which no reader would take: tied names lack their tensors then.
    """
    return _write(Nowhere(), pieces, envelope, "fast", check=False)


def stored_size(entry: KeptTensor) -> int:
    """The bytes that a kept tensor takes in a file."""
    return _kept("", entry)[0].stored_size


def load(path: str | Path, *, max_output: int | None = None) -> CompressedModel:
    """Open the file, or the compressed folder, at `path`: its tensors are decoded each time they are asked for.

    **Raises** `FormatError` for a damaged or foreign file, `VersionError` for a newer one, `SizeLimitError` if it
    claims to hold more than `max_output` bytes (default: the larger of 256 MiB and 250 times its size).
    """
    with reading(path, "index"):
        model = _opened(Reader(path, max_output))
    return unpacked(Path(path), model) if Path(path).is_dir() else model


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
        results=reader.results(),
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
    if envelope.results is not None:
        writer.add_results(envelope.results)
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
    kind = kind_of(entry.grid)
    row, members = GRIDS[kind], {key: value for key, value in vars(entry.grid).items() if value is not None}
    tensors: dict[str, Tensor] = {key: members.pop(key) for key in row.fields if key in members}
    fields: dict[str, Field | Coded] = {}
    parts: list[bytes] = []
    effort = "best" if row.thorough else effort
    with writing(name):
        for key, tensor in tensors.items():
            fields[key] = Field(one_of(NAMES[tensor.dtype], row.fields[key].dtypes, key), tuple(tensor.shape))
        arrays = {key: part.array(_bytes(tensors[key])) for key, part in fields.items()}
        split = row.split(entry.codes.contiguous().numpy(), arrays, members)
    for key, array in arrays.items():
        if row.fields[key].coded:
            fields[key] = _coded(array, effort, parts)
        else:
            parts.append(array.tobytes())
    codes = tuple(_coded(array, effort, parts) for array in split)
    record = Record(name, tuple(entry.shape), NAMES[entry.dtype], kind, members, fields, codes)
    with writing(name):
        check_fields(record, arrays)
        check_codes(record, arrays, lambda number: ends_of(split[number]))
    return record, parts


def _coded(array: Array, effort: str, parts: list[bytes]) -> Coded:
    """What the index says of an array of integers, whose bytes are appended to `parts`."""
    stream = codec.encode(array, effort=effort)
    parts += [stream.params, *stream.chunks]
    return Coded.of(stream, matrix(array.shape), f"{array.dtype.kind}{8 * array.itemsize}")


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
            check_bools(name, _bytes(entry.tensor))
    return record, [data]


def _read_quantised(reader: Reader, record: Record) -> QTensor:
    fields, codes = reader.codes(record)
    members: dict[str, Any] = {
        name: _tensor(array.tobytes(), record.fields[name].dtype, array.shape) for name, array in fields.items()
    }
    named = GRIDS[record.grid].grid
    grid = (getattr(core_grids, named, None) or getattr(core_blocks, named))(**members, **record.integers)
    return QTensor(torch.from_numpy(codes), grid, DTYPES[record.dtype])


def _read_kept(reader: Reader, record: Record) -> KeptTensor:
    one = record.storage == CONSTANT_BYTES and record.count > 0
    tensor = _tensor(reader.kept(record), record.stored, (1,) if one else record.shape)
    if one:
        tensor = tensor.repeat(record.count)
    return KeptTensor(tensor.reshape(record.shape), DTYPES[record.dtype], record.reason)


def _bytes(tensor: Tensor) -> bytes:
    if not tensor.numel():  # some of these cannot be viewed as bytes
        return b""
    raw: bytes = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return raw


def _tensor(data: bytes, dtype: str, shape: tuple[int, ...]) -> Tensor:
    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    return raw.view(DTYPES[dtype]).reshape(shape)
