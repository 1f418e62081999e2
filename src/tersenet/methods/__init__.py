"""The methods: one file or folder each, whose name is the method's name. This folder is the registry of ours.

Methods from outside are given as `FILE.py:Class`, or installed under the entry-point group `tersenet.methods`.

Nothing here imports torch until a method is asked for by `get`; what `tersenet methods` prints of ours is read from the
source.
"""

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ._facts import MethodFacts, facts_of_class, facts_of_source
from ._settings import Setting, Settings, settings_of

if TYPE_CHECKING:
    from ..core.method import Method

__all__ = ["DEFAULT_METHOD", "GROUP", "MethodFacts", "Setting", "Settings", "facts", "get", "names", "ours", "settings"]
GROUP = "tersenet.methods"
DEFAULT_METHOD = "vlcq"
_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The names of all methods: ours and those that are installed."""
    return sorted({*_ours(), *_installed()})


def get(name: str) -> type["Method"]:
    """The class of a method: by its name, or `FILE.py:Class`. **Raises** `UsageError` listing the valid names."""
    if name in _ours():
        module = importlib.import_module(f".{name}", __name__)
        return _method(next(each for each in vars(module).values() if _is_method(each, module.__name__)), name)
    if name in _installed():
        return _method(_installed()[name].load(), name)
    file, colon, attribute = name.rpartition(":")
    if not (colon and file.endswith(".py")):
        raise UsageError(f"no method {name!r}; the methods are {', '.join(names())}, or FILE.py:Class")
    return _method(getattr(_imported(Path(file).resolve()), attribute, None), name)


def facts(name: str) -> MethodFacts:
    """The facts of a method; those of ours are read from the source without importing it."""
    return facts_of_source(name, _ours()[name]) if name in _ours() else facts_of_class(get(name))


def settings(provenance: Mapping[str, Any]) -> Settings:
    """The fields of the method that made a file with this provenance: first those that it stores, then, where this is
    the version that wrote it, the defaults of the others. Nothing that a file names is imported.

    >>> settings({"method": "rtn", "fields": {"bits": 3}, "versions": {"tersenet": "0.0.1"}})
    Settings(fields=(Setting(name='bits', value=3, default_of=None),), others_of='0.0.1')
    """
    return settings_of(provenance, ours(provenance))


def ours(provenance: Mapping[str, Any]) -> MethodFacts | None:
    """The facts of the method that made a file with this provenance; None unless it is one of ours."""
    method = provenance.get("method")
    known = _ours().get(method) if isinstance(method, str) and "outside" not in provenance else None
    return None if known is None else facts_of_source(str(method), known)


def _ours() -> dict[str, Path]:
    """The source of each of our methods."""
    files = {path.stem: path for path in _FOLDER.glob("[a-z]*.py")}
    return files | {path.parent.name: path for path in _FOLDER.glob("[a-z]*/__init__.py")}


def _installed() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


def _method(found: Any, name: str) -> type["Method"]:
    if not _is_method(found):
        raise UsageError(f"{name} is no method: it must be a class that inherits from tersenet.Method")
    method: type[Method] = found
    return method


def _is_method(value: object, module: str | None = None) -> bool:
    from ..core.method import Method

    return isinstance(value, type) and issubclass(value, Method) and module in (None, value.__module__)


@cache
def _imported(path: Path) -> Any:
    """The module in a file; the same one each time. **Raises** `UsageError` if it cannot be imported."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise UsageError(f"{path} cannot be imported: {error!r}") from error
    return module
