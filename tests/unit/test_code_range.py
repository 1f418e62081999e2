"""Where 32 bits end, every decoder gives the same: to integers, to fp32, native and reference."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tersenet.codec import CodecError, Stream, decode, decode_chunk, decode_uniform, encode, native, rans
from tersenet.codec.stream import put_varint, zigzag
from tersenet.codec.symbols import Model
from tersenet.codec.table import frequencies
from tersenet.codec.windows import Rans

GRID = (np.ones(1, np.float32), np.zeros(0, np.int32), np.zeros(0, np.float32))
LEVELS = np.array([8, 4, 8])
SYMBOLS = np.array([1, 0, 2, 1, 1, 1, 0, 1, 2, 1] * 10, np.uint8)
CODED = rans.encode_symbols(SYMBOLS, [frequencies(LEVELS)])


@pytest.mark.parametrize("zero", [2**31 - 1, -(2**31), 5])
def test_codes_minus_zero_points_wrap_at_32_bits_like_torch_and_numpy(zero: int) -> None:
    codes = np.array([-70, 90, 3, 4] * 50, np.int8)
    grid = (np.ones(1, np.float32), np.array([zero], np.int32), np.zeros(0, np.float32))
    stream = encode(codes)
    expected = (codes.astype(np.int32) - grid[1]).astype(np.float32)
    assert stream.coder == Rans.id and np.array_equal(decode_uniform(stream, *grid, len(codes)), expected)


def model(low: int, **others: Any) -> Model:
    return Model(low, 3, levels=(LEVELS,), **others)


@pytest.mark.parametrize("low", [2**31 - 1, -(2**31) - 1, 2**40, -(2**60), 2**62])
def test_windows_beyond_the_code_type_are_the_same_error_in_every_decoder(low: int) -> None:
    stream = Stream(Rans.id, model(low).to_bytes(), (CODED,), 1 << 20, len(SYMBOLS))
    with pytest.raises(CodecError):
        decode_uniform(stream, *GRID, 7)
    with pytest.raises(CodecError):
        decode_chunk(stream, 0)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("low", [-1, -(2**31), 2**31 - 3])
@pytest.mark.parametrize("difference", [1, 2**31 - 1, -(2**31), 2**32 - 2, 2**40, -(2**61), 2**62 - 1])
def test_exceptions_at_the_end_of_the_code_type_are_the_same_in_every_decoder(
    difference: int, low: int, place: int
) -> None:
    listed = b"\1" + put_varint(place) + put_varint(zigzag(difference))
    chunk = listed + CODED
    stream = Stream(Rans.id, model(low, exceptions=True).to_bytes(), (chunk,), 1 << 20, len(SYMBOLS))
    try:
        codes = decode_chunk(stream, 0)
    except CodecError:
        with pytest.raises(CodecError):
            decode_uniform(stream, *GRID, 7)
    else:
        assert np.array_equal(decode_uniform(stream, *GRID, 7), codes.astype(np.float32))


@pytest.mark.parametrize("far", [2**30 - 5, 2**30 - 4, 2**30 - 3, 2**31])
def test_trellis_indices_at_the_end_of_the_code_type_are_the_same_in_every_decoder(
    far: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b"\0\1\0" + put_varint(zigzag(far)) + CODED
    params = model(0, exceptions=True, trellis=True)
    stream = Stream(Rans.id, replace(params, levels=(LEVELS, LEVELS)).to_bytes(), (data,), 1 << 20, len(SYMBOLS))

    def decoded() -> Any:
        try:
            return decode(stream, (10, 10)).tolist()
        except CodecError:
            return None

    ours = decoded()
    monkeypatch.setenv("TERSENET_ISA", "reference")
    native.native.cache_clear()
    try:
        assert decoded() == ours and (ours is None) == (far > 2**30 - 4)
    finally:
        monkeypatch.undo()
        native.native.cache_clear()
