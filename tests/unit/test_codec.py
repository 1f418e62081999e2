"""Decoding gives back exactly the integers; every path writes the same bytes; damage is an error, never a crash."""

import contextlib
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersenet import codec
from tersenet.codec import kernels, native, rans, table, trellis
from tersenet.codec.classes import Classes
from tersenet.codec.packed import Raw, Zstd
from tersenet.codec.symbols import constant_params, parse
from tersenet.codec.windows import Rans

RNG = np.random.default_rng(0)
MODULE = native.native()
ISAS = ["reference"] + (["scalar"] if MODULE else [])
ISAS += [
    isa
    for isa in ("avx2", "avx512")
    if MODULE and isa <= {"avx512": "avx512", "avx2": "avx2"}.get(MODULE.best_isa(), "")
]


def gauss(count: int, width: float, kind: type = np.int16) -> np.ndarray:
    return np.round(RNG.standard_normal(count) * width).astype(kind)


def path(rows: int, columns: int, plain: bool, outlier: int = 0) -> np.ndarray:
    """A matrix whose columns are a path of the trellis."""
    ks, state, codes = np.round(RNG.standard_normal(rows * columns)).astype(int), 0, []
    ks[len(ks) // 2] += outlier
    for k in ks.tolist():
        codes.append(trellis.code_of(k, state & 1, plain))
        state = trellis.NEXT[state][k & 1]
    return np.array(codes, np.int32).reshape(columns, rows).T


ARRAYS = {
    "empty": np.zeros(0, np.int8),
    "one": np.array([5], np.int32),
    "two": np.array([-128, 127], np.int8),
    "constant": np.full(1000, -3, np.int16),
    "extremes": np.array([-(2**31), 2**31 - 1, 0, 5], np.int32),
    "4 bit": np.clip(gauss(70_000, 2.5), -7, 7).astype(np.int8),
    "8 bit": np.clip(gauss(20_000, 40), -127, 127).astype(np.int8),
    "16 bit": gauss(3_000, 6000),
    "heavy tail": np.round(RNG.standard_t(1.5, 20_000) * 2).clip(-30_000, 30_000).astype(np.int16),
    "ternary": RNG.integers(-1, 2, 10_001).astype(np.int8),
    "five levels": np.repeat(gauss(5_000, 0.8, np.int8), 2)[:9_999],
    "sparse": (RNG.random(30_000) < 0.01).astype(np.int8) * RNG.integers(-4, 5, 30_000).astype(np.int8),
    "wide among zeros": gauss(30_000, 6000) * (RNG.random(30_000) < 0.05),
    "every magnitude": np.concatenate([[0], s := 2 ** np.arange(31), -s, 3 - 2 * s, [-(2**31)]])
    .repeat(9)
    .astype(np.int32),
    "flat": RNG.integers(0, 16, 5_000).astype(np.int8),
    "large": np.clip(gauss(300_000, 1.5), -7, 7).astype(np.int8),
    "matrix": gauss(40 * 90, 3).reshape(40, 90),
    "trellis zero": path(64, 100, False),
    "trellis plain": path(32, 300, True, outlier=60),
}


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TERSENET_ISA", request.param)
    native.native.cache_clear()
    yield request.param
    monkeypatch.undo()
    native.native.cache_clear()


@pytest.mark.parametrize("effort", ["fast", "best"])
@pytest.mark.parametrize("chunk", [1 << 20, 777], ids=["one chunk", "many chunks"])
@pytest.mark.parametrize("name", ARRAYS)
def test_decoding_gives_back_exactly_the_integers(name: str, chunk: int, effort: str, isa: str) -> None:
    codes = ARRAYS[name]
    most = 1_500 if effort == "best" else 100_000
    if isa == "reference" and codes.size > most:
        codes = codes.reshape(-1)[:most]
    stream = codec.encode(codes, effort=effort, chunk_symbols=chunk)
    back = codec.decode(stream, codes.shape, codes.dtype)
    assert np.array_equal(back, codes) and back.dtype == codes.dtype and back.shape == codes.shape


@pytest.mark.skipif(MODULE is None, reason="no native module to compare")
@pytest.mark.parametrize("name", ARRAYS)
def test_native_and_reference_write_the_same_bytes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = codec.encode(ARRAYS[name])
    monkeypatch.setenv("TERSENET_ISA", "reference")
    native.native.cache_clear()
    try:
        assert codec.encode(ARRAYS[name]) == ours
    finally:
        monkeypatch.undo()
        native.native.cache_clear()


GOLDEN = [
    ("raw", np.array([3, -1, 2, 0, 1, 3, -1], np.int8), Raw.id, "0301", "c42202"),
    ("constant", np.full(9, 7, np.int8), Rans.id, "800e", ""),
]


@pytest.mark.parametrize(("name", "codes", "coder", "params", "chunk"), GOLDEN, ids=[g[0] for g in GOLDEN])
def test_small_streams_have_golden_bytes(name: str, codes: np.ndarray, coder: int, params: str, chunk: str) -> None:
    stream = codec.encode(codes)
    assert (stream.coder, stream.params.hex(), b"".join(stream.chunks).hex()) == (coder, params, chunk)


def test_wide_values_among_zeros_take_little_more_than_their_places_and_their_bits() -> None:
    codes = ARRAYS["wide among zeros"]
    share, wide = (codes != 0).mean(), int((codes != 0).sum())
    places = -len(codes) * (share * np.log2(share) + (1 - share) * np.log2(1 - share)) / 8
    stream = codec.encode(codes)
    assert stream.coder == Classes.id
    assert stream.size < 1.03 * (places + wide * (np.log2(6000) + np.log2(2 * np.pi * np.e) / 2) / 8) + 60


def test_malformed_classes_are_refused() -> None:
    good = codec.encode(ARRAYS["wide among zeros"])
    assert good.coder == Classes.id
    (chunk,) = good.chunks
    for wrong in (chunk[:-1], chunk + b"\0", b"", b"\xff\xff\x7f" + chunk[2:], chunk[:1000]):
        with pytest.raises(codec.CodecError):
            codec.decode(replace(good, chunks=(wrong,)), (good.count,), np.int16)
    for params in (b"", constant_params(3), codec.encode(ARRAYS["trellis zero"]).params):
        with pytest.raises(codec.CodecError):
            codec.decode(replace(good, params=params), (good.count,), np.int16)
    with pytest.raises(codec.CodecError, match="fit"):
        codec.decode(good, (good.count,), np.int8)


def test_a_rans_stream_has_golden_bytes() -> None:
    codes = np.array([0, 0, 1, 0, -1, 0, 0, 2, 0, 0, 0, -1, 1, 0, 0, 0] * 8, np.int8)
    stream = codec.encode(codes)
    assert (stream.coder, stream.params.hex()) == (Rans.id, "0003018cc040")
    assert b"".join(stream.chunks).hex() == "cd4b4cc71ab1ab962ee7609d1f505fea19555fd7edab3dd5"


@pytest.mark.parametrize("name", ["4 bit", "8 bit", "large", "trellis zero", "ternary"])
def test_the_size_is_within_one_percent_of_the_order_zero_entropy(name: str) -> None:
    codes = ARRAYS[name]
    counts = np.unique(codes, return_counts=True)[1]
    entropy = -(counts * np.log2(counts / codes.size)).sum() / 8
    assert codec.encode(codes).size <= 1.01 * entropy + 24


def test_equiprobable_codes_do_not_shrink_and_a_constant_costs_a_few_bytes() -> None:
    assert codec.encode(ARRAYS["flat"]).size >= ARRAYS["flat"].size // 2
    assert codec.encode(np.full(10**6, -5, np.int32)).size <= 4


def test_neighbours_that_go_together_are_coded_below_the_order_zero_entropy() -> None:
    codes = np.repeat(RNG.integers(-1, 2, 4_000), 3).astype(np.int8)
    assert codec.encode(codes).size < 0.5 * codes.size * np.log2(3) / 8


def test_a_trellis_path_is_coded_by_its_indices() -> None:
    codes = path(64, 200, False)
    stream = codec.encode(codes)
    assert parse(stream.params).trellis
    near_miss = codes.copy()
    near_miss[5, 3] += 1
    assert not parse(codec.encode(near_miss).params).trellis
    assert stream.size < codec.encode(near_miss).size


@pytest.mark.parametrize("name", ["4 bit", "8 bit", "heavy tail", "ternary", "constant", "flat", "16 bit"])
@pytest.mark.parametrize("run", [1, 7, 100, 70_000])
def test_decoding_to_fp32_rounds_every_operation_on_its_own(run: int, name: str, isa: str) -> None:
    codes = ARRAYS[name]
    scale = RNG.random(13).astype(np.float32) + np.float32(0.1)
    zero, offset = RNG.integers(-3, 3, 13).astype(np.int32), RNG.standard_normal(13).astype(np.float32)
    unit = np.arange(len(codes)) // run % 13
    expected = (codes - zero[unit]).astype(np.float32) * scale[unit] + offset[unit]
    values = codec.decode_uniform(codec.encode(codes, chunk_symbols=30_011), scale, zero, offset, run)
    assert np.array_equal(values, expected)


@pytest.mark.parametrize("name", ["4 bit", "8 bit", "heavy tail", "ternary", "constant", "flat"])
@pytest.mark.parametrize(("run", "columns"), [(1, 1), (35, 35), (36, 4), (7_000, 7), (70_000, 70_000)])
def test_decoding_to_fp32_multiplies_by_the_factor_of_the_column_last(
    run: int, columns: int, name: str, isa: str
) -> None:
    codes = ARRAYS[name]
    scale, factor = RNG.random(13).astype(np.float32), RNG.random(columns).astype(np.float32) + np.float32(0.1)
    zero, offset = RNG.integers(-3, 3, 13).astype(np.int32), RNG.standard_normal(13).astype(np.float32)
    place = np.arange(len(codes))
    unit, column = place // run % 13, place % run // (run // columns)
    expected = ((codes - zero[unit]).astype(np.float32) * scale[unit] + offset[unit]) * factor[column]
    stream = codec.encode(codes, chunk_symbols=30_011)
    values = codec.decode_uniform(stream, scale, zero, offset, run, columns=factor)
    assert np.array_equal(values, expected)
    with pytest.raises(ValueError, match="columns"):
        codec.decode_uniform(stream, scale, zero, offset, run, columns=np.ones(run + 1, np.float32))


@pytest.mark.parametrize("name", ["4 bit", "8 bit", "ternary", "heavy tail", "trellis plain", "flat"])
def test_every_single_damage_is_an_error_or_harmless(name: str) -> None:
    codes = ARRAYS[name].reshape(-1)[:600] if ARRAYS[name].ndim == 1 else ARRAYS[name][:, :20]
    stream = codec.encode(codes)
    chunk = stream.chunks[0]
    found = 0
    for place in range(len(chunk) + len(stream.params)):
        data = bytearray(stream.params + chunk)
        data[place] ^= 1 << place % 8
        params, body = bytes(data[: len(stream.params)]), bytes(data[len(stream.params) :])
        try:
            codec.decode(codec.Stream(stream.coder, params, (body,), stream.chunk_symbols, stream.count), codes.shape)
        except codec.CodecError:
            found += 1
    assert found > 0.3 * len(chunk) or stream.coder == Raw.id
    for length in range(len(chunk)):
        with pytest.raises(codec.CodecError):
            short = codec.Stream(stream.coder, stream.params, (chunk[:length],), stream.chunk_symbols, stream.count)
            codec.decode(short, codes.shape)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([Raw.id, Rans.id, Zstd.id, 7]), st.binary(max_size=40), st.binary(max_size=200), st.integers(0, 300)
)
def test_random_bytes_never_crash_the_decoder(coder: int, params: bytes, chunk: bytes, count: int) -> None:
    for shape in ((count,), (3, count // 3)):
        stream = codec.Stream(coder, params, (chunk,), 1 << 20, int(np.prod(shape)))
        with contextlib.suppress(codec.CodecError):
            assert codec.decode(stream, shape).shape == shape


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(2**31), 2**31 - 1) | st.integers(-3, 3), max_size=300), st.integers(1, 400))
def test_any_integers_survive(values: list[int], chunk: int) -> None:
    codes = np.array(values, np.int32)
    assert np.array_equal(codec.decode(codec.encode(codes, chunk_symbols=chunk), codes.shape), codes)


@pytest.mark.parametrize("seed", range(20))
def test_alias_buckets_give_every_symbol_its_ranks_once(seed: int) -> None:
    generator = random.Random(seed)
    counts = np.array([generator.choice([0, 1, 5, 1000, 10**6]) for _ in range(generator.randint(1, 32))])
    counts[0] += 1
    freqs = table.frequencies(table.levels_of(counts))
    symbol, rank = table.slots(freqs)
    assert freqs.sum() == 4096 and ((freqs > 0) == (counts > 0)).all()
    assert sorted(zip(symbol.tolist(), rank.tolist(), strict=True)) == [
        (s, r) for s, f in enumerate(freqs.tolist()) for r in range(f)
    ]


def test_code_lengths_are_those_of_an_ideal_code_within_a_quarter_of_a_bit() -> None:
    values, counts = np.unique(ARRAYS["large"], return_counts=True)
    ideal = -np.log2(counts / counts.sum())
    assert np.abs(codec.code_lengths(values, counts) - ideal)[counts > 100].max() < 0.25


def test_states_grow_with_the_stream() -> None:
    assert [rans.states_for(n) for n in (1, 1 << 14, 1 << 16, 1 << 18)] == [1, 2, 16, 64]
    assert kernels.BINS >= 1 << 16
