"""A coder is a class and a row of the table; nothing else asks which coder wrote a stream."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tersenet import codec
from tersenet.codec import coders, decoder, encoder
from tersenet.codec.bitpack import pack, unpack
from tersenet.codec.coder import Chunks, Coder, Numbers, Offer
from tersenet.codec.stream import CodecError, Stream, get_varint, put_varint, unzigzag, zigzag
from tersenet.codec.symbols import Kind, Values, cut, fits
from tersenet.core.grid import Uniform
from tersenet.core.model import CompressedModel, QTensor
from tersenet.files.summary import verify
from tersenet.files.terse import load, save

WAVE = np.cumsum(np.random.default_rng(0).integers(-1, 2, 60_000)).reshape(300, 200).astype(np.int16)


class Steps(Coder):
    """Differences of neighbours, two bits each: from a test, for slow changes over a wide range."""

    id, name = 9, "steps"

    def offer(self, numbers: Numbers, best: Offer) -> Offer | None:
        jumps = np.diff(numbers.flat.astype(np.int64))
        if numbers.effort != "best" or np.abs(jumps).max() > 1:
            return None
        chunks = tuple(self.chunk(part) for part in cut(numbers.flat, numbers.chunk_symbols))
        offer = Offer.of(Stream(self.id, b"\2", chunks, numbers.chunk_symbols, len(numbers.flat)))
        return offer if offer.stream.size < best.stream.size else None

    def chunk(self, part: Values) -> bytes:
        steps = np.diff(part.astype(np.int64)) + 1
        return put_varint(zigzag(int(part[0]))) + pack(steps.astype(np.uint32), 2)

    def open(self, params: bytes) -> Chunks:
        if params != b"\2":
            raise CodecError("steps of another kind")
        return Stepped()


class Stepped(Chunks):
    """The chunks of `Steps`."""

    def decode(self, data: bytes, start: int, count: int, kind: Kind) -> Values:
        first, at = get_varint(data, 0)
        steps = unpack(data[at:], count - 1, 2).astype(np.int64) - 1
        values = unzigzag(first) + np.concatenate([[0], np.cumsum(steps)])
        fits(int(values.min()), int(values.max()), kind)
        return values.astype(kind)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "CODERS", (*coders.CODERS, Steps()))
    monkeypatch.setitem(coders.BY_ID, Steps.id, Steps())


def test_ids_and_names_are_a_promise() -> None:
    assert {coder.id: coder.name for coder in coders.CODERS} == {0: "raw", 1: "rans", 2: "zstd", 3: "classes", 4: "cm"}
    assert codec.coder_name(3) == "classes" and codec.coder_name(9) == "?"


def test_a_coder_that_nobody_knows_is_refused_with_a_hint() -> None:
    with pytest.raises(CodecError, match="upgrade"):
        codec.decode(Stream(9, b"\2", (b"\0",), 1 << 20, 1), (1,))


DECODERS: dict[str, Callable[[Stream], object]] = {
    "whole": lambda stream: codec.decode(stream, WAVE.shape, np.int16).tolist(),
    "chunks": lambda stream: [codec.decode_chunk(stream, i, np.int16).tolist() for i in range(len(stream.chunks))],
    "pieces": lambda stream: [part.tolist() for part in codec.pieces(stream, WAVE.shape, np.int16)],
    "extremes": lambda stream: codec.extremes(stream, WAVE.shape, np.int16),
    "fp32": lambda stream: decoder.decode_uniform(
        stream, np.ones(1, np.float32), np.zeros(0, np.int32), np.zeros(0, np.float32), 7
    ).tolist(),
}


@pytest.mark.parametrize("way", DECODERS)
@pytest.mark.parametrize("chunk", [1 << 20, 1001])
def test_a_new_coder_is_read_by_every_decoder(chunk: int, way: str, steps: None) -> None:
    ours = codec.encode(WAVE, effort="best", chunk_symbols=chunk)
    plain = codec.encode(WAVE, chunk_symbols=chunk)
    assert ours.coder == Steps.id != plain.coder and ours.size < plain.size
    assert DECODERS[way](ours) == DECODERS[way](plain)


def test_a_new_coder_is_written_to_files_and_named_by_inspect(steps: None, tmp_path: Path) -> None:
    model = CompressedModel({"a": QTensor(torch.from_numpy(WAVE), Uniform(torch.tensor(0.5)))})
    assert save(model, tmp_path / "b.terse", effort="best") < save(model, tmp_path / "f.terse")
    assert torch.equal(load(tmp_path / "b.terse").tensors["a"].codes, model.tensors["a"].codes)  # type: ignore[union-attr]
    assert verify(tmp_path / "b.terse").rows[0].coder == "steps"


def test_an_offer_is_written_once_and_only_when_it_is_asked_for() -> None:
    made = []

    def write() -> Stream:
        made.append(1)
        return Stream(0, b"", (), 1, 0)

    offer = Offer(5, write)
    assert not made and offer.stream is offer.stream and len(made) == 1
