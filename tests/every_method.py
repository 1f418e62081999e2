"""Every method that laws are asked of, with its example: ours, the installed ones, and those in tests/outside."""

from pathlib import Path
from typing import Any

from tersenet import methods
from tersenet.core.method import Method

_FOLDER = Path(__file__).parent / "outside"
OUTSIDE = {
    "two_latents": f"{_FOLDER / 'two_latents.py'}:TwoLatents",
    "binary": f"{_FOLDER / 'binary.py'}:Binary",
    "planes": f"{_FOLDER / 'planes.py'}:DyingPlanes",
    "own_optimizer": f"{_FOLDER / 'own_optimizer.py'}:Signed",
}
EVERY = {name: name for name in methods.names()} | OUTSIDE  # a short name -> what `methods.get` takes


def class_of(name: str) -> type[Method]:
    """The class of a method by its short name."""
    return methods.get(EVERY[name])


def example(name: str, **fields: Any) -> Method:
    """The quick example of a method, with other fields."""
    cls = class_of(name)
    return cls(**{**cls.QUICK, **fields})
