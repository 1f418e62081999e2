"""The native functions, called directly with what no caller of ours gives them: a typed error or a result, and nothing
outside the given arrays is written. `make asan` runs the same under AddressSanitizer."""

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersenet.codec import native, rans

MODULE: Any = native.native()
pytestmark = pytest.mark.skipif(MODULE is None, reason="no native module")
TABLE = [1024, 2048, 1024]
PAIRS = [455, 455, 455, 455, 456, 455, 455, 455, 455]  # two of three places in a symbol
SYMBOLS = np.array([1, 0, 2, 1, 1, 1, 0, 1, 2, 1] * 10, np.uint8)
COUNT = len(SYMBOLS)
GUARD = 64
GRID = (np.ones(1, np.float32), np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.float32))
HUGE = (2**31, 2**32, 2**61, 2**62 + 1, 2**63 - 1, 2**64 - 1, 2**64, -(2**31) - 1, -(2**63), -(2**70))


def guarded(count: int, kind: type) -> tuple[np.ndarray, Callable[[], bool]]:
    """An array between two strips, and whether the strips are still as they were."""
    whole = np.full(count + 2 * GUARD, 77, kind)
    return whole[GUARD : GUARD + count], lambda: bool(
        (whole[:GUARD] == 77).all() and (whole[GUARD + count :] == 77).all()
    )


def coded(symbols: np.ndarray = SYMBOLS, table: list[int] = TABLE, which: np.ndarray | None = None) -> bytes:
    data: bytes = MODULE.encode_symbols(symbols, [table] if which is None else [table, table], which)
    return data


def good(function: str) -> dict[str, Any]:
    """Arguments that work."""
    ones, none, ints = np.ones(3, np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32)
    arguments: dict[str, dict[str, Any]] = {
        "encode_symbols": {"symbols": SYMBOLS, "frequencies": [TABLE], "which": None},
        "decode_symbols": {"data": coded(), "frequencies": TABLE, "out": np.zeros(COUNT, np.uint8), "isa": ""},
        "decode_uniform": {
            "data": coded(), "frequencies": TABLE, "group": 1, "size": 3, "low": -1, "split": 0, "raw": b"",
            "outside": [(3, 5)], "start": 0, "run": 7, "scale": ones, "zero_point": ints, "offset": none,
            "columns": np.ones(7, np.float32), "out": np.zeros(COUNT, np.float32), "isa": "",
        },
        "decode_trellis": {
            "data": coded(), "frequencies": [TABLE, TABLE], "low": -1, "plain": False, "state": 0, "outside": [(3, 5)],
            "out": np.zeros(COUNT, np.int32),
        },
        "histogram": {"values": SYMBOLS.astype(np.int16), "low": 0, "counts": np.zeros(3, np.int64)},
        "trellis_indices": {
            "codes": np.zeros(5, np.int32), "plain": False, "indices": np.zeros(5, np.int32),
            "states": np.zeros(5, np.uint8),
        },
        "round_with_feedback": {
            "weight": np.ones((4, 6), np.float32), "scale": 0.5, "kernel": 3, "decay": 0.5,
            "alpha": np.zeros(6, np.float32), "beta": np.zeros(6, np.float32), "codes": np.zeros((4, 6), np.int32),
        },
        "pack": {"values": np.arange(9, dtype=np.uint32), "width": 4},
        "unpack": {"data": b"12345", "width": 4, "values": np.zeros(9, np.uint32)},
    }  # fmt: skip
    return arguments[function]


FUNCTIONS = ["encode_symbols", "decode_symbols", "decode_uniform", "decode_trellis", "histogram", "trellis_indices",
             "round_with_feedback", "pack", "unpack"]  # fmt: skip
TABLES = [[], [4096] * 2, [0] * 3, [2048, 2047], [1] * 33, [128] * 33, [2**32 - 1, 4097], [2**31, 2**31, 4096], [-1]]
MANY = [2**20, *[0] * (1 << 16)]

WRONG: list[tuple[str, dict[str, Any]]] = [
    *(("encode_symbols", {"frequencies": [table]}) for table in [*TABLES, MANY]),
    ("encode_symbols", {"frequencies": []}),
    ("encode_symbols", {"symbols": np.full(9, 3, np.uint8)}),
    ("encode_symbols", {"symbols": np.full(9, 255, np.uint8)}),
    ("encode_symbols", {"symbols": np.ones(9, np.uint8), "frequencies": [[4096, 0, 0]]}),
    ("encode_symbols", {"which": np.ones(COUNT, np.uint8)}),
    ("encode_symbols", {"which": np.full(COUNT, 255, np.uint8)}),
    ("encode_symbols", {"which": np.zeros(COUNT - 1, np.uint8)}),
    ("encode_symbols", {"which": np.zeros(0, np.uint8)}),
    *(("decode_symbols", {"frequencies": table}) for table in [*TABLES, MANY]),
    *(("decode_symbols", {"data": data}) for data in (b"", b"\0" * 4, b"\0" * 5, b"\xff" * 4, b"\xff" * 256)),
    *(("decode_symbols", {"isa": name}) for name in ("foo", "AVX2", "reference", "\0")),
    *(("decode_symbols", {"out": np.zeros(count, np.uint8)}) for count in (0, 1, COUNT - 1, COUNT + 1, 1 << 20)),
    *(("decode_uniform", {"frequencies": table}) for table in [*TABLES, MANY]),
    *(("decode_uniform", {"group": group}) for group in (-1, 0, 2, 3, 4, *HUGE)),
    *(("decode_uniform", {"size": size}) for size in (-1, 0, 1, 2, 4, 32, 33, *HUGE)),
    *(("decode_uniform", {"low": low}) for low in (2**31 - 2, -(2**31) - 1, *HUGE)),
    *(("decode_uniform", {"split": split}) for split in (-1, 1, 31, 32, 63, 64, *HUGE)),
    ("decode_uniform", {"split": 30, "low": 1, "raw": b"\0" * (30 * COUNT // 8)}),
    ("decode_uniform", {"group": 2, "split": 1, "frequencies": PAIRS}),
    *(("decode_uniform", {"outside": [(3, far)]}) for far in (-(2**40), 2**40, *HUGE)),
    ("decode_uniform", {"outside": [(1, -(2**31))]}),
    ("decode_uniform", {"outside": [(2, 2**31 - 1)]}),
    *(("decode_uniform", {"outside": [(place, 1)]}) for place in (COUNT, -1, 2**63, 2**64 - 1)),
    ("decode_uniform", {"outside": [(5, 1), (3, 1)]}),
    ("decode_uniform", {"outside": [(5, 1), (5, 1)]}),
    ("decode_uniform", {"raw": b"1"}),
    ("decode_uniform", {"split": 4, "raw": b"\0" * (COUNT // 2 - 1)}),
    *(("decode_uniform", {"start": start}) for start in (2**64 - 1, 2**64 - COUNT + 1, 2**64, -1)),
    *(("decode_uniform", {"run": run}) for run in (0, -1, 2**64)),
    ("decode_uniform", {"scale": np.zeros(0, np.float32)}),
    ("decode_uniform", {"zero_point": np.zeros(2, np.int32)}),
    ("decode_uniform", {"offset": np.zeros(4, np.float32)}),
    *(("decode_uniform", {"columns": np.ones(count, np.float32)}) for count in (2, 8, 1 << 20)),
    *(("decode_uniform", {"columns": np.ones(7, np.float32), "run": run}) for run in (0, 6, 2**64 - 1)),
    ("decode_uniform", {"isa": "best"}),
    *(("decode_uniform", {"out": np.zeros(count, np.float32)}) for count in (0, 1, COUNT - 1, COUNT + 1, 1 << 20)),
    *(("decode_trellis", {"frequencies": [table, TABLE]}) for table in TABLES),
    *(("decode_trellis", {"frequencies": [TABLE, table]}) for table in TABLES),
    *(("decode_trellis", {"frequencies": [TABLE] * number}) for number in (0, 1, 3, 100)),
    *(("decode_trellis", {"low": low}) for low in (2**30, -(2**30), 2**31 - 1, -(2**31), *HUGE)),
    *(("decode_trellis", {"state": state}) for state in (-1, 8, 255, *HUGE)),
    *(("decode_trellis", {"outside": [(3, far)]}) for far in (2**30, -(2**30), 2**31 - 1, -(2**63), *HUGE)),
    *(("decode_trellis", {"outside": [(place, 1)]}) for place in (COUNT, -1, 2**63, 2**64 - 1)),
    ("decode_trellis", {"outside": [(5, 1), (3, 1)]}),
    ("decode_trellis", {"outside": [(5, 1), (5, 1)]}),
    *(("decode_trellis", {"out": np.zeros(count, np.int32)}) for count in (0, 1, COUNT - 1, COUNT + 1)),
    *(("histogram", {"low": low}) for low in (1, -1, 2**31 - 1, -(2**31), *HUGE)),
    *(("histogram", {"counts": np.zeros(count, np.int64)}) for count in (0, 1, 2)),
    ("histogram", {"values": np.array([-(2**31), 2**31 - 1] * 5, np.int32), "low": -(2**31)}),
    ("trellis_indices", {"indices": np.zeros(4, np.int32)}),
    ("trellis_indices", {"states": np.zeros(6, np.uint8)}),
    *(("round_with_feedback", {"scale": scale}) for scale in (0.0, -1.0, np.nan, np.inf, 1e-40, 1e39)),
    *(("round_with_feedback", {"decay": decay}) for decay in (0.0, -1.0, 1.1, np.nan)),
    *(("round_with_feedback", {"kernel": kernel}) for kernel in (0, -1, 2**64)),
    *(("round_with_feedback", {"weight": np.full((4, 6), w, np.float32)}) for w in (np.nan, -np.inf, 3e38, 2**30)),
    ("round_with_feedback", {"codes": np.zeros((6, 4), np.int32)}),
    ("round_with_feedback", {"codes": np.zeros((4, 7), np.int32)}),
    ("round_with_feedback", {"alpha": np.zeros(5, np.float32)}),
    ("round_with_feedback", {"beta": np.zeros(0, np.float32)}),
    *(("pack", {"width": width}) for width in (-1, 33, 64, *HUGE)),
    *(("unpack", {"width": width}) for width in (-1, 5, 33, 64, *HUGE)),
    *(("unpack", {"data": data}) for data in (b"", b"1234")),
]  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_arguments_that_the_others_differ_from_work(function: str) -> None:
    arguments = good(function)
    before = {name: value.copy() for name, value in arguments.items() if isinstance(value, np.ndarray)}
    found = getattr(MODULE, function)(**arguments)
    assert found is not None or any(not np.array_equal(arguments[name], old) for name, old in before.items())


@pytest.mark.parametrize(
    ("function", "change"), WRONG, ids=[f"{i}-{f}-{'-'.join(c)}" for i, (f, c) in enumerate(WRONG)]
)
def test_a_wrong_argument_is_a_typed_error(function: str, change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        getattr(MODULE, function)(**(good(function) | change))


def odd_arrays(array: np.ndarray) -> Iterator[Any]:
    """What is no array of this type in C order."""
    other = np.float64 if array.dtype == np.float32 else np.float32
    yield array.astype(other)
    if array.itemsize > 1:
        yield array.astype(array.dtype.newbyteorder())
    yield array.astype(object)
    yield np.repeat(array, 2, axis=-1)[..., ::2]  # strided
    yield array[::-1]
    yield np.lib.stride_tricks.as_strided(
        array, (1 << 40 // array.ndim,) * array.ndim, (0,) * array.ndim
    )  # as if of 2^40 elements
    yield array[None]
    yield np.array(array.flat[0])
    yield array.tolist()
    yield None


@pytest.mark.parametrize("function", FUNCTIONS)
def test_arrays_of_other_types_orders_and_ranks_are_refused_and_never_converted(function: str) -> None:
    for name, value in good(function).items():
        if isinstance(value, np.ndarray) and value.size:
            for odd in odd_arrays(value):
                with pytest.raises(TypeError):
                    getattr(MODULE, function)(**(good(function) | {name: odd}))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_read_only_outputs_are_refused(function: str) -> None:
    inputs = {"histogram": "values", "pack": "values", "trellis_indices": "codes"}
    for name in {"out", "counts", "indices", "states", "codes", "values"} & good(function).keys():
        if inputs.get(function) != name:
            arguments = good(function)
            arguments[name].flags.writeable = False
            with pytest.raises(TypeError):
                getattr(MODULE, function)(**arguments)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_things_of_other_kinds_are_refused(function: str) -> None:
    for name, value in good(function).items():
        for odd in ("text", b"bytes", 1.5, {}, [None], SimpleNamespace(), bytearray(9)):
            if isinstance(value, type(odd)) or (isinstance(value, np.ndarray) and isinstance(odd, bytes | bytearray)):
                continue
            if isinstance(value, list) and odd == {}:
                continue
            with pytest.raises((TypeError, ValueError)):
                getattr(MODULE, function)(**(good(function) | {name: odd}))


def test_nothing_is_encoded_decoded_and_packed_as_nothing() -> None:
    nothing = np.zeros(0, np.uint8)
    assert MODULE.encode_symbols(nothing, [TABLE], None) == b""
    MODULE.decode_symbols(b"", TABLE, nothing, "")
    MODULE.decode_uniform(**(good("decode_uniform") | {"data": b"", "outside": [], "out": np.zeros(0, np.float32)}))
    empty = {"data": b"", "outside": [], "out": np.zeros(0, np.int32), "state": 3}
    assert MODULE.decode_trellis(**(good("decode_trellis") | empty)) == 3
    MODULE.histogram(np.zeros(0, np.int8), 0, np.zeros(0, np.int64))
    assert MODULE.trellis_indices(np.zeros(0, np.int32), True, np.zeros(0, np.int32), nothing)
    assert MODULE.pack(np.zeros(0, np.uint32), 32) == b""
    MODULE.unpack(b"", 32, np.zeros(0, np.uint32))
    for shape in ((0, 6), (4, 0), (0, 0)):
        line = np.zeros(shape[1], np.float32)
        MODULE.round_with_feedback(np.zeros(shape, np.float32), 1.0, 1, 1.0, line, line, np.zeros(shape, np.int32))


def test_codes_of_31_raw_bits_decode_as_the_reference_does() -> None:
    codes = np.array([-(2**31), 2**31 - 1, 0, -1] * 40, np.int32)
    raw = MODULE.pack((codes & (2**31 - 1)).astype(np.uint32), 31)
    symbols = (codes >> 31).astype(np.int64) + 1
    data = MODULE.encode_symbols(symbols.astype(np.uint8), [[2048, 2048]], None)
    out, intact = guarded(len(codes), np.float32)
    for isa in ("scalar", MODULE.best_isa()):
        MODULE.decode_uniform(data, [2048, 2048], 1, 2, -1, 31, raw, [], 0, 9, *GRID, out, isa)
        assert np.array_equal(out, codes.astype(np.float32)) and intact()


integers = st.integers(-3, 40) | st.sampled_from(HUGE)
tables = st.sampled_from([TABLE, PAIRS, [4096], [128] * 32, [1, 4095]]) | st.lists(st.integers(0, 4096), max_size=5)
listed = st.lists(st.tuples(integers, integers), max_size=3)
chunks = st.binary(max_size=40) | st.just(b"").map(lambda _: coded()) | st.just(b"\0\0\1\0")


def outcome(intact: Callable[[], bool], function: Callable[..., Any], *arguments: Any) -> None:
    with contextlib.suppress(ValueError, TypeError):
        function(*arguments)
    assert intact()


@settings(max_examples=400, deadline=None)
@given(chunks, tables, st.lists(integers, min_size=6, max_size=6), listed, st.binary(max_size=64), st.integers(0, 130))
def test_any_arguments_of_decode_uniform_stay_inside_their_arrays(
    data: bytes, table: list[int], numbers: list[int], outside: list[tuple[int, int]], raw: bytes, count: int
) -> None:
    out, intact = guarded(count, np.float32)
    columns = np.ones(abs(numbers[0]) % 8, np.float32)
    grid = (np.ones(3, np.float32), np.full(3, 2**31 - 1, np.int32), np.zeros(0, np.float32), columns)
    group, size, low, split, start, run = numbers
    for isa in ("scalar", MODULE.best_isa()):
        line = (group, size, low, split, raw, outside, start, run, *grid, out, isa)
        outcome(intact, MODULE.decode_uniform, data, table, *line)


@settings(max_examples=200, deadline=None)
@given(chunks, tables, integers, st.booleans(), integers, listed, st.integers(0, 130))
def test_any_arguments_of_decode_trellis_stay_inside_their_arrays(
    data: bytes, table: list[int], low: int, plain: bool, state: int, outside: list[tuple[int, int]], count: int
) -> None:
    out, intact = guarded(count, np.int32)
    outcome(intact, MODULE.decode_trellis, data, [table, TABLE], low, plain, state, outside, out)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64), integers, st.integers(0, 130))
def test_any_arguments_of_unpack_stay_inside_their_arrays(data: bytes, width: int, count: int) -> None:
    values, intact = guarded(count, np.uint32)
    outcome(intact, MODULE.unpack, data, width, values)


@pytest.mark.parametrize("count", [16_384, 65_536, 100_000, 262_144, 300_001])
def test_truncated_and_damaged_chunks_of_many_states_are_refused_on_every_path(count: int) -> None:
    symbols = np.random.default_rng(0).integers(0, 3, count).astype(np.uint8)
    data = coded(symbols)
    paths = ("scalar", "avx2", "avx512")
    for isa in paths[: 1 + paths.index(MODULE.best_isa())]:
        out, intact = guarded(count, np.uint8)
        MODULE.decode_symbols(data, TABLE, out, isa)
        assert np.array_equal(out, symbols) and intact()
        head = 4 * rans.states_for(count)
        for length in (0, 2, head - 1, head, head + 2, head + 126, head + 128, len(data) // 2 & ~1, len(data) - 2):
            with pytest.raises(ValueError):
                MODULE.decode_symbols(data[:length], TABLE, out, isa)
            assert intact()
