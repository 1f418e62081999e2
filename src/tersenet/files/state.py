"""A state dict in memory as a tensor source, and which names and dtypes a file can hold."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import xxhash
from torch import Tensor

from ..core.method import Facts
from ..core.model import TensorSpec
from ..errors import CheckpointError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@dataclass(frozen=True)
class StateSource:
    """Tensors of a state dict in memory."""

    specs: Mapping[str, TensorSpec]
    state: Mapping[str, Tensor]
    layout: Mapping[str, Any] = field(default_factory=dict)
    attachments: Mapping[str, bytes] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)

    def read(self, name: str) -> Tensor:
        """The tensor called `name`."""
        return self.state[name].detach().resolve_conj().resolve_neg().contiguous()

    def digest(self) -> str:
        """xxh3-128 of names and values."""
        state = xxhash.xxh3_128()
        for name in self.specs:
            state.update(name.encode())
            state.update(self.read(name).cpu().reshape(-1).view(torch.uint8).numpy().data)
        return state.hexdigest()


def from_state(state: Mapping[str, Tensor], layout: Mapping[str, Any]) -> StateSource:
    """A state dict as a source; tensors that share their memory are aliases. **Raises** `CheckpointError`."""
    specs: dict[str, TensorSpec] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, value in state.items():
        if value.layout != torch.strided or value.is_quantized:
            raise CheckpointError(f"tensor {name} is sparse or quantised ({value.layout}): give dense tensors")
        if value.is_meta:
            raise CheckpointError(f"tensor {name} has no values (meta device): load the weights first")
        if value.dtype not in DTYPES.values() and value.dtype != torch.complex128:
            raise CheckpointError(f"tensor {name} has dtype {value.dtype}; known are {', '.join(DTYPES)}")
        check_name(name)
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() and key in seen:
            aliases[name] = seen[key]
        else:
            seen[key] = name
            specs[name] = TensorSpec(value.shape, value.dtype)
    if not specs:
        raise CheckpointError("no tensors in it")
    return StateSource(specs, state, layout, {}, aliases)


def check_name(name: str) -> None:
    """**Raises** `CheckpointError` for the name of a tensor that no file can hold."""
    if name.startswith("\0") or name != name.encode(errors="replace").decode():
        raise CheckpointError(f"a tensor is called {name!r}: rename it, names are text that does not begin with NUL")
