"""The compressed model: what every method returns and every file holds."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from ..errors import KeyMismatchError
from .activation import Activation, round_input
from .grid import Grid
from .pieces import decode_to

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class TensorSpec:
    """Shape, dtype and channel axis of one tensor of a checkpoint; `computed` if it is no weight: "buffer" of the
    network, or "table" by its values."""

    shape: torch.Size
    dtype: torch.dtype
    axis: int = 0
    computed: Literal["", "buffer", "table"] = ""


@dataclass(frozen=True)
class QTensor:
    """A quantised tensor: integer `codes` on a `grid`; `dequantize() = grid.decode(codes)`, rounded once to `dtype`.

    **Shapes**: `codes` has the shape of the original tensor, in the narrowest of int8, int16, int32 that holds it
    (a wider type is allowed and equal).

    >>> from tersenet import Uniform
    >>> QTensor(torch.tensor([-1, 0, 3], dtype=torch.int8), Uniform(torch.tensor(0.5))).dequantize()
    tensor([-0.5000,  0.0000,  1.5000])
    """

    codes: Tensor
    grid: Grid
    dtype: torch.dtype = torch.float32

    def dequantize(self) -> Tensor:
        """The values the network computes with, in the original dtype."""
        return decode_to(self.grid, self.codes, self.dtype)

    @property
    def shape(self) -> torch.Size:
        return self.codes.shape


@dataclass(frozen=True)
class KeptTensor:
    """A tensor that is not quantised, in the precision its method chose, and why (`reason`, one short phrase).

    >>> KeptTensor(torch.tensor([0.5], dtype=torch.float16), torch.float32, "bias").dequantize().dtype
    torch.float32
    """

    tensor: Tensor
    dtype: torch.dtype
    reason: str

    def dequantize(self) -> Tensor:
        """The tensor in its original dtype."""
        return self.tensor.to(self.dtype)

    @property
    def shape(self) -> torch.Size:
        return self.tensor.shape


@dataclass(frozen=True)
class ProvenanceNote:
    """What a method found out on the way (scores, bits), as JSON for the provenance."""

    facts: Any


Entry = QTensor | KeptTensor
Item = tuple[str, Entry | Activation | ProvenanceNote]


@dataclass(frozen=True)
class CompressedModel:
    """A network as codes on grids, plus the tensors that were kept.

    `tensors` maps names to entries (collected in a dict, or opened lazily from a file: each access decodes anew, and
    `known_specs` tells shapes and dtypes without decoding).
    `aliases` maps the name of a tied tensor to the name it shares. `layout` says how the checkpoint was laid out
    (JSON), `attachments` are its other files (config, tokenizer) byte for byte. `batch_norm` is "keep", "scale-shift"
    (the running statistics are gone: scale and shift only, written back as an equivalent batch norm) or "fold".
    `activations` maps the paths of layers to what their inputs are rounded to.
    `results` are what was measured of its file: None if the file keeps no room for them, empty before.
    `provenance` is what made it: method, fields, seed, versions, input hashes; never paths, hosts or times.

    >>> small = CompressedModel({"bias": KeptTensor(torch.ones(2), torch.float32, "bias")})
    >>> small.state_dict()
    {'bias': tensor([1., 1.])}
    """

    tensors: Mapping[str, Entry]
    aliases: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    layout: Mapping[str, Any] = field(default_factory=dict)
    attachments: Mapping[str, bytes] = field(default_factory=dict)
    batch_norm: str = "keep"
    known_specs: Mapping[str, TensorSpec] = field(default_factory=dict)
    activations: Mapping[str, Activation] = field(default_factory=dict)
    results: list[Any] | None = None

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Shape and original dtype of every tensor in `tensors`."""
        return self.known_specs or {name: TensorSpec(e.shape, e.dtype) for name, e in self.tensors.items()}

    def in_memory(self) -> "CompressedModel":
        """The same, independent of the file it was opened from."""
        return replace(self, tensors=dict(self.tensors), attachments=dict(self.attachments))

    def state_dict(self) -> dict[str, Tensor]:
        """Every tensor by name, decoded to its original dtype; tied names share one tensor.

        Warns that it has no place for `activations`, if there are any.
        """
        if self.activations:
            warnings.warn(
                f"the inputs of {len(self.activations)} layers are rounded in this model; a state dict cannot say so: "
                "use apply_to to get the network that was trained",
                stacklevel=2,
            )
        state = {name: entry.dequantize() for name, entry in self.tensors.items()}
        state.update({alias: state[name] for alias, name in self.aliases.items()})
        return state

    def apply_to(self, module: Module, *, activations: bool = True) -> Module:
        """Load every tensor into `module` (in place), make its layers round their inputs, and return it.

        `activations=False` leaves (or makes) inputs unrounded.

        **Raises** `KeyMismatchError` when names or shapes differ (batch norm's `num_batches_tracked` may be absent).
        """
        names = set(self.tensors) | set(self.aliases)
        check_keys(names, module)
        _check_shapes(self.specs, module)
        targets, tied = {**dict(module.named_buffers()), **module.state_dict(keep_vars=True)}, tied_names(module, names)
        with torch.no_grad():
            for name, entry in self.tensors.items():
                value = entry.dequantize()
                keys = [name, *(alias for alias, of in self.aliases.items() if of == name)]
                keys += [key for key, of in tied.items() if of in keys]
                empty = [key for key in keys if key in targets and targets[key].is_meta]
                _assign(module, empty, value)
                for key in keys:
                    if key in targets and key not in empty:
                        targets[key].copy_(value)
        self._apply_activations(module, activations)
        return module

    def _apply_activations(self, module: nn.Module, wanted: bool) -> None:
        parts = dict(module.named_modules())
        unknown = sorted(set(self.activations) - set(parts))
        if unknown:
            raise KeyMismatchError(
                f"the file rounds the inputs of {_some(unknown)}, which {type(module).__name__} does not have. "
                "Build the module the checkpoint came from, or pass activations=False."
            )
        for path, part in parts.items():
            round_input(part, self.activations.get(path) if wanted else None)


def check_keys(names: set[str], module: nn.Module) -> None:
    """Raise `KeyMismatchError` unless `names` are exactly the tensors of `module`.

    `num_batches_tracked` may be absent, and so may tensors that the module ties to others that are there; buffers that
    the module does not store (any more) may be there.
    """
    wanted = set(module.state_dict())
    tied = tied_names(module, names)
    missing = sorted(key for key in wanted - names - set(tied) if not key.endswith("num_batches_tracked"))
    unstored = {key for key, _ in module.named_buffers()} - wanted
    unexpected = sorted(key for key in names - wanted - unstored if not key.endswith("num_batches_tracked"))
    if missing or unexpected:
        raise KeyMismatchError(
            f"the file and {type(module).__name__} do not match: "
            f"{_some(missing)} missing in the file, {_some(unexpected)} unknown to the module. "
            "Build the module the checkpoint came from, rename its keys, or leave out what is not the network's with "
            'ignore_keys="GLOB".'
        )


def tied_names(module: nn.Module, names: set[str]) -> dict[str, str]:
    """Tensors of `module` that are not in `names` but are the same object as one that is -> its name."""
    tensors = module.state_dict(keep_vars=True)
    owners = {id(tensor): name for name, tensor in tensors.items() if name in names}
    return {name: owners[id(tensor)] for name, tensor in tensors.items() if name not in names and id(tensor) in owners}


def _some(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})" if names else "none"


def _check_shapes(specs: Mapping[str, TensorSpec], module: nn.Module) -> None:
    for key, value in {**dict(module.named_buffers()), **module.state_dict()}.items():
        if key in specs and specs[key].shape != value.shape:
            raise KeyMismatchError(
                f"{key}: the file has shape {list(specs[key].shape)}, {type(module).__name__} has {list(value.shape)}. "
                "Build the module with the sizes of the checkpoint."
            )


def _assign(module: nn.Module, keys: list[str], value: Tensor) -> None:
    """Replace the meta tensors `keys` of `module` by `value` (parameters stay parameters, and become one)."""
    parameter: nn.Parameter | None = None
    for key in keys:
        path, _, leaf = key.rpartition(".")
        owner = module.get_submodule(path)
        if leaf in owner._parameters:
            old = owner._parameters[leaf]
            if parameter is None:
                parameter = nn.Parameter(value, requires_grad=old is None or old.requires_grad)
            owner._parameters[leaf] = parameter
        else:
            owner._buffers[leaf] = value


def gathered(pieces: Iterable[Item]) -> tuple[dict[str, Entry], dict[str, Activation], dict[str, Any]]:
    """The tensors, the activations and the findings (by name) among what a method yields."""
    tensors: dict[str, Entry] = {}
    activations: dict[str, Activation] = {}
    findings: dict[str, Any] = {}
    for name, piece in pieces:
        if isinstance(piece, Activation):
            activations[name] = piece
        elif isinstance(piece, ProvenanceNote):
            findings[name] = piece.facts
        else:
            tensors[name] = piece
    return tensors, activations, findings
