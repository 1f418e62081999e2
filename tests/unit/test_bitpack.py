import numpy as np
import pytest

from tersenet.codec.bitpack import pack, unpack


@pytest.mark.parametrize("width", [0, 1, 2, 3, 5, 8, 13, 32])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 1000])
def test_packing_is_an_exact_inverse_at_the_stated_size(width: int, count: int) -> None:
    symbols = np.random.default_rng(0).integers(0, 2**width, count, dtype=np.uint64).astype(np.uint32)
    data = pack(symbols, width)
    assert len(data) == (count * width + 7) // 8
    assert np.array_equal(unpack(data, count, width), symbols)


def test_packed_bytes_are_golden() -> None:
    assert pack(np.array([1, 2, 3, 4, 5], np.uint32), 3).hex() == "d158"


def test_short_data_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected 4"):
        unpack(b"abc", 8, 4)
