"""The native functions of categorical distributions, given what no caller of ours gives them."""

from typing import Any

import numpy as np
import pytest

from tersenet.codec import native

MODULE: Any = native.native()
pytestmark = pytest.mark.skipif(MODULE is None, reason="no native module")
COUNT, GUARD = 11, 64
WRONG: list[dict[str, Any]] = [
    *({"step": step} for step in (0.0, -1.0, np.nan, np.inf)),
    *({"t": t} for t in (0.0, -3.0, np.nan, np.inf)),
    *({"masks": masks} for masks in ([], [1.0], [0.5, 1.0], [0.0, 0.0], [1.0, -0.1], [1.0, np.nan], [2.0, 1.0])),
    *({"first_last": ends} for ends in ([], [-1, 0], [-1, 0, -2], [-2, 1, -1, 0], [-1, 0, 1, 2], [-1, 0, -2, 1 << 20])),
    {"masks": [1.0] * 17, "first_last": [-1, 0] * 17},
    {"out": np.zeros(COUNT - 1, np.float32)}, {"out": np.zeros(COUNT, np.float64)}, {"out": None},
    {"values": np.zeros(COUNT, np.float64)}, {"values": np.zeros(2 * COUNT, np.float32)[::2]}, {"isa": "foo"},
]  # fmt: skip


def good(function: str) -> dict[str, Any]:
    values = np.linspace(-3, 3, COUNT, dtype=np.float32)
    given = {"values": values, "step": 0.5, "t": 3.0, "masks": [1.0, 0.5], "first_last": [-1, 0, -2, 1]}
    given |= {"out": np.zeros(COUNT, np.float32), "isa": ""}
    return given if function == "round_to_mode" else {**given, "grads": np.ones(COUNT, np.float32), "straight": False}


@pytest.mark.parametrize("function", ["round_to_mode", "mode_gradient"])
@pytest.mark.parametrize("change", WRONG, ids=str)
def test_a_wrong_argument_is_a_typed_error(function: str, change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        getattr(MODULE, function)(**(good(function) | change))


@pytest.mark.parametrize("function", ["round_to_mode", "mode_gradient"])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1025])
@pytest.mark.parametrize("value", [0.0, 1e30, -1e30, np.inf, np.nan, 1e-40])
def test_nothing_outside_the_output_is_written_whatever_the_values(function: str, count: int, value: float) -> None:
    for isa in ("scalar", ""):
        whole = np.full(count + 2 * GUARD, 77, np.float32)
        arrays = {name: np.full(count, value, np.float32) for name in ("values", "grads") if name in good(function)}
        getattr(MODULE, function)(**(good(function) | arrays | {"out": whole[GUARD : GUARD + count], "isa": isa}))
        assert (whole[:GUARD] == 77).all() and (whole[GUARD + count :] == 77).all()
        assert np.isnan(value) or function == "mode_gradient" or (np.abs(whole[GUARD : GUARD + count]) <= 1).all()


def test_nan_stays_nan() -> None:
    arguments = good("round_to_mode") | {"values": np.full(COUNT, np.nan, np.float32)}
    MODULE.round_to_mode(**arguments)
    assert np.isnan(arguments["out"]).all()
