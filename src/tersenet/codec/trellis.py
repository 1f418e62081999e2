"""The eight-state machine of trellis (dependent) quantisation, as an exact integer transform (docs/design/0003).

Codes n on the half-step grid are scanned column by column; in a state of class E they are `n = 2k`, in class O
`n = 2k - sign(k)` ("zero" variant) or `n = 2k - 1` ("plain"). The parity of k moves the machine; the class of a state
is its parity.
"""

import numpy as np
import numpy.typing as npt

from .rans import decode_symbols
from .symbols import Model

NEXT = ((0, 1), (3, 2), (5, 4), (6, 7), (1, 0), (2, 3), (4, 5), (7, 6))
Codes = npt.NDArray[np.int32]


def to_indices(codes: Codes, plain: bool) -> tuple[Codes, npt.NDArray[np.uint8]] | None:
    """Indices k of a path of the machine from state 0, and the state before each; None if `codes` are no path.

    **Shapes**: `[count]` -> `[count]`, `[count]`.
    """
    indices, states = np.empty(len(codes), np.int32), np.empty(len(codes), np.uint8)
    state = 0
    for i, n in enumerate(codes.tolist()):
        odd = state & 1
        if n % 2 != odd and not (n == 0 and odd and not plain):
            return None
        k = n // 2 if not odd else (n + 1) // 2 if plain else (n + (n > 0) - (n < 0)) // 2
        indices[i], states[i] = k, state
        state = NEXT[state][k & 1]
    return indices, states


def code_of(k: int, odd: int, plain: bool) -> int:
    """The code of index k in class E (`odd` = 0) or O (1)."""
    if not odd:
        return 2 * k
    return 2 * k - 1 if plain else 2 * k - (k > 0) + (k < 0)


def decode_trellis(
    data: bytes, count: int, model: Model, state: int, positions: list[int], differences: list[int]
) -> Codes:
    """The codes of a chunk that starts in `state`; at `positions` the index lies `differences` outside the window."""
    outside = dict(zip(positions, differences, strict=True))
    codes = np.empty(count, np.int32)

    def after(i: int, symbol: int) -> int:
        nonlocal state
        k = symbol + model.low + outside.get(i, 0)
        codes[i] = code_of(k, state & 1, model.plain)
        state = NEXT[state][k & 1]
        return state & 1

    decode_symbols(data, count, model.tables, after, state & 1)
    return codes
