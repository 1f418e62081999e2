"""Finding the native module: it is optional, its absence is said once, and its presence can be demanded.

`TERSENET_REQUIRE_NATIVE=1` turns absence into an error. `TERSENET_ISA` (avx512, avx2, scalar, reference) forces a path.
"""

import os
import warnings
from functools import cache
from types import ModuleType

from ..errors import NativeError

PATHS = ("avx512", "avx2", "scalar", "reference")


@cache
def native() -> ModuleType | None:
    """The module `tersenet._native`, or None. **Raises** `NativeError` if it is required and absent."""
    if isa() == "reference":
        return None
    try:
        from tersenet import _native
    except ImportError as error:
        if os.environ.get("TERSENET_REQUIRE_NATIVE") == "1":
            raise NativeError(f"TERSENET_REQUIRE_NATIVE=1, but tersenet._native cannot be imported: {error}") from error
        warnings.warn(
            "tersenet was installed without its native module (no C++ compiler?): files are the same, but encoding and "
            "decoding run in Python, some hundred times slower. Install a C++17 compiler and reinstall.",
            stacklevel=2,
        )
        return None
    module: ModuleType = _native
    return module


def isa() -> str:
    """The instruction set asked for by `TERSENET_ISA`, or "" for the best there is. **Raises** `NativeError`."""
    name = os.environ.get("TERSENET_ISA", "")
    if name and name not in PATHS:
        raise NativeError(f"TERSENET_ISA is {name!r}; it may be {', '.join(PATHS)}")
    return name
