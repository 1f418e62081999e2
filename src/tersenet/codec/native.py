"""Finding the native module: it is optional, its absence is said once, and its presence can be demanded.

`TERSENET_REQUIRE_NATIVE=1` turns absence into an error. `TERSENET_ISA` (avx512, avx2, scalar, reference) forces a path.
"""

import importlib
import os
import warnings
from functools import cache
from types import ModuleType

from ..errors import NativeError

PATHS = ("avx512", "avx2", "scalar", "reference")
INTERFACE = 4  # what this code calls; src/native/module.cpp says what it offers


@cache
def native() -> ModuleType | None:
    """The module `tersenet._native`, or None where it is absent or of no use (broken, or of another version).

    **Raises** `NativeError` if it is required (`TERSENET_REQUIRE_NATIVE=1`) and there is none, or if `TERSENET_ISA`
    asks for what this machine has not.
    """
    wanted = isa()
    if wanted == "reference":
        return None
    module, problem = _find()
    if module is None:
        if os.environ.get("TERSENET_REQUIRE_NATIVE") == "1":
            raise NativeError(f"TERSENET_REQUIRE_NATIVE=1, but {problem}")
        warnings.warn(
            f"{problem}: files are the same, but encoding and decoding run in Python, some hundred times slower. "
            "Install a C++17 compiler and reinstall tersenet.",
            stacklevel=2,
        )
        return None
    best = module.best_isa()
    if wanted and PATHS.index(wanted) < PATHS.index(best):
        raise NativeError(f"TERSENET_ISA is {wanted!r}, but the best that this machine has is {best!r}")
    return module


def _find() -> tuple[ModuleType | None, str]:
    """The module, or what is wrong with it: whatever goes wrong in foreign machine code must not end the program."""
    try:
        module = importlib.import_module("tersenet._native")
    except ModuleNotFoundError:
        return None, "tersenet runs without its native module (it was installed without a C++ compiler?)"
    except Exception as error:
        return None, f"tersenet._native cannot be imported ({type(error).__name__}: {error})"
    found = getattr(module, "INTERFACE", 1)
    if found != INTERFACE:
        return None, f"{module.__file__} is of another version of tersenet (interface {found}, expected {INTERFACE})"
    return module, ""


def isa() -> str:
    """The instruction set asked for by `TERSENET_ISA`, or "" for the best there is. **Raises** `NativeError`."""
    name = os.environ.get("TERSENET_ISA", "")
    if name and name not in PATHS:
        raise NativeError(f"TERSENET_ISA is {name!r}; it may be {', '.join(PATHS)}")
    return name
