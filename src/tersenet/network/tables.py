"""Tables that were computed and not trained (positions, anchors, masks, filter banks), told by their values alone.

Rounding to a few bits ruins them, and they cost little to keep. With a network's code its buffers are known; a bare
checkpoint does not tell them from weights. A tensor is a table if it is constant, or has only whole numbers of which
some are beyond 255, or if everything that is looked at follows a rule:

* wave: every element follows from the three before it along an axis, always in the same way (a line, an exponential, a
  sinusoid, and a constant beside them);
* mirror: it is the same, or negated, from both ends of an axis (or but for the first element: periodic windows);
* bump: along an axis it rises once and falls once, on one side of zero (filter banks);
* pattern: elements, or the steps between them, repeat what came before: the element before, the one diagonally before,
  or what followed the same elements the last time. At most `SURPRISES` times as many do not as would in random order.

Trained weights follow none of these, however few values they have. docs/design/0009 has the table of errors.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..core.method import Method, TensorSource
from ..core.model import TensorSpec
from .kept import QUANTISABLE, ChangedSource, computed

PLACES = 4  # that are looked at for patterns
LONG = 1 << 14  # elements at each
LINES, POINTS = 64, 64  # that are looked at for waves, mirrors and bumps
LONGEST = 1 << 14  # points of a line for mirrors and bumps
SHORT = 8  # elements along an axis that say something
SLICES = 8  # size of an axis across which elements may mean different things (x and y)
WHOLE = 255  # whole numbers beyond this are no weights
ORDER = 3
CLOSE = 1e-3  # of a wave
SURPRISES = 0.1
MEMORY = (1, 4, 16, 32)  # elements that "the last time" goes by
STRAY = 0.05  # of the lines need not be waves


@dataclass(frozen=True)
class MarkedSource(ChangedSource):
    """A checkpoint whose specs say what is no weight."""

    marked: Mapping[str, TensorSpec]

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        return self.marked

    def read(self, name: str) -> Tensor:
        """The tensor."""
        return self.source.read(name)


def marked(source: TensorSource, module: nn.Module | None) -> MarkedSource:
    """`source` with all that is no weight marked: buffers of `module`, and tables among what it does not train.

    A vector (the statistics of a batch norm) is marked only if it is a table.
    """
    state = {} if module is None else module.state_dict(keep_vars=True)
    trained = {name for name, tensor in state.items() if tensor.requires_grad}
    buffers = {name for name, tensor in state.items() if not isinstance(tensor, nn.Parameter)}
    found = dict(source.specs)
    for name, spec in source.specs.items():
        if spec.dtype not in QUANTISABLE or name in trained:
            continue
        if (name in buffers and len(spec.shape) > 1) or is_table(source.read(name)):
            found[name] = replace(spec, computed="buffer" if name in buffers else "table")
    return MarkedSource(source, found)


def say_computed(source: TensorSource, method: Method) -> None:
    """Log in one line which tensors `method` keeps because they are no weights, and their bytes."""
    sizes = {
        name: spec.shape.numel() * spec.dtype.itemsize
        for name, spec in source.specs.items()
        if computed(name, spec, method)
    }
    if sizes:
        some = [f"{name} ({source.specs[name].computed}, {size:,} bytes)" for name, size in list(sizes.items())[:5]]
        text = "%d tensors of %s bytes are no weights and kept exactly: %s%s; include=NAME makes a table a weight"
        more = ", ..." if len(sizes) > 5 else ""
        logging.getLogger("tersenet").info(text, len(sizes), f"{sum(sizes.values()):,}", ", ".join(some), more)


def is_table(tensor: Tensor) -> bool:
    """Whether the values of a real tensor follow a rule; those of a vector (bias, norm) only if they are a wave.

    >>> is_table(torch.arange(512.0).reshape(64, 8)), is_table(torch.randn(64, 8))
    (True, False)
    """
    values = tensor.detach().squeeze()
    if values.numel() < 2 * SHORT:
        return False
    epsilon = torch.finfo(tensor.dtype).eps
    if tensor.dim() < 2:
        return not _constant(values) and _wave(_lines(values, 0, POINTS), epsilon)
    if _constant(values) or _whole(values):
        return True
    for axis, size in enumerate(values.shape):
        if size >= SHORT and _wave(_lines(values, axis, POINTS), epsilon):
            return True
        if SHORT <= size <= LONGEST:
            lines = _lines(values, axis, size)
            if _mirror(lines) or _mirror(lines[:, 1:]) or _bump(lines):
                return True
    return any(_pattern(values, axis) for axis, size in enumerate(values.shape) if size > 1)


def _constant(values: Tensor) -> bool:
    first = values[(0,) * values.dim()]
    return bool((values[-1] == first).all()) and bool((values == first).all())


def _whole(values: Tensor) -> bool:
    """Whether all values are whole numbers, and some so large as no weight's codes are, yet exact in their type."""
    if not bool((values[0] == values[0].round()).all()):
        return False
    largest = float(values.abs().max())
    return WHOLE < largest < 1 / torch.finfo(values.dtype).eps and bool((values == values.round()).all())


def _lines(values: Tensor, axis: int, points: int) -> Tensor:
    """Some lines along an axis (those that are not 0), all of them or `points` from a quarter on. **Shapes**: ->
    `[lines, points]`, fp64."""
    length = values.shape[axis]
    start = 0 if points >= length or length < 2 * SHORT else min(length // 4, 256, length - points)
    turned = values.movedim(axis, -1)[..., start : start + points]
    if turned.dim() == 1:
        return turned.double().unsqueeze(0)
    count = turned[..., 0].numel()
    picked = torch.linspace(0, count - 1, min(LINES, count)).long()
    lines = turned[torch.unravel_index(picked, turned.shape[:-1])].double()
    return lines[(lines != 0).any(1)]


def _wave(lines: Tensor, epsilon: float) -> bool:
    """Whether every element of nearly all lines is one linear function of the `ORDER` before it.

    `epsilon` is that of the dtype; lines that are flat to its rounding say nothing.
    """
    if len(lines) * (lines.shape[1] - 2 * ORDER) < SHORT or not bool(torch.isfinite(lines).all()):
        return False
    rounding = epsilon * lines.abs().amax(1)
    centred = lines - lines.mean(1, keepdim=True)
    alive = centred.square().mean(1).sqrt() > 32 * rounding
    if int(alive.sum()) < max(1, len(lines) // 4):
        return False
    rounding, centred = rounding[alive], centred[alive]
    before = centred.unfold(1, ORDER, 1)[:, :-1] / centred.abs().amax(1)[:, None, None]
    after = centred[:, ORDER:, None]
    found = torch.linalg.lstsq(before, after, rcond=1e-9, driver="gelsd").solution
    error = (before @ found - after).square().mean((1, 2)).sqrt()
    size, whole = after.square().mean((1, 2)).sqrt(), centred.square().mean(1).sqrt()
    waves = (error <= CLOSE * size + 2 * rounding) & (size > 0.25 * whole)
    return int(waves.sum()) >= (1 - STRAY) * len(waves)


def _mirror(lines: Tensor) -> bool:
    """Whether every line is symmetric or antisymmetric."""
    if lines.numel() < 2 * SHORT * SHORT or not _mirrored(lines[:1]):
        return False
    return bool(torch.isfinite(lines).all()) and _mirrored(lines)


def _mirrored(lines: Tensor) -> bool:
    back, close = lines.flip(1), 1e-5 * lines.abs().amax(1, keepdim=True)
    even, odd = ((lines - back).abs() <= close).all(1), ((lines + back).abs() <= close).all(1)
    return bool((even | odd).all())


def _bump(lines: Tensor) -> bool:
    """Whether every line is on one side of zero, rises once and falls once."""
    if len(lines) < SHORT or float(lines[0].min()) * float(lines[0].max()) < 0 or not bool(lines.isfinite().all()):
        return False
    if not bool((lines >= 0).all()):
        lines = -lines
    steps = lines.diff(dim=1)
    after = torch.arange(lines.shape[1] - 1) >= lines.argmax(1, keepdim=True)
    small = 1e-6 * lines.amax(1, keepdim=True)
    one = torch.where(after, steps <= small, steps >= -small).all()
    return bool((lines >= 0).all()) and bool(one) and float((lines > 0).sum(1).double().mean()) >= ORDER


def _pattern(values: Tensor, axis: int) -> bool:
    """Whether elements, read along an axis, are predicted by those before, at every place that is not constant."""
    others = sorted((other for other in range(values.dim()) if other != axis), key=lambda other: values.shape[other])
    turned = values.permute(*others, axis)
    sliced = turned.dim() > 1 and turned.shape[0] <= SLICES
    verdicts = (
        _predicted(part, turned.shape[-1])
        for piece in (turned.unbind(0) if sliced else (turned,))
        for part in _places(piece)
        if bool((part != part[0]).any())
    )
    first = next(verdicts, False)
    return first and all(verdicts)


def _places(values: Tensor) -> Iterator[Tensor]:
    """Elements in C order from some places, each beginning with a line, if lines are short.

    **Shapes**: -> `[elements]`, fp64.
    """
    count, line = values.numel(), values.shape[-1]
    whole = line if line <= LONG // PLACES else 1
    for place in range(PLACES if count > LONG else 1):
        start = (count - LONG) * place // (PLACES - 1) // whole * whole if count > LONG else 0
        index = torch.unravel_index(torch.arange(start, min(count, start + LONG)), values.shape)
        yield values[index].double().nan_to_num(1e300, 2e300, -2e300)


def _predicted(part: Tensor, line: int) -> bool:
    """Whether few elements of a part surprise: as they are, or as steps (to a hundred-thousandth of the largest)."""
    _, codes, counts = part.unique(return_inverse=True, return_counts=True)
    allowed = SURPRISES * (len(part) - float((counts.double() ** 2).sum()) / len(part))
    if _surprises(codes, line, allowed):
        return True
    if len(counts) > len(part) // 2:  # steps of what never comes again are a wave, or nothing
        return False
    finite = part[part.abs() < 1e300]
    grain = 1e-5 * float(finite.abs().max()) if len(finite) else 0.0
    if not grain:
        return False
    steps = (part.diff(prepend=part[:1]) / grain).round().unique(return_inverse=True)[1]
    return _surprises(steps, line, allowed)


def _surprises(codes: Tensor, line: int, allowed: float) -> bool:
    """Whether some way to predict `codes` is wrong at most `allowed` times."""
    count = len(codes)
    if int((codes[1:] != codes[:-1]).sum()) + 1 <= allowed:
        return True
    lines = codes[: count // line * line].reshape(-1, line)
    if min(lines.shape) >= SHORT and int((lines[1:, 1:] != lines[:-1, :-1]).sum()) <= allowed:
        return True
    if int(codes.max()) >= allowed:  # every new one is a surprise
        return False
    return any(_forgotten(codes, length) <= allowed for length in MEMORY if length < count)


def _forgotten(codes: Tensor, length: int) -> int:
    """How often what follows `length` elements is not what followed them the last time."""
    hashes = torch.zeros(len(codes) - length, dtype=torch.int64)
    for back in range(length):
        hashes = hashes * 0x9E3779B97F4A7C1 + codes[back : len(codes) - length + back] + 1
    order = hashes.argsort(stable=True)
    what, then = hashes[order], codes[length:][order]
    right = (what[1:] == what[:-1]) & (then[1:] == then[:-1])
    return len(codes) - int(right.sum())
