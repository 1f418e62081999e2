"""What context mixing is made of, the reference: tables, the binary arithmetic coder, and the mixer. Integers only.

Probabilities are those of a 1 in 1/65536, logarithms of odds to base 2 in 1/256. A decision is predicted by the slots
of nine contexts (`p`, and how often it was updated, `n`): `x = stretch(p) * trust(n)`. Two sets of weights mix them,
one for the decision and one for the decision and a level; their mean is corrected by a table that learns what came of
such predictions before.
"""

from functools import cache
from typing import NamedTuple

from .stream import CodecError

SIZES = (1, 64, 48 * 48, 343, 64, 243, 41 * 24, 31 * 10, 1024)  # of the contexts
LEVELS, LEANS, STEPS = 64, 41, 33
FIRST_WEIGHT, HEAVIEST = 7000, (1 << 19) - 1  # in 1/65536
ROOTS = (1518500250, 1276901417, 1170923762, 1121280436, 1097253708, 1085434106, 1079572136, 1076653033)
SLOT = 32768 << 16  # a slot that was never updated: p << 16 | n

RATE = [131072 // (2 * n + 3) for n in range(256)]
TRUST = [512 * n // (2 * n + 3) for n in range(256)]
SLOW = [65536 // (n + 20) for n in range(256)]
LEARN = [6 + 200 // (n + 8) for n in range(512)]


class Tables(NamedTuple):
    """`squash[x + 4096]` is the probability for x from -4096 to 4095, `stretch[p >> 4]` its inverse."""

    squash: list[int]
    stretch: list[int]


@cache
def tables() -> Tables:
    """Both, from the roots 2^(1/2), 2^(1/4) ... of 2 in 1/2^30."""
    one = 1 << 30
    squash = [0] * 8193
    for y in range(4097):
        power = one
        for i, root in enumerate(ROOTS):
            if y >> (7 - i) & 1:
                power = power * root + one // 2 >> 30
        power <<= y >> 8
        p = min(65535, ((power << 16) + (power + one) // 2) // (power + one))
        squash[4096 + y], squash[4096 - y] = p, 65536 - p
    stretch, x = [], -4096
    for i in range(4096):
        while squash[x + 4096] < 16 * i + 8:
            x += 1
        stretch.append(x)
    return Tables(squash[:8192], stretch)


def clip(value: int, low: int, high: int) -> int:
    """The nearest integer from `low` to `high`."""
    return low if value < low else high if value > high else value


class Encoding:
    """Decisions to bytes: `low` to `high` is what is left of 0 to 2^32."""

    writes = True

    def __init__(self) -> None:
        self.low, self.high, self.out = 0, 0xFFFFFFFF, bytearray()

    def code(self, p: int, bit: int) -> int:
        """Write a decision that is 1 with probability `p`."""
        middle = self._middle(p)
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while not (self.low ^ self.high) >> 24:
            self.out.append(self.high >> 24)
            self._shift()
        return bit

    def finish(self) -> bytes:
        """All bytes."""
        last, count = self._tail()
        return bytes(self.out) + last.to_bytes(4, "big")[:count]

    def _middle(self, p: int) -> int:
        width = self.high - self.low
        return self.low + (width >> 16) * p + ((width & 0xFFFF) * p >> 16)

    def _shift(self) -> None:
        self.low = self.low << 8 & 0xFFFFFFFF
        self.high = self.high << 8 & 0xFFFFFFFF | 255

    def _tail(self) -> tuple[int, int]:
        """A number from `low` to `high` with the fewest bytes before zeros, and how many those are."""
        for count in range(4):
            unit = 1 << 32 - 8 * count
            number = (self.low + unit - 1) // unit * unit
            if number <= self.high:
                return number, count
        return self.low, 4


class Decoding(Encoding):
    """Bytes to decisions; after the last byte come zeros."""

    writes = False

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data, self.at = data, 4
        self.number = int.from_bytes(data[:4].ljust(4, b"\0"), "big")

    def code(self, p: int, bit: int) -> int:
        """Read a decision (`bit` is not looked at)."""
        middle = self._middle(p)
        bit = int(self.number <= middle)
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while not (self.low ^ self.high) >> 24:
            following = self.data[self.at] if self.at < len(self.data) else 0
            self.number = self.number << 8 & 0xFFFFFFFF | following
            self.at += 1
            self._shift()
        return bit

    def finish(self) -> bytes:
        """Nothing. **Raises** `CodecError` unless the bytes are those that an encoder would have written."""
        last, count = self._tail()
        if self.at - 4 + count != len(self.data) or self.number != last:
            raise CodecError("a chunk does not end where its integers do")
        return b""


class Mixer:
    """Predicts decisions: `nodes` kinds of them, each with probabilities of its own in every context."""

    def __init__(self, nodes: int, way: Encoding) -> None:
        self.nodes, self.way = nodes, way
        self.squash, self.stretch = tables()
        self.slots: dict[int, int] = {}
        self.weights = [[[FIRST_WEIGHT] * 9 + [0] for _ in range(nodes * each)] for each in (1, LEVELS)]
        self.used = ([0] * nodes, [0] * (nodes * LEVELS))
        self.corrected: dict[int, int] = {}
        self.at: list[int] = []
        self.level = self.lean = 0

    def set(self, contexts: list[int], level: int, lean: int) -> None:
        """What the next decisions are predicted from."""
        self.at, start = [], 0
        for context, size in zip(contexts, SIZES, strict=True):
            self.at.append((start + context) * self.nodes)
            start += size
        self.level, self.lean = level, lean

    def code(self, node: int, bit: int) -> int:
        """Code a decision and learn from it."""
        squash = self.squash
        slots = [self.slots.get(at + node, SLOT) for at in self.at]
        x = [self.stretch[slot >> 20] * TRUST[slot & 0xFFFF] >> 8 for slot in slots] + [256]
        rows = (node, node * LEVELS + self.level)
        mixed = [
            clip(sum((w >> 4) * v for w, v in zip(self.weights[i][row], x, strict=True)) >> 12, -4096, 4095)
            for i, row in enumerate(rows)
        ]
        both = mixed[0] + mixed[1] >> 1
        place = clip(both + 2048, 0, 4095)
        step, inside = (node * LEANS + self.lean) * STEPS + (place >> 7), place & 127
        below, above = (self.corrected.get(step + i, self._first(step + i)) for i in (0, 1))
        second = (below >> 16) * (128 - inside) + (above >> 16) * inside >> 7
        bit = self.way.code(clip(3 * squash[both + 4096] + second >> 2, 2, 65534), bit)
        for at, slot in zip(self.at, slots, strict=True):
            self.slots[at + node] = updated(slot, bit, RATE[slot & 0xFFFF], 250)
        nearest = above if inside >= 64 else below
        self.corrected[step + (inside >= 64)] = updated(nearest, bit, SLOW[nearest & 0xFFFF], 200)
        for i, row in enumerate(rows):
            error = ((bit << 16) - squash[mixed[i] + 4096]) * LEARN[self.used[i][row]] >> 6
            self.used[i][row] = min(511, self.used[i][row] + 1)
            self.weights[i][row] = [
                clip(w + (v * error + 2048 >> 12), -HEAVIEST, HEAVIEST)
                for w, v in zip(self.weights[i][row], x, strict=True)
            ]
        return bit

    def plain(self, slot: int, bit: int, limit: int) -> tuple[int, int]:
        """Code a decision that one slot alone predicts; the decision and the slot after it."""
        bit = self.way.code(clip(slot >> 16, 32, 65504), bit)
        return bit, updated(slot, bit, RATE[slot & 0xFFFF], limit)

    def _first(self, step: int) -> int:
        return self.squash[4096 + (step % STEPS - 16) * 128] << 16


def updated(slot: int, bit: int, rate: int, limit: int) -> int:
    """A slot that has seen one more decision."""
    p, n = slot >> 16, slot & 0xFFFF
    p += ((65535 if bit else 0) - p) * rate >> 16
    return p << 16 | min(n + 1, max(n, limit))
