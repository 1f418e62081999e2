"""Context mixing, the reference: short, slow, and the definition of the format.

Integers lie in rows of whole kernels. What lies around one (its row, the row above, the kernel, the same tap in the
channels before) gives an expected magnitude, a predicted value and nine contexts; the integer is then coded as binary
decisions: whether it is 0, its sign, its number of bits in unary, its bits after the first. All statistics begin anew
in every chunk, and nothing outside the chunk is looked at. A row of zeros is one decision.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .mixer import SLOT, Decoding, Encoding, Mixer, clip

TAPS, PLACES, LARGEST = 14, 64, 65535
MEAN = [65536 // (n + 1) for n in range(256)]
Codes = npt.NDArray[np.int32]


class Layout(NamedTuple):
    """Rows of `row` integers, kernels of `kernel`, lines of `line`; a magnitude has at most `most` bits."""

    row: int
    kernel: int
    line: int
    most: int


def encode(values: Codes, start: int, layout: Layout) -> bytes:
    """The bytes of a chunk whose first integer is number `start` of all."""
    way = Encoding()
    _Chunk(layout, start, way).run(values.tolist())
    return way.finish()


def decode(data: bytes, count: int, start: int, layout: Layout) -> Codes:
    """The integers of a chunk. **Raises** `CodecError` unless an encoder wrote it."""
    way = Decoding(data)
    values = _Chunk(layout, start, way).run([0] * count)
    way.finish()
    return np.array(values, np.int32)


class _Mean:
    """A mean magnitude in 1/256: of all numbers at first, then of about the last `limit`."""

    def __init__(self) -> None:
        self.value = self.n = 0

    def or_else(self, other: int) -> int:
        return self.value if self.n else other

    def add(self, number: int, before: int, limit: int) -> None:
        self.n = min(self.n + 1, max(self.n, limit))
        self.value = number + before >> 1 if self.n == 1 else _towards(self.value, number, self.n)


def _towards(mean: int, number: int, n: int) -> int:
    return mean + ((number - mean) * MEAN[n] >> 16)


def _quarters(value: int) -> int:
    """The logarithm in quarters of an octave."""
    if value < 4:
        return value
    top = value.bit_length() - 1
    return (top - 1) * 4 + (value >> top - 2 & 3)


def _share(value: int, by: int) -> int:
    """Divided towards zero."""
    return value // by if value >= 0 else -(-value // by)


def _lean(value: int) -> int:
    return clip(value, -127, 127) * 64


def _size(value: int) -> int:
    return min(abs(value), LARGEST)


class _Chunk:
    def __init__(self, layout: Layout, start: int, way: Encoding) -> None:
        self.row, self.kernel, self.line, self.most = layout
        self.start, self.way = start, way
        self.mixer = Mixer(max(2, self.most + 1 + 7 * (self.most - 1)), way)
        self.dead, self.low_bits = [SLOT, SLOT], [[SLOT] * 32 for _ in range(32)]
        self.columns: dict[int, _Mean] = {}
        self.channels: dict[int, _Mean] = {}
        self.places = [_Mean() for _ in range(PLACES)]
        self.lean_columns: dict[int, int] = {}
        self.lean_channels: dict[int, int] = {}
        self.lean_places = [0] * PLACES
        self.filter = [[0] * TAPS for _ in range(PLACES)]
        self.power_mean = [0] * PLACES
        self.sum = self.seen = 0

    def run(self, values: list[int]) -> list[int]:
        """`values` as they are read, or written."""
        i = was_dead = 0
        while i < len(values):
            length = min(len(values) - i, self.row - (self.start + i) % self.row)
            dead = int(self.way.writes and not any(values[i : i + length]))
            dead, self.dead[was_dead] = self.mixer.plain(self.dead[was_dead], dead, 60)
            was_dead = dead
            if not dead:
                self._row(values, i, length)
            i += length
        return values

    def _row(self, values: list[int], begin: int, length: int) -> None:
        self.mean_row = self.sum * 256 // self.seen if self.seen else 256
        self.lean_row = self.in_kernel = self.lean_kernel = 0
        for i in range(begin, begin + length):
            self._look(values, i)
            values[i] = self._coded(values[i])
            self._learn(values[i], i - begin)

    def _look(self, values: list[int], i: int) -> None:
        """Predict integer `i`, and set the contexts."""
        row, kernel, line, at = self.row, self.kernel, self.line, (self.start + i) % self.row
        flat = kernel == 1
        self.column, (self.channel, tap) = i % row, divmod(at, kernel)
        if not tap:
            self.in_kernel = self.lean_kernel = 0
        k = self.place = min(tap, PLACES - 1)

        def back(by: int, there: bool) -> int:
            return values[i - by] if there and by <= i else 0

        left, left2 = back(1, at >= 1), back(2, at >= 2)
        above, above2 = back(row, True), back(2 * row, True)
        up = back(3, at >= 3) if flat else back(line, tap >= line)
        near = back(row + 1, at >= 1) if flat else back(kernel, self.channel >= 1)
        far = back(row - 1, row > 1 and at + 1 < row) if flat else back(2 * kernel, self.channel >= 2)
        lean_column = self.lean_columns.get(self.column, 0)
        lean_kernel = _share(self.lean_kernel * 64, tap) if tap else self.lean_places[k]
        self.taps = [
            _lean(left if flat or tap >= 1 else 0),
            _lean(left2 if flat or tap >= 2 else 0),
            _lean(left if flat else up),
            _lean(back(line - 1, tap >= line) if line > 1 else 0),
            _lean(back(line + 1, tap > line) if line > 1 else 0),
            _lean(left2 if flat else back(2 * line, tap >= 2 * line)),
            _lean(left if flat else near),
            _lean(left2 if flat else far),
            _lean(above),
            _lean(above2),
            lean_column,
            _lean(up) if flat else self.lean_channels.get(self.channel, 0),
            self.lean_row,
            lean_kernel,
        ]
        self.power = sum(x * x for x in self.taps)
        self.predicted = clip(
            sum(w * x for w, x in zip(self.filter[k], self.taps, strict=True)) >> 16, -(1 << 20), 1 << 20
        )
        around = (
            3 * _size(left) + 2 * (_size(left2) + _size(above) + _size(near)) + _size(above2) + _size(far) + _size(up)
        )
        self._contexts(tap, (left, left2, up, above, near), around * 256 // 12)

    def _contexts(self, tap: int, neighbours: tuple[int, int, int, int, int], around: int) -> None:
        left, left2, up, above, near = neighbours
        flat, k = self.kernel == 1, self.place
        self.column_mean = self.columns.setdefault(self.column, _Mean()).or_else(self.mean_row)
        self.channel_mean = self.column_mean
        if not flat:
            self.channel_mean = self.channels.setdefault(self.channel, _Mean()).or_else(self.mean_row)
        kernel_mean = (self.in_kernel << 8) // tap if tap else self.mean_row
        whole = max(1, self.sum * 256 // self.seen if self.seen else 256)
        expected = self.mean_row * self.channel_mean // whole
        if not flat:
            expected = min(expected, 1 << 26) * self.places[k].or_else(self.mean_row) // whole
        expected = min(expected, 1 << 26)
        level = clip(_quarters((expected + around) // 2 >> 3), 0, 63)
        relative = clip(_share(self.predicted * 16, max(64, (whole >> 2) + 16)), -20, 20) + 20
        absolute = clip(_share(self.predicted + (-8 if self.predicted < 0 else 8), 16), -15, 15) + 15
        signs = 0
        for value in (left, up, above, near, left2):
            signs = signs * 3 + (0 if value < 0 else 2 if value else 1)
        row_level = clip(_quarters(self.mean_row >> 3), 0, 47)
        in_kernel = clip(_quarters(kernel_mean >> 3) // 2, 0, 31)
        contexts = [
            0,
            clip(_quarters(expected >> 3), 0, 63),
            row_level * 48 + clip(_quarters(self.column_mean >> 3), 0, 47),
            (clip(left, -3, 3) + 3) * 49 + (clip(left2, -3, 3) + 3) * 7 + clip(up, -3, 3) + 3,
            clip(_quarters(self.channel_mean >> 3), 0, 63),
            signs,
            relative * 24 + min(level // 2, 23),
            absolute * 10 + min(k, 9),
            clip(_quarters(around >> 3), 0, 63) if flat else min(k, 31) * 32 + in_kernel,
        ]
        self.mixer.set(contexts, level, relative)

    def _coded(self, value: int) -> int:
        """Zero or not, sign, number of bits in unary, then the bits after the first: three mixed, others alone."""
        code, size = self.mixer.code, abs(value)
        if not code(0, int(value != 0)):
            return 0
        negative, bits, found = code(1, int(value < 0)), 1, 1
        while bits < self.most and code(1 + bits, int(size >> bits > 0)):
            bits += 1
        for depth in range(bits - 1):
            shift = bits - 2 - depth
            bit = size >> shift & 1
            if depth < 3:
                bit = code(self.most + 1 + 7 * (bits - 2) + found - 1, bit)
            else:
                bit, self.low_bits[bits][shift] = self.mixer.plain(self.low_bits[bits][shift], bit, 250)
            found = found << 1 | bit
        return -found if negative else found

    def _learn(self, value: int, done: int) -> None:
        size, lean, k = _size(value), _lean(value), self.place
        self.power_mean[k] += self.power - self.power_mean[k] >> 4
        gain = _share((lean - self.predicted) * 16000 * 256, self.power_mean[k] + 32 * 64 * 64 + self.power)
        self.filter[k] = [
            clip(w + (gain * x >> 8), -(1 << 20), 1 << 20) for w, x in zip(self.filter[k], self.taps, strict=True)
        ]
        column = self.columns[self.column]
        self.lean_columns[self.column] = _towards(self.lean_columns.get(self.column, 0), lean, column.n + 1)
        self.lean_channels[self.channel] = _towards(self.lean_channels.get(self.channel, 0), lean, 15)
        self.lean_row = _towards(self.lean_row, lean, min(done, 60) + 3)
        self.lean_places[k] = _towards(self.lean_places[k], lean, 63)
        self.lean_kernel += clip(value, -127, 127)
        column.add(size << 8, self.column_mean, 24)
        if self.kernel > 1:
            self.channels[self.channel].add(size << 8, self.channel_mean, 200)
        self.places[k].add(size << 8, size << 8, 254)
        self.mean_row = _towards(self.mean_row, size << 8, min(done + 4, 249))
        self.in_kernel += size
        self.sum += size
        self.seen += 1
        if self.seen == 1 << 16:
            self.sum, self.seen = self.sum >> 1, self.seen >> 1
