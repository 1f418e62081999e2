"""Coder 4, context mixing, as docs/format.md says. Slow."""

from bisect import bisect_left
from collections import defaultdict
from functools import partial

import numpy as np

from .bits import Ints, unzigzag, varint
from .checks import need

ROOTS = (1518500250, 1276901417, 1170923762, 1121280436, 1097253708, 1085434106, 1079572136, 1076653033)
ONE = 1 << 30


def clip(v: int, a: int, b: int) -> int:
    return max(a, min(b, v))


def quo(v: int, by: int) -> int:
    return abs(v) // by * (1 if v >= 0 else -1)


def squash(x: int) -> int:
    y = ONE
    for i in range(8):
        if abs(x) >> (7 - i) & 1:
            y = (y * ROOTS[i] + ONE // 2) >> 30
    y <<= abs(x) >> 8
    p = min(65535, (65536 * y + (y + ONE) // 2) // (y + ONE))
    return p if x >= 0 else 65536 - p


SQUASH = {x: squash(x) for x in range(-4096, 4096)}
STRETCH = [bisect_left(range(-4096, 4096), 16 * i + 8, key=SQUASH.__getitem__) - 4096 for i in range(4096)]


class Bits:
    """The arithmetic decoder, and slots."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.low, self.high = data, 4, 0, 2**32 - 1
        self.value = int.from_bytes(data[:4] + bytes(4 - len(data[:4])), "big")

    def decide(self, p: int) -> int:
        w = self.high - self.low
        middle = self.low + (w >> 16) * p + ((w % 65536) * p >> 16)
        bit = int(self.value <= middle)
        self.low, self.high = (self.low, middle) if bit else (middle + 1, self.high)
        while self.low >> 24 == self.high >> 24:
            self.low, self.high = self.low % 2**24 * 256, self.high % 2**24 * 256 + 255
            self.value = self.value % 2**24 * 256 + (self.data[self.at] if self.at < len(self.data) else 0)
            self.at += 1
        return bit

    def alone(self, slot: list[int], limit: int) -> int:
        bit = self.decide(clip(slot[0], 32, 65504))
        learn(slot, bit, 131072 // (2 * slot[1] + 3), limit)
        return bit

    def end(self) -> None:
        for count in range(5):
            unit = 2 ** (32 - 8 * count)
            last = -(-self.low // unit) * unit
            if last <= self.high:
                need(
                    self.value == last and self.at - 4 + count == len(self.data), "a chunk with other bytes at its end"
                )
                return


def learn(slot: list[int], bit: int, rate: int, limit: int) -> None:
    slot[0] += (65535 * bit - slot[0]) * rate >> 16
    slot[1] = min(limit, slot[1] + 1)


class Mixed:
    """Decisions that nine contexts predict."""

    def __init__(self, bits: Bits) -> None:
        self.bits = bits
        self.slots: dict[tuple[int, ...], list[int]] = defaultdict(lambda: [32768, 0])
        self.sets: dict[tuple[int, ...], list[list[int]]] = defaultdict(lambda: [[7000] * 9 + [0], [0]])
        self.steps: dict[tuple[int, int, int], list[int]] = {}

    def decide(self, kind: int, contexts: list[int], level: int, lean: int) -> int:
        slots = [self.slots[i, context, kind] for i, context in enumerate(contexts)]
        x = [STRETCH[p >> 4] * (512 * n // (2 * n + 3)) >> 8 for p, n in slots] + [256]
        sets = self.sets[(kind,)], self.sets[kind, level]
        m = [clip(sum((w >> 4) * y for w, y in zip(each[0], x, strict=True)) >> 12, -4096, 4095) for each in sets]
        b = (m[0] + m[1]) >> 1
        a = clip(b + 2048, 0, 4095)
        f = a % 128
        two = [self.steps.setdefault((kind, lean, j), [SQUASH[128 * (j - 16)], 0]) for j in (a // 128, a // 128 + 1)]
        q = (two[0][0] * (128 - f) + two[1][0] * f) >> 7
        bit = self.bits.decide(clip((3 * SQUASH[b] + q) >> 2, 2, 65534))
        for slot in slots:
            learn(slot, bit, 131072 // (2 * slot[1] + 3), 250)
        learn(two[f >= 64], bit, 65536 // (two[f >= 64][1] + 20), 200)
        for each, mean in zip(sets, m, strict=True):
            e = (65536 * bit - SQUASH[mean]) * (6 + 200 // (each[1][0] + 8)) >> 6
            each[0][:] = [
                clip(w + ((y * e + 2048) >> 12), 1 - 2**19, 2**19 - 1) for w, y in zip(each[0], x, strict=True)
            ]
            each[1][0] = min(511, each[1][0] + 1)
        return bit


def size(v: int) -> int:
    return min(abs(v), 65535)


def lean_of(v: int) -> int:
    return 64 * clip(v, -127, 127)


def octaves(v: int) -> int:
    t = v.bit_length() - 1
    return v if v < 4 else 4 * (t - 1) + (v >> (t - 2)) % 4


def towards(m: int, z: int, n: int) -> int:
    return m + ((z - m) * (65536 // (n + 1)) >> 16)


class Means:
    """Mean magnitudes by key."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.all: dict[int, list[int]] = defaultdict(lambda: [0, 0])

    def get(self, key: int, other: int) -> int:
        return self.all[key][0] if self.all[key][1] else other

    def add(self, key: int, z: int, before: int) -> None:
        value, seen = self.all[key]
        n = min(self.limit, seen + 1)
        self.all[key] = [(z + before) >> 1 if seen == 0 else towards(value, z, n), n]


class Chunk:
    """One chunk: `v` are its integers, as far as they are known."""

    def __init__(self, data: bytes, count: int, start: int, layout: tuple[int, int, int, int]) -> None:
        self.bits, self.v, self.start = Bits(data), [0] * count, start
        self.most, self.row, self.kernel, self.line = layout
        self.mixed = Mixed(self.bits)
        self.low: dict[tuple[int, int], list[int]] = defaultdict(lambda: [32768, 0])
        self.columns, self.channels, self.places = Means(24), Means(200), Means(254)
        self.leans: dict[tuple[str, int], int] = defaultdict(int)
        self.weights: dict[int, list[int]] = defaultdict(lambda: [0] * 14)
        self.power: dict[int, int] = defaultdict(int)
        self.total = self.seen = 0

    def decode(self) -> list[int]:
        """All integers."""
        dead, before, begin = [[32768, 0], [32768, 0]], 0, 0
        while begin < len(self.v):
            end = min(len(self.v), begin + self.row - (self.start + begin) % self.row)
            before = self.bits.alone(dead[before], 60)
            self.mean_row, self.of_kernel, self.lean_kernel = self._mean_all(), 0, 0
            self.leans["row", 0] = 0
            for i in range(begin, begin if before else end):
                self._one(i, i - begin)
            begin = end
        self.bits.end()
        return self.v

    def _mean_all(self) -> int:
        return 256 * self.total // self.seen if self.seen else 256

    def _back(self, i: int, distance: int, right: bool) -> int:
        return self.v[i - distance] if right and distance <= i else 0

    def _one(self, i: int, done: int) -> None:
        at, row, kernel, line = (self.start + i) % self.row, self.row, self.kernel, self.line
        c, k = divmod(at, kernel)
        flat = kernel == 1
        if k == 0:
            self.of_kernel = self.lean_kernel = 0
        back = partial(self._back, i)
        left, left2, above, above2 = back(1, at >= 1), back(2, at >= 2), back(row, True), back(2 * row, True)
        up = back(3, at >= 3) if flat else back(line, k >= line)
        near = back(row + 1, at >= 1) if flat else back(kernel, c >= 1)
        far = back(row - 1, row > 1 and at + 1 < row) if flat else back(2 * kernel, c >= 2)
        of_signs = left if flat or k >= 1 else 0, left2 if flat or k >= 2 else 0, left if flat else up
        of_lines = back(line - 1, line > 1 and k >= line), back(line + 1, line > 1 and k > line)
        of_rest = left2 if flat else back(2 * line, k >= 2 * line), left if flat else near, left2 if flat else far
        y = [lean_of(each) for each in (*of_signs, *of_lines, *of_rest, above, above2)]
        leans, place = self.leans, min(k, 63)
        y += [leans["column", i % row], lean_of(up) if flat else leans["channel", c], leans["row", 0]]
        y += [quo(64 * self.lean_kernel, k) if k else leans["place", place]]
        guess = clip(sum(u * each for u, each in zip(self.weights[place], y, strict=True)) >> 16, -(2**20), 2**20)
        s = [size(each) for each in (left, left2, above, above2, near, far, up)]
        around = (3 * s[0] + 2 * s[1] + 2 * s[2] + s[3] + 2 * s[4] + s[5] + s[6]) * 256 // 12
        means = self._means(i % row, c, place)
        self.v[i] = self._read(self._contexts((left, left2, up, above, near), means, around, guess, k))
        self._predict_better(place, y, guess, self.v[i])
        self._remember(self.v[i], i % row, c, place, done, means)

    def _means(self, column: int, channel: int, place: int) -> tuple[int, int, int]:
        """Of the column, the channel and the place."""
        of_column = self.columns.get(column, self.mean_row)
        of_channel = of_column if self.kernel == 1 else self.channels.get(channel, self.mean_row)
        return of_column, of_channel, self.places.get(place, self.mean_row)

    def _contexts(
        self, close: tuple[int, int, int, int, int], means: tuple[int, int, int], around: int, guess: int, k: int
    ) -> tuple[list[int], int, int]:
        """The nine contexts, the level and the lean."""
        left, left2, up, above, near = close
        flat, whole = self.kernel == 1, max(1, self._mean_all())
        expected = min(self.mean_row * means[1] // whole, 2**26)
        if not flat:
            expected = min(expected * means[2] // whole, 2**26)
        of_kernel = 256 * self.of_kernel // k if k else self.mean_row
        level = min(63, octaves((expected + around) // 2 >> 3))
        lean = clip(quo(16 * guess, max(64, (whole >> 2) + 16)), -20, 20) + 20
        signs = 0
        for each in (left, up, above, near, left2):
            signs = 3 * signs + (each > 0) + (each >= 0)
        contexts = [
            0,
            min(63, octaves(expected >> 3)),
            48 * min(47, octaves(self.mean_row >> 3)) + min(47, octaves(means[0] >> 3)),
            (clip(left, -3, 3) + 3) * 49 + (clip(left2, -3, 3) + 3) * 7 + clip(up, -3, 3) + 3,
            min(63, octaves(means[1] >> 3)),
            signs,
            24 * lean + min(level // 2, 23),
            10 * (clip(quo(guess - 8 if guess < 0 else guess + 8, 16), -15, 15) + 15) + min(k, 9),
            min(63, octaves(around >> 3)) if flat else 32 * min(k, 31) + min(31, octaves(of_kernel >> 3) // 2),
        ]
        return contexts, level, lean

    def _read(self, known: tuple[list[int], int, int]) -> int:
        if not self.mixed.decide(0, *known):
            return 0
        sign, n, found = -1 if self.mixed.decide(1, *known) else 1, 1, 1
        while n < self.most and self.mixed.decide(1 + n, *known):
            n += 1
        for bit in range(n - 2, -1, -1):
            if n - 2 - bit < 3:
                found = 2 * found + self.mixed.decide(self.most + 7 * (n - 2) + found, *known)
            else:
                found = 2 * found + self.bits.alone(self.low[n, bit], 250)
        return sign * found

    def _predict_better(self, place: int, y: list[int], guess: int, v: int) -> None:
        power = sum(each * each for each in y)
        self.power[place] += (power - self.power[place]) >> 4
        gain = quo(4096000 * (lean_of(v) - guess), self.power[place] + 131072 + power)
        both = zip(self.weights[place], y, strict=True)
        self.weights[place] = [clip(u + (gain * each >> 8), -(2**20), 2**20) for u, each in both]

    def _remember(self, v: int, column: int, channel: int, place: int, done: int, means: tuple[int, int, int]) -> None:
        for key, n in (
            (("column", column), self.columns.all[column][1] + 1),
            (("channel", channel), 15),
            (("row", 0), min(done, 60) + 3),
            (("place", place), 63),
        ):
            self.leans[key] = towards(self.leans[key], lean_of(v), n)
        z = 256 * size(v)
        self.columns.add(column, z, means[0])
        if self.kernel > 1:
            self.channels.add(channel, z, means[1])
        self.places.add(place, z, z)
        self.mean_row = towards(self.mean_row, z, min(done + 4, 249))
        self.of_kernel, self.lean_kernel = self.of_kernel + size(v), self.lean_kernel + clip(v, -127, 127)
        self.total, self.seen = self.total + size(v), self.seen + 1
        if self.seen == 65536:
            self.total, self.seen = self.total >> 1, self.seen >> 1


def decode(head: bytes, pieces: list[tuple[bytes, int]]) -> list[Ints]:
    """The codes of every chunk."""
    numbers, end = [], 1
    for _ in range(4):
        number, end = varint(head, end)
        numbers.append(number)
    center, row, kernel, line = numbers
    need(end == len(head) and 1 <= head[0] <= 31 and 1 <= row <= 2**20, "parameters of context mixing")
    need(bool(kernel and line) and row % kernel == 0 and kernel % line == 0, "rows that are no whole kernels and lines")
    found, start = [], 0
    for data, count in pieces:
        values = Chunk(data, count, start, (head[0], row, kernel, line)).decode()
        found.append(np.array([v + unzigzag(center) for v in values], np.int64))
        start += count
    return found
