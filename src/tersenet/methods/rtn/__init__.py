"""Round to nearest: the baseline. Every weight goes to the nearest level of a uniform grid between the extremes.

Symmetric, B bits: `scale = max|w| / (2^(B-1) - 1)`, codes in `[-(2^(B-1) - 1), 2^(B-1) - 1]`. Symmetric 1 bit is `+-s`
with `s = mean|w|`, the least-squares choice. Affine: `scale = (max - min) / (2^B - 1)` over a range that holds zero,
integer zero point, codes in `[-2^(B-1), 2^(B-1) - 1]`. One scale per tensor, per output channel, or per group of
consecutive weights of a row. Scales are rounded to fp16 (fp32 where fp16 would lose them) before the codes are chosen.

`format` makes the blocks of other tools instead, value for value: Q8_0, Q4_0 and Q4_1 of llama.cpp, NF4 of QLoRA.

Needs nothing but the weights; with the network's code (`module=`), `bn="fold"` folds batch norm into the weights first
and `equalise=True` equalises channels between layers (Nagel et al. 2019), which helps one scale per tensor most.

Use it as the baseline that every other method has to beat, and at 8 bits, where nothing is lost and it takes a
second. Not below 5 bits, where `vlcq` keeps more accuracy in fewer bytes on every network that we measured. It costs
seconds; no data.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from ...core.fields import Within, check_widths
from ...core.grid import Uniform
from ...core.method import Job, Knob, Method
from ...core.model import Item, QTensor
from ...errors import UsageError
from ...network.fold import rewritten
from ...network.kept import LARGEST, check_finite, keep, prepare_batch_norm, smallest_batch_norm, why_kept
from .formats import in_blocks

OF_UNIFORM = ("bits", "granularity", "group_size", "affine")  # fields that a format of other tools has no use for
BLOCK = 1 << 17  # weights per block: stays in the cache


def stored_scale(scale: Tensor) -> Tensor:
    """`scale` (>= 0) as stored: fp16 if all of it is normal there, else fp32. A scale of 0 (all zeros) becomes 1.

    From 2^8 on it is fp32, because 127 times a scale that fp16 rounded up may be more than fp16 weights can hold.
    """
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    fits = ((scale >= 2**-14) & (scale <= 2**8)).all()
    return scale.to(torch.float16 if fits else torch.float32)


def range_grid(low: Tensor, high: Tensor, mean: Tensor, bits: int, affine: bool) -> Uniform:
    """The grid for weights in `[low, high]` with mean magnitude `mean` (which only symmetric 1 bit uses).

    **Shapes**: all of one shape, which becomes the shape of the grid's fields.
    """
    if affine:
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = stored_scale((high - low) / (2**bits - 1))
        steps = torch.round(-low / scale.float()).clamp(0, 2**bits - 1)
        return Uniform(scale, zero_point=steps.to(torch.int32) - 2 ** (bits - 1))
    if bits == 1:
        half = stored_scale(mean)
        return Uniform(half * 2, offset=-half)
    return Uniform(stored_scale(torch.maximum(-low, high) / (2 ** (bits - 1) - 1)))


def unit_statistics(block: Tensor, unit: int) -> Tensor:
    """Minimum, maximum and mean magnitude of every `unit` consecutive weights of a row (the last unit may be short).

    **Shapes**: `[rows, row]` -> `[3, rows, ceil(row / unit)]`, fp32.
    """
    block = block.float()
    rows, row = block.shape
    whole = row // unit * unit
    parts = [block[:, :whole].reshape(rows, -1, unit)] if whole else []
    parts += [block[:, whole:].unsqueeze(1)] if whole < row else []
    return torch.cat([torch.stack((part.amin(2), part.amax(2), part.abs().mean(2))) for part in parts], dim=2)


def round_to(grid: Uniform, block: Tensor, low: int, high: int) -> Tensor:
    """Codes of the levels of `grid` nearest to `block`, clamped to `[low, high]`.

    **Shapes**: `block` `[rows, row]`; grid fields `[]` or `[rows, row]` (or `[rows, 1]`).
    """
    block = block.float()
    if grid.offset is not None:
        block = block - grid.offset.float()
    codes = torch.round(block / grid.scale.float())
    if grid.zero_point is not None:
        codes += grid.zero_point
    return codes.clamp_(low, high)


@dataclass(frozen=True)
class Rtn(Method):
    """Round to nearest on a uniform grid of `bits` bits (1 to 8)."""

    needs: ClassVar[str] = "nothing"
    reference: ClassVar[str] = ""
    QUICK: ClassVar[Mapping[str, Any]] = {}

    bits: Annotated[int, Within(1, 8)] = 4
    """Bits per weight."""
    granularity: Literal["tensor", "channel", "group"] = "channel"
    """What shares a scale: the tensor, an output channel, or a group of a row."""
    group_size: Annotated[int, Within(1, 2**31)] = 128
    """Weights in a group, for granularity group."""
    affine: bool = False
    """A range with a zero point instead of a symmetric one."""
    format: Literal["uniform", "q8_0", "q4_0", "q4_1", "nf4"] = "uniform"
    """The blocks of other tools: 32 weights (nf4: 64) that share a scale; in place of bits, granularity and affine."""
    equalise: bool = False
    """Equalise channels between layers first; needs the network's code."""

    def check(self) -> None:
        """Channels are equalised after a folded batch norm; every width is 1 to 8."""
        if self.equalise and self.bn == "scale-shift":
            raise UsageError('equalise=True needs batch norm folded: give bn="fold" ("keep" for a network without any)')
        check_widths(self.layer_bits, 1, 8)
        plain = {each.name: each.default for each in fields(type(self)) if each.name in OF_UNIFORM}
        if self.format != "uniform" and (other := [name for name in OF_UNIFORM if getattr(self, name) != plain[name]]):
            raise UsageError(f"format={self.format!r} is a format as it is: leave out {other[0]}=")
        if self.format != "uniform" and self.layer_bits:
            raise UsageError(f"format={self.format!r} has one width: leave out layer_bits=")

    @property
    def knob(self) -> Knob:
        """Whole bits; a format of other tools has nothing to turn."""
        return Knob("bits", (8, 7, 6, 5, 4, 3, 2, 1) if self.format == "uniform" else (self.bits,))

    @classmethod
    def auto_points(cls, job: Job) -> tuple[Method, ...]:
        """The formats of other tools, which a smaller file has to beat."""
        bn = smallest_batch_norm(job.source)
        return cls(bn=bn, format="q8_0"), cls(bn=bn, format="q4_1"), cls(bn=bn, format="nf4"), cls(bn=bn, format="q4_0")

    def compress(self, job: Job) -> Iterator[Item]:
        """Every tensor of `source`, rounded or kept, in order; `module` only tells how it may be rewritten."""
        source, module = job.source, job.module
        rewrites = self.equalise or self.bn == "fold"
        source = (
            rewritten(source, module, None, self.equalise) if rewrites else prepare_batch_norm(source, self.bn, module)
        )
        for name, spec in source.specs.items():
            tensor, reason = source.read(name), why_kept(name, spec, self)
            chosen = replace(self, bits=self.bits_of(name, self.bits)) if self.layer_bits else self
            if reason is None:
                yield name, chosen.quantize(name, tensor, spec.axis)
            else:
                yield name, keep(tensor, reason, self.kept_dtype)

    def quantize(self, name: str, tensor: Tensor, axis: int = 0) -> QTensor:
        """`tensor` (called `name` in errors) on its grid. **Raises** `WeightError` for a NaN or an infinity."""
        if self.format != "uniform":
            return in_blocks(name, tensor, self.format)
        axis = 0 if self.granularity == "group" else axis
        turned = tensor.transpose(0, axis)
        rows = turned.flatten(1)
        count, row = rows.shape
        unit = self.group_size if self.granularity == "group" else row
        steps = [slice(start, start + max(1, BLOCK // row)) for start in range(0, count, max(1, BLOCK // row))]
        low, high, mean = torch.cat([unit_statistics(rows[part], unit) for part in steps], dim=1)
        if not ((low.abs() <= LARGEST) & (high.abs() <= LARGEST)).all():
            check_finite(name, tensor)
        if self.granularity == "tensor":
            low, high, mean = low.min(), high.max(), mean.mean()
        grid = range_grid(low, high, mean, self.bits, self.affine)
        codes = torch.empty(rows.shape, dtype=torch.int8)
        for part in steps:
            codes[part] = round_to(_block_of(grid, part, unit, row), rows[part], *self.code_range)
        return QTensor(
            codes.reshape(turned.shape).transpose(0, axis).contiguous(), self._shaped(grid, axis), tensor.dtype
        )

    @property
    def code_range(self) -> tuple[int, int]:
        """Lowest and highest code."""
        if self.affine:
            return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1
        return (0, 1) if self.bits == 1 else (1 - 2 ** (self.bits - 1), 2 ** (self.bits - 1) - 1)

    def _shaped(self, grid: Uniform, axis: int) -> Uniform:
        if self.granularity == "channel":
            return replace(_each(grid, lambda field: field[:, 0]), axis=axis)
        if self.granularity == "group":  # there are many: a zero point is a code, so a byte holds it
            zero_point = None if grid.zero_point is None else grid.zero_point.to(torch.int8)
            return replace(grid, zero_point=zero_point, group_size=self.group_size)
        return grid


def _block_of(grid: Uniform, rows: slice, unit: int, row: int) -> Uniform:
    """The part of a grid (fields `[rows, units]` or `[]`) that belongs to a block of rows, spread over the block."""

    def spread(field: Tensor) -> Tensor:
        if field.dim() == 0 or field.shape[1] == 1:
            return field if field.dim() == 0 else field[rows]
        return field[rows].repeat_interleave(unit, dim=1)[:, :row]

    return _each(grid, spread)


def _each(grid: Uniform, change: Callable[[Tensor], Tensor]) -> Uniform:
    zero_point, offset = (None if field is None else change(field) for field in (grid.zero_point, grid.offset))
    return Uniform(change(grid.scale), zero_point, offset)
