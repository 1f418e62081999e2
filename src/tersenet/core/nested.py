"""Tensors inside whatever a data loader yields or a network returns: tuples, lists, mappings, dataclasses, as deep as
they may be."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in `value`, in order.

    >>> [len(tensor) for tensor in tensors({"a": torch.zeros(2), "b": (torch.zeros(3), "text")})]
    [2, 3]
    """
    if isinstance(value, Tensor):
        yield value
        return
    for part in parts(value):
        yield from tensors(part)


def hash_of_tensors(value: Any) -> str:
    """SHA-256 of the contents of every tensor in `value`."""
    flat = (part.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for part in tensors(value))
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in flat)).hexdigest()


def parts(value: Any) -> Iterator[Any]:
    """What a mapping, a tuple, a list or a dataclass consists of; nothing for anything else."""
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple):
        yield from value
    elif is_dataclass(value):
        yield from (getattr(value, field.name) for field in fields(value))


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """`value` with every leaf changed: mappings as dicts, lists and tuples as tuples, numpy arrays as tensors first."""
    if isinstance(value, Mapping):
        return {key: mapped(change, part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return tuple(mapped(change, part) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: mapped(change, getattr(value, field.name)) for field in fields(value)})
    return change(torch.from_numpy(value) if isinstance(value, np.ndarray) and value.dtype != object else value)
