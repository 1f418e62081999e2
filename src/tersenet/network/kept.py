"""What is not quantised: which tensors, in which precision, and batch norm as a scale and a shift."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core.method import Facts, Method, TensorSource
from ..core.model import KeptTensor, TensorSpec
from ..errors import UsageError, WeightError

QUANTISABLE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
BN_PARTS = ("weight", "bias", "running_mean", "running_var")
DEFAULT_EPS = 1e-5
COMPUTED = ("buffer", "table")  # reasons to keep a tensor exactly
LARGEST = 2.0**100  # magnitude of a weight that fp32 arithmetic on its steps and sums can take


def why_kept(name: str, spec: TensorSpec, method: Method) -> str | None:
    """Why `method` does not quantise this tensor, as a short phrase; None if it does."""
    if spec.dtype not in QUANTISABLE:
        return f"dtype {str(spec.dtype).removeprefix('torch.')}"
    if computed(name, spec, method):
        return spec.computed
    if (why := left_out(name, method)) is not None:
        return why
    if len(spec.shape) < 2:
        return "fewer than 2 dimensions"
    if spec.shape.numel() < 256:
        return "fewer than 256 elements"
    return None


def computed(name: str, spec: TensorSpec, method: Method) -> bool:
    """Whether a tensor is no weight, as far as is known, and nobody says otherwise (`include` takes tables)."""
    return bool(spec.computed) and not (spec.computed == "table" and _any(name, method.include))


def left_out(name: str, method: Method) -> str | None:
    """Why the user has left out a tensor, as a short phrase; None if not."""
    if _any(name, method.exclude):
        return "excluded"
    if method.include and not _any(name, method.include):
        return "not included"
    return None


def _any(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def keep(tensor: Tensor, reason: str, kept_dtype: str) -> KeptTensor:
    """`tensor` as it is stored: fp16 if every element survives to 2^-10 relative, else unchanged.

    Everything is unchanged with `kept_dtype` "exact", and what is no weight always.

    >>> keep(torch.tensor([1.0, 1e-9]), "fewer than 2 dimensions", "fp16").tensor.dtype
    torch.float32
    """
    if kept_dtype == "exact" or reason in COMPUTED or tensor.dtype not in (torch.float32, torch.float64):
        return KeptTensor(tensor, tensor.dtype, reason)
    half = tensor.to(torch.float16)
    survives = ((half.to(tensor.dtype) - tensor).abs() <= tensor.abs() * 2**-10).all()
    return KeptTensor(half if survives else tensor, tensor.dtype, reason)


def check_finite(name: str, tensor: Tensor) -> None:
    """**Raises** `WeightError` naming the first NaN, infinity or huge value of a tensor that is to be quantised."""
    for start in range(0, tensor.shape[0], rows := max(1, (1 << 22) // max(1, tensor[0].numel()))):
        bad = ~(tensor[start : start + rows].abs() <= LARGEST)
        if bad.any():
            row, *rest = bad.nonzero()[0].tolist()
            at = [start + row, *rest]
            raise WeightError(
                f"tensor {name} has {tensor[tuple(at)].item()} at {at} (at most 2^100 can be quantised): repair it, "
                f"or keep the tensor as it is with exclude=({name!r},)"
            )


def batch_norms(specs: Mapping[str, TensorSpec], aliases: Mapping[str, str]) -> list[str]:
    """The prefixes of batch-norm layers, told by their names: weight, bias, running_mean, running_var of one length.

    Those that share a tensor with another layer are left out.
    """
    found, shared = [], set(aliases.values())
    for name in specs:
        prefix = name.removesuffix(".running_var")
        shapes = {specs[f"{prefix}.{part}"].shape for part in BN_PARTS if f"{prefix}.{part}" in specs}
        if shared & {f"{prefix}.{part}" for part in BN_PARTS}:
            continue
        if prefix != name and all(f"{prefix}.{part}" in specs for part in BN_PARTS) and len(shapes) == 1:
            found.append(prefix)
    return found


def smallest_batch_norm(source: TensorSource) -> Literal["keep", "scale-shift"]:
    """The mode of batch norm that takes the fewest bytes and can always be had."""
    return "scale-shift" if batch_norms(source.specs, source.aliases) else "keep"


def scale_and_shift(state: Mapping[str, Tensor], eps: float = DEFAULT_EPS) -> dict[str, Tensor]:
    """Batch norm as inference scale a and shift b, written as an equivalent batch norm.

    `a = weight / sqrt(running_var + eps)`, `b = bias - running_mean * a`; the result has weight a, bias b,
    running_mean 0 and running_var 1 - eps, and computes `a x + b` up to rounding.

    **Shapes**: `state` maps weight, bias, running_mean, running_var to `[channels]`; so does the result.
    """
    weight, bias, mean, var = (state[part].to(torch.float64) for part in BN_PARTS)
    scale = weight / (var + eps).sqrt()
    shift = bias - mean * scale
    new = (scale, shift, torch.zeros_like(mean), torch.full_like(var, 1 - eps))
    return {part: value.to(state[part].dtype) for part, value in zip(BN_PARTS, new, strict=True)}


@dataclass(frozen=True)
class ChangedSource(ABC):
    """A checkpoint some tensors of which are read as others."""

    source: TensorSource

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        return self.source.specs

    @property
    def aliases(self) -> Mapping[str, str]:
        return self.source.aliases

    @property
    def layout(self) -> Mapping[str, Any]:
        return self.source.layout

    @property
    def attachments(self) -> Mapping[str, bytes]:
        return self.source.attachments

    @property
    def facts(self) -> Facts:
        return self.source.facts

    def digest(self) -> str:
        return self.source.digest()

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """The tensor as it is now."""


@dataclass(frozen=True)
class ScaleShiftSource(ChangedSource):
    """A checkpoint whose batch-norm layers (`eps` by prefix) are read as a scale and a shift."""

    eps: Mapping[str, float]

    def read(self, name: str) -> Tensor:
        """The tensor, or its part of the batch norm that only scales and shifts."""
        prefix, _, part = name.rpartition(".")
        if prefix not in self.eps or part not in BN_PARTS:
            return self.source.read(name)
        return scale_and_shift({p: self.source.read(f"{prefix}.{p}") for p in BN_PARTS}, self.eps[prefix])[part]


def prepare_batch_norm(source: TensorSource, mode: str, module: nn.Module | None) -> TensorSource:
    """`source` as `bn=mode` wants it read: "keep" unchanged, "scale-shift" with every batch norm as a scale and
    a shift.

    With `module` its own `eps` is used, else the default of 1e-5.

    **Raises** `UsageError` for "fold" (methods that know the network fold themselves) and for "scale-shift" without
    batch norm.
    """
    if mode == "keep":
        return source
    if mode == "fold" and module is None:
        raise UsageError("bn='fold' needs the network's code (module=), to know which weights come before a batch norm")
    found = batch_norms(source.specs, source.aliases)
    if not found:
        raise UsageError(
            "bn='scale-shift': no batch norm found (NAME.weight, .bias, .running_mean, .running_var); use bn='keep'"
        )
    if module is None:
        _warn_of_eps(source, found)
    parts = dict(module.named_modules()) if module is not None else {}
    return ScaleShiftSource(source, {prefix: getattr(parts.get(prefix), "eps", DEFAULT_EPS) for prefix in found})


def _warn_of_eps(source: TensorSource, found: list[str]) -> None:
    """Warn where another eps than the default would make another network."""
    least = min(float(source.read(f"{prefix}.running_var").min()) for prefix in found)
    if least < 0.05:
        warnings.warn(
            f"bn='scale-shift' takes eps = {DEFAULT_EPS} (torch's default), because a checkpoint does not tell; with "
            f"running variances down to {least:.2g} another eps would be another network: give module= to use its own",
            stacklevel=3,
        )
