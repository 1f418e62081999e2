"""Context mixing: the same bytes on every path, below the other coders where there is structure, and nothing a hostile
stream can do."""

import random
from dataclasses import replace

import numpy as np
import pytest
import xxhash

from tersenet import codec
from tersenet.codec import coder, mixing
from tersenet.codec.mixed import Cm, _layout
from tersenet.codec.native import native
from tersenet.codec.stream import CodecError, Stream
from tersenet.verifier.codes import decode as second_reader

RNG = np.random.default_rng(3)


def kernels(rows: int, channels: int, size: int, spread: float = 1.5) -> np.ndarray:
    """Codes like those of a convolution: smooth kernels, channels of different strength, dead rows and columns."""
    smooth = RNG.standard_normal((rows, channels, size, size)) + RNG.standard_normal((rows, channels, 1, 1))
    scale = np.exp(RNG.standard_normal((rows, 1, 1, 1)) + RNG.standard_normal((1, channels, 1, 1)))
    codes = np.round(smooth * scale * spread / 2)
    codes[RNG.random(rows) < 0.1] = 0
    codes[:, RNG.random(channels) < 0.1] = 0
    return codes.clip(-127, 127).astype(np.int8)


ARRAYS = {
    "kernels": kernels(16, 12, 3),
    "lines": kernels(8, 6, 5, 4)[:, :, :2],
    "matrix": np.round(RNG.standard_normal((40, 50)) * np.exp(RNG.standard_normal((40, 1)))).astype(np.int8),
    "vector": np.cumsum(RNG.integers(-1, 2, 700)).astype(np.int16),
    "sparse": (RNG.standard_normal((60, 40)) * 3 * (RNG.random((60, 40)) < 0.03)).astype(np.int8),
    "wide": np.round(RNG.standard_t(1.5, (20, 30)) * 900).clip(-(2**30), 2**30).astype(np.int32),
    "signs": RNG.choice([-1, 1], (30, 20)).astype(np.int8),
    "levels": RNG.binomial(15, 0.3, (25, 30)).astype(np.int8),
    "one row": RNG.binomial(3, 0.2, (1, 300)).astype(np.int8),
}


def mixed(codes: np.ndarray, chunk_symbols: int = 1 << 20) -> Stream:
    """`codes` by this coder, whether or not another is better."""
    flat = np.ascontiguousarray(codes).reshape(-1)
    values, counts = np.unique(flat, return_counts=True)
    numbers = coder.Numbers(codes, flat, values, counts, codes.shape, chunk_symbols, "best", codec.encode)
    offer = Cm().offer(numbers, coder.Offer(1 << 60, lambda: Stream(0, b"", (b"\0" * (1 << 24),), 1, 1)))
    assert offer is not None
    return offer.stream


@pytest.mark.parametrize("chunk", [1 << 20, 333], ids=["one chunk", "many chunks"])
@pytest.mark.parametrize("name", ARRAYS)
def test_reader_reference_and_native_agree_on_every_integer_and_byte(name: str, chunk: int) -> None:
    codes = ARRAYS[name]
    stream = mixed(codes, chunk)
    assert stream.coder == 4 and np.array_equal(codec.decode(stream, codes.shape, codes.dtype), codes)
    kind = f"i{8 * codes.itemsize}"
    read = second_reader(4, stream.params, list(stream.chunks), chunk, list(codes.shape), kind)
    assert read.tolist() == codes.reshape(-1).tolist()
    layout, center = _layout(codes.shape, stream.params[0]), int(codes.reshape(-1)[0]) - decoded_first(stream)
    parts = [codes.reshape(-1)[at : at + chunk].astype(np.int32) - center for at in range(0, codes.size, chunk)]
    starts = [chunk * i for i in range(len(parts))]
    assert [mixing.encode(part, start, layout) for part, start in zip(parts, starts, strict=True)] == list(
        stream.chunks
    )
    for part, start, data in zip(parts, starts, stream.chunks, strict=True):
        assert np.array_equal(mixing.decode(data, len(part), start, layout), part)


def decoded_first(stream: Stream) -> int:
    """The first integer before the center is added."""
    chunks = Cm().open(stream.params)
    return int(chunks.decode(stream.chunks[0], 0, stream.chunk_count(0), np.dtype(np.int64))[0]) - chunks.center


def test_the_bytes_of_a_stream_are_a_promise() -> None:
    codes = ((np.arange(4 * 6 * 9) * 7919 % 101) ** 2 % 23 // 3 - 3).astype(np.int8).reshape(4, 6, 3, 3)
    stream = mixed(codes)
    digest = xxhash.xxh3_64_hexdigest(stream.params + b"".join(stream.chunks))
    assert (stream.params.hex(), stream.size, digest) == GOLDEN


GOLDEN = ("0200360903", 77, "8aa8651e609cf364")


def test_structure_is_coded_far_below_what_tables_reach() -> None:
    codes = kernels(64, 48, 3)
    assert codec.encode(codes, effort="best").size < 0.85 * codec.encode(codes, effort="fast").size


def test_chunks_that_decode_alone_cost_at_most_half_a_percent() -> None:
    codes = kernels(160, 100, 3)
    assert mixed(codes, 1 << 16).size <= 1.005 * mixed(codes).size * (1 + (codes.size >> 16) / 50)


def test_dead_rows_are_hardly_any_bytes() -> None:
    codes = np.zeros((2_000, 500), np.int8)
    codes[7, 3] = 1
    assert mixed(codes).size <= 40


@pytest.mark.parametrize("name", ARRAYS)
def test_damage_is_an_error_or_other_integers(name: str) -> None:
    codes, draw = ARRAYS[name], random.Random(1)
    stream = mixed(codes)
    data = stream.chunks[0]
    damaged = [data[:-1], data + b"\0", data + b"\1", b"", data[: len(data) // 2]]
    for _ in range(60):
        changed = bytearray(data)
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        damaged.append(bytes(changed))
    refused = 0
    for each in damaged:
        try:
            found = codec.decode(replace(stream, chunks=(each,)), codes.shape, codes.dtype)
            assert not np.array_equal(found, codes)
        except CodecError:
            refused += 1
    assert refused >= 5


REFUSED = """00 20000101 2000010101
    0100000101 0100010001 0100010100 0100030201 01000404 0100040403 010004040100 0100818040010101
    0100"""


@pytest.mark.parametrize("params", REFUSED.split())
def test_parameters_that_no_encoder_writes_are_refused(params: str) -> None:
    with pytest.raises(CodecError):
        codec.decode(Stream(4, bytes.fromhex(params), (b"\0",), 1 << 20, 4), (2, 2))


@pytest.mark.skipif(native() is None, reason="no native module")
def test_the_native_coder_checks_what_it_is_given() -> None:
    module, out = native(), np.zeros(4, np.int32)
    for layout in (
        (0, 1, 1, 3),
        (4, 3, 1, 3),
        (4, 0, 1, 3),
        (4, 2, 0, 3),
        (1 << 21, 1, 1, 3),
        (4, 1, 1, 0),
        (4, 1, 1, 32),
    ):
        with pytest.raises(ValueError):
            module.mix_decode(b"abcdefgh", 0, *layout, out)
    with pytest.raises(ValueError, match="more bits"):
        module.mix_encode(np.array([4], np.int32), 0, 1, 1, 1, 2)
    with pytest.raises(ValueError, match="64 bits"):
        module.mix_decode(b"", (1 << 64) - 2, 4, 1, 1, 3, out)
