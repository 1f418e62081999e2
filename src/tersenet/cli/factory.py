"""Finding the user's code: networks and tasks given as `module:function`, `path/to/file.py:function` or by name."""

import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .hugging_face import AUTO, network, tokenizer_folder

if TYPE_CHECKING:
    from torch import nn

    from ..core.task import Task

SHIPPED = {
    "digits": "digits:make_task",
    "mnist": "images:mnist",
    "cifar10": "images:cifar10",
    "text": "language:text",
    "embeddings": "sentences:embeddings",
    "images": "pictures:images",
    "audio": "sounds:audio",
}  # tasks of the lab by name
OF_TEXT = ("text", "embeddings")


def make_model(where: str, arguments: list[str], *beside: Path) -> "nn.Module":
    """The network of `--model`, called with the `--model-arg k=v` values; `beside` are the files of the command, one of
    which tells what "auto" is. **Raises** `UsageError` if it is none."""
    from torch import nn

    if where == AUTO or Path(where).is_dir():
        made: Any = network(where, beside, _keywords(arguments))
    elif ":" in where:
        made = _called(_find(where, "--model"), where, arguments)
    else:
        from ..lab.models import build

        made = build(where)
    if not isinstance(made, nn.Module):
        raise UsageError(f"--model {where} returned a {type(made).__name__}; it must return a torch.nn.Module")
    return made.eval()


def make_task(where: str, arguments: list[str], *beside: Path) -> "Task":
    """The task of `--task` (a name or a function), called with the `--task-arg k=v` values; `beside` are the files of
    the command, one of which has the tokenizer of a task of text. **Raises** `UsageError`."""
    from ..core.task import Task

    if ":" in where:
        made = _called(_find(where, "--task"), where, arguments)
    elif where in OF_TEXT and "folder" not in _keywords(arguments):
        with tokenizer_folder(beside) as folder:
            made = _called(_shipped(where), where, [*arguments, f"folder={folder}"])
    elif where in SHIPPED:
        made = _called(_shipped(where), where, arguments)
    else:
        raise UsageError(f"no task {where!r}: give {', '.join(SHIPPED)}, module:function or path/to/file.py:function")
    if not isinstance(made, Task):
        raise UsageError(f"--task {where} returned a {type(made).__name__}; it must return a tersenet.Task")
    return made


def _shipped(name: str) -> Callable[..., Any]:
    """The function that makes a task of the lab."""
    home, _, function = SHIPPED[name].partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(f"tersenet.lab.{home}"), function)
    return found


def _find(where: str, option: str) -> Callable[..., Any]:
    place, _, name = where.rpartition(":")
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise UsageError(f"{option} {where}: there is no file {path}")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(path.parent.resolve()))
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
        except (SyntaxError, ImportError) as error:
            raise UsageError(f"{option} {where}: {path} cannot be imported: {error!r}") from error
    else:
        sys.path.insert(0, "")
        try:
            module = importlib.import_module(place)
        except (ImportError, SyntaxError, ValueError, TypeError) as error:
            raise UsageError(f"{option} {where}: {error}; for a file write path/to/file.py:function") from error
    found: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(found):
        has = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UsageError(f"{option} {where}: no function {name!r} there; it has {', '.join(has) or 'none'}")
    return found


def _called(function: Callable[..., Any], where: str, arguments: list[str]) -> Any:
    """What `function` returns for the `name=value` arguments. **Raises** `UsageError` if it does not take them."""
    keywords = _keywords(arguments)
    try:
        inspect.signature(function).bind(**keywords)
    except TypeError as error:
        raise UsageError(f"{where} does not take these arguments: {error}") from error
    return function(**keywords)


def _keywords(arguments: list[str]) -> dict[str, Any]:
    keywords: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise UsageError(f"argument {argument!r}: expected name=value")
        literal = {"True": "true", "False": "false", "None": "null"}.get(value, value)
        try:
            keywords[key] = json.loads(literal)
        except ValueError:
            keywords[key] = value
    return keywords
