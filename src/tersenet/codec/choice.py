"""Which model fits: decided from histograms by integer arithmetic, so that every install writes the same bytes."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .stream import put_varint, zigzag
from .symbols import Model, Values, cut, grouped
from .table import MAX_SYMBOLS, Ints, frequencies, lengths

SAMPLE = 1 << 18  # groups are judged on about so many integers
RUN = 6  # that lie side by side in a sample: whole groups of 2 and of 3
EXCEPTION_BITS = 20  # what one exception is taken to cost
SIZES = (32, 31, 23, 15, 11, 7, 5, 3)  # windows tried


def choose(values: Ints, counts: Ints) -> tuple[Model, int]:
    """The cheapest model without groups and trellis for a histogram of distinct sorted `values`, and its cost in
    1/256 bit."""
    return min(_ungrouped(values, counts), key=lambda pair: pair[1])


def choose_grouped(values: Ints, counts: Ints, codes: Values, chunk_symbols: int) -> tuple[Model, int]:
    """What `choose` says, or a model of groups that is cheaper for `codes`, of which this is the histogram.

    A sample of the codes says which groups are worth counting, all of them what they cost.
    """
    plain = choose(values, counts)
    if plain[0].split or plain[1] >= 3 * 256 * len(codes):
        return plain
    best, sample = plain, sampled(codes, chunk_symbols)
    for group, size in ((2, 5), (3, 3)):
        for window in _windows(values, counts, 0, (size,)):
            model = replace(window, group=group)
            model, bits = _with_table(model, [group_counts([sample], model)])
            cost = bits * len(codes) // len(sample) + _around(model, values, counts)
            best = min(best, (model, cost), key=lambda pair: pair[1])
    if best is plain:
        return plain
    grouped_model = replace(best[0], mirrored=False)
    model, bits = _with_table(grouped_model, [group_counts(cut(codes, chunk_symbols), grouped_model)])
    return min(plain, (model, bits + _around(model, values, counts)), key=lambda pair: pair[1])


def sampled(codes: Values, chunk_symbols: int) -> Values:
    """About `SAMPLE` of the codes from all over: runs of `RUN` that begin where groups do, at odd distances, so that
    no period is missed; all codes if they are few."""
    per_chunk = chunk_symbols // RUN
    if len(codes) <= SAMPLE or not per_chunk:
        return codes
    runs = len(codes) // chunk_symbols * per_chunk + len(codes) % chunk_symbols // RUN
    stride = -(-runs // (SAMPLE // RUN))
    strata = np.arange(runs // stride, dtype=np.int64)
    drawn = strata * stride + (strata * 2654435761 >> 8 & 0xFFFF) % stride
    starts = drawn // per_chunk * chunk_symbols + drawn % per_chunk * RUN
    chosen: Values = codes[(starts[:, None] + np.arange(RUN)).reshape(-1)]
    return chosen


def group_counts(parts: list[Values], model: Model) -> Ints:
    """How often each grouped symbol occurs in `parts`, which group on their own."""
    counts = np.zeros(model.alphabet, np.int64)
    for part in parts:
        clamped = np.clip(part, model.low, model.low + model.size - 1)
        counts += np.bincount(grouped((clamped - model.low).astype(np.uint8), model), minlength=model.alphabet)
    return counts


def choose_trellis(indices: Values, classes: npt.NDArray[np.uint8], plain: bool) -> tuple[Model, int]:
    """The model for a trellis path with these indices and classes, and its cost in 1/256 bit."""
    values, counts = np.unique(indices, return_counts=True)
    per_class = [np.bincount(indices[classes == c] - int(values[0]), minlength=np.ptp(values) + 1) for c in (0, 1)]
    per_class = [each[values - int(values[0])] for each in per_class]
    candidates = []
    for window in _windows(values, counts, 0):
        model = replace(window, trellis=True, plain=plain)
        counted = [_clamped_counts(values, each, model) for each in per_class]
        model, bits = _with_table(model, [each if each.any() else np.ones_like(each) for each in counted])
        candidates.append((model, bits + _around(model, values, counts)))
    return min(candidates, key=lambda pair: pair[1])


def code_lengths(values: Ints, counts: Ints) -> npt.NDArray[np.float64]:
    """Bits per distinct value under the window table that fits this histogram best (groups and trellis left out).

    **Shapes**: `[n]` sorted distinct values and their counts -> `[n]`.
    """
    model, _ = min(_ungrouped(values, counts), key=lambda pair: pair[1])
    parts = values >> model.split
    inside = np.clip(parts, model.low, model.low + model.size - 1)
    bits = lengths(frequencies(model.levels[0]))[inside - model.low] / 256
    result: npt.NDArray[np.float64] = bits + model.split + EXCEPTION_BITS * (parts != inside)
    return result


def _ungrouped(values: Ints, counts: Ints) -> list[tuple[Model, int]]:
    candidates = []
    for split in _splits(values):
        parts, inverse = np.unique(values >> split, return_inverse=True)
        summed = np.zeros(len(parts), np.int64)
        np.add.at(summed, inverse, counts)
        for window in _windows(parts, summed, split):
            model, bits = _with_table(window, [_clamped_counts(parts, summed, window)])
            candidates.append((model, bits + split * int(counts.sum()) * 256 + _around(model, parts, summed)))
    return candidates


def _splits(values: Ints) -> list[int]:
    """Split widths worth a look: none, and the six from which on a window holds everything."""
    most = 0
    while (int(values[-1]) >> most) - (int(values[0]) >> most) >= MAX_SYMBOLS:
        most += 1
    return sorted({0, *range(max(0, most - 5), most + 1)})


def _windows(parts: Ints, counts: Ints, split: int, sizes: tuple[int, ...] = SIZES) -> list[Model]:
    """Windows over the coded parts: all of them if they fit, and of each size the fullest and the one around zero."""
    low, high = int(parts[0]), int(parts[-1])
    windows = [Model(low, high - low + 1, split)] if high - low < max(sizes) else []
    total = np.concatenate(([0], np.cumsum(counts)))
    for size in sizes:
        if size <= high - low:
            ends = np.searchsorted(parts, parts + size)
            fullest = int(parts[int(np.argmax(total[ends] - total[: len(parts)]))])
            windows += [Model(start, size, split, exceptions=True) for start in sorted({fullest, -(size // 2)})]
    return windows


def _clamped_counts(parts: Ints, counts: Ints, model: Model) -> Ints:
    """Counts of the window's symbols, with what lies outside counted at the nearest end."""
    counted = np.zeros(model.size, np.int64)
    np.add.at(counted, np.clip(parts, model.low, model.low + model.size - 1) - model.low, counts)
    return counted


def _with_table(model: Model, counted: list[Ints]) -> tuple[Model, int]:
    """The model with its own or a mirrored table, whichever is cheaper, and the cost of its symbols in 1/256 bit."""
    options = [model.with_counts(counted)]
    if model.low == -(model.size // 2) and model.size % 2:
        options.append(replace(model, mirrored=True).with_counts(counted))
    costs = [
        sum(int((each * lengths(table)).sum()) for each, table in zip(counted, option.tables, strict=True))
        for option in options
    ]
    best = min(range(len(options)), key=lambda i: costs[i] + _side(options[i]))
    return options[best], costs[best]


def _around(model: Model, parts: Ints, counts: Ints) -> int:
    """The cost of parameters and exceptions in 1/256 bit."""
    outside = int(counts[(parts < model.low) | (parts >= model.low + model.size)].sum())
    return outside * EXCEPTION_BITS * 256 + _side(model)


def _side(model: Model) -> int:
    stored = model.alphabet - model.alphabet // 2 if model.mirrored else model.alphabet
    tables = stored * 6 * (2 if model.trellis else 1)
    return (8 * (2 + (model.split >= 7) + len(put_varint(zigzag(model.low)))) + tables) * 256
