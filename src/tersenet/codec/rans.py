"""Interleaved rANS, the reference: short, slow, and the definition of the format.

A state x lives in [2^16, 2^32). With symbol frequency f (of 4096) and slot(s, rank) from the alias buckets:

    encode s:  while x >= f * 2^20: emit the low 16 bits of x, x >>= 16;  x = (x // f) * 4096 + slot(s, x % f)
    decode:    (s, rank) of slot x % 4096;  x = f(s) * (x // 4096) + rank;  if x < 2^16: x = x * 2^16 + next word

Symbol i belongs to state i mod N. Encoding goes backwards from states 2^16, so decoding goes forwards and must end with
every state at 2^16 and no word left: that is checked.

The bytes: N states (4 bytes each), then the words (2 bytes each) in the order of decoding, all little-endian.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .stream import CodecError
from .table import PRECISION, TOTAL, Ints, slots

LOW = 1 << 16
Symbols = npt.NDArray[np.uint8]


def states_for(count: int) -> int:
    """The number N of interleaved states for `count` symbols."""
    return 1 if count < 1 << 14 else 2 if count < 1 << 16 else 16 if count < 1 << 18 else 64


def encode_symbols(symbols: Symbols, tables: list[Ints], which: Symbols | None = None) -> bytes:
    """Encode symbols; `which[i]` says which of the frequency tables symbol i uses (default: the first)."""
    if not len(symbols):
        return b""
    n = states_for(len(symbols))
    freqs = [table.tolist() for table in tables]
    places = [_places(table) for table in tables]
    states = [LOW] * n
    words: list[int] = []
    for i in range(len(symbols) - 1, -1, -1):
        table, s = 0 if which is None else which[i], symbols[i]
        f, x = freqs[table][s], states[i % n]
        if x >= f << 20:
            words.append(x & 0xFFFF)
            x >>= 16
        states[i % n] = (x // f << PRECISION) + places[table][s][x % f]
    return np.array(states, "<u4").tobytes() + np.array(words[::-1], "<u2").tobytes()


def decode_symbols(
    data: bytes, count: int, tables: list[Ints], after: Callable[[int, int], int] | None = None, table: int = 0
) -> Symbols:
    """Decode `count` symbols from `table` on; `after(i, symbol)` names the table of the next one (default: no change).

    **Raises** `CodecError` if the bytes do not end exactly where the symbols do.
    """
    out = np.empty(count, np.uint8)
    if not count:
        if data:
            raise CodecError(f"{len(data)} bytes too many in a chunk without symbols")
        return out
    n = states_for(count)
    if len(data) < 4 * n or len(data) % 2:
        raise CodecError(f"a chunk of {len(data)} bytes cannot hold {n} states and whole words")
    states = np.frombuffer(data, "<u4", n).tolist()
    words = np.frombuffer(data, "<u2", offset=4 * n).tolist()
    if min(states) < LOW:
        raise CodecError("a state is below 2^16")
    maps = [tuple(part.tolist() for part in (*slots(table), table)) for table in tables]
    at = 0
    for i in range(count):
        symbol, rank, freq = maps[table]
        x = states[i % n]
        slot = x % TOTAL
        s = symbol[slot]
        x = freq[s] * (x // TOTAL) + rank[slot]
        if x < LOW:
            if at == len(words):
                raise CodecError("a chunk ends before its symbols do")
            x = (x << 16) | words[at]
            at += 1
        states[i % n] = x
        out[i] = s
        if after is not None:
            table = after(i, s)
    if at != len(words) or any(x != LOW for x in states):
        raise CodecError("a chunk does not end where its symbols do")
    return out


def _places(freqs: Ints) -> list[list[int]]:
    """For every symbol, the slot of each of its ranks."""
    symbol, rank = slots(freqs)
    places = [[0] * f for f in freqs.tolist()]
    for slot, (s, r) in enumerate(zip(symbol.tolist(), rank.tolist(), strict=True)):
        places[s][r] = slot
    return places
