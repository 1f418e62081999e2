"""tersenet: the smallest honest file of a trained neural network that still does its job, and back.

>>> import tersenet, torch
>>> small = tersenet.compress(torch.nn.Linear(64, 64), "rtn", bits=4)
>>> net = small.apply_to(torch.nn.Linear(64, 64))
"""

import importlib
from typing import TYPE_CHECKING, Any

from .on_import import when_imported
from .version import __version__

if TYPE_CHECKING:
    from .api import compress, load, load_into
    from .attached import after_step, anneal, attach, detach, freeze, on_epoch, param_groups, penalty
    from .cards import card
    from .core.grid import Codebook, Uniform
    from .core.method import Job, Knob, Method, RunFolder
    from .core.model import CompressedModel, KeptTensor, QTensor
    from .core.task import Task
    from .files.checkpoint import Checkpoint
    from .files.terse import save
    from .quantizers.quantizer import Quantizer
    from .search.outcome import Outcome
    from .search.within import auto, compress_within
    from .training.method import Target, TrainedMethod
    from .training.phases import Phase

_HOMES = {
    "after_step": "attached",
    "anneal": "attached",
    "attach": "attached",
    "auto": "search.within",
    "card": "cards",
    "compress": "api",
    "detach": "attached",
    "on_epoch": "attached",
    "param_groups": "attached",
    "compress_within": "search.within",
    "freeze": "attached",
    "load": "api",
    "load_into": "api",
    "penalty": "attached",
    "save": "files.terse",
    "Checkpoint": "files.checkpoint",
    "CompressedModel": "core.model",
    "QTensor": "core.model",
    "KeptTensor": "core.model",
    "Uniform": "core.grid",
    "Codebook": "core.grid",
    "Outcome": "search.outcome",
    "Job": "core.method",
    "Knob": "core.method",
    "Method": "core.method",
    "Phase": "training.phases",
    "Quantizer": "quantizers.quantizer",
    "Target": "training.method",
    "TrainedMethod": "training.method",
    "RunFolder": "core.method",
    "Task": "core.task",
}
__all__ = [
    "Checkpoint",
    "Codebook",
    "CompressedModel",
    "Job",
    "KeptTensor",
    "Knob",
    "Method",
    "Outcome",
    "Phase",
    "QTensor",
    "Quantizer",
    "RunFolder",
    "Target",
    "Task",
    "TrainedMethod",
    "Uniform",
    "__version__",
    "after_step",
    "anneal",
    "attach",
    "auto",
    "card",
    "compress",
    "compress_within",
    "detach",
    "freeze",
    "load",
    "load_into",
    "on_epoch",
    "param_groups",
    "penalty",
    "save",
]


def _register() -> None:
    from . import hugging_face

    hugging_face.register()


when_imported("transformers.quantizers.auto", _register)  # so that it loads what `compress FOLDER -o SMALL/` writes


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: `import tersenet` alone does not import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tersenet' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    """The public names, those that are not imported yet too."""
    return sorted(__all__)
