"""A native module that is absent, broken or of another version is said once, and the reference is used."""

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tersenet.codec import native
from tersenet.errors import NativeError


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (ImportError("file too short"), "cannot be imported .ImportError: file too short"),
        (SystemError("initialisation failed"), "cannot be imported .SystemError"),
        (ModuleNotFoundError("no"), "without its native module"),
        (SimpleNamespace(__file__="_native.so"), "_native.so is of another version"),
        (SimpleNamespace(__file__="_native.so", INTERFACE=99), r"interface 99, expected \d"),
    ],
    ids=["broken", "failing", "absent", "old", "new"],
)
def test_a_native_module_that_is_no_use_is_said_once_and_the_reference_is_used(
    module: Any, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(name: str) -> ModuleType:
        if isinstance(module, Exception):
            raise module
        assert name == "tersenet._native"
        return module  # type: ignore[no-any-return]

    monkeypatch.setattr(native.importlib, "import_module", find)
    monkeypatch.delenv("TERSENET_ISA", raising=False)
    monkeypatch.delenv("TERSENET_REQUIRE_NATIVE", raising=False)
    native.native.cache_clear()
    try:
        with pytest.warns(UserWarning, match=told):
            assert native.native() is None
        assert native.native() is None  # silently
        native.native.cache_clear()
        monkeypatch.setenv("TERSENET_REQUIRE_NATIVE", "1")
        with pytest.raises(NativeError, match=told):
            native.native()
    finally:
        monkeypatch.undo()
        native.native.cache_clear()


def test_an_instruction_set_that_the_machine_has_not_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERSENET_ISA", "avx512")
    monkeypatch.setattr(native, "_find", lambda: (SimpleNamespace(best_isa=lambda: "scalar"), ""))
    native.native.cache_clear()
    try:
        with pytest.raises(NativeError, match="the best that this machine has is 'scalar'"):
            native.native()
    finally:
        monkeypatch.undo()
        native.native.cache_clear()
