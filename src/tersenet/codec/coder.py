"""What a coder is: one way to write integers as chunks of bytes. All of them are in the table of `coders`."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from .kernels import Grid
from .stream import Stream
from .symbols import Kind, Values
from .table import Ints


@dataclass(frozen=True)
class Numbers:
    """Integers that are to be encoded, at least two of them different.

    `codes` are as they came (a matrix may be seen by columns), `flat` are the same in C order, `shape` is what
    they had; `values` and `counts`
    are their histogram. `trial` encodes others, such as a sample, in the way that is best for them.
    """

    codes: Values
    flat: Values
    values: Ints
    counts: Ints
    shape: tuple[int, ...]
    chunk_symbols: int
    effort: str
    trial: Callable[[Values], Stream]


@dataclass(frozen=True)
class Offer:
    """What a coder would write: its cost in 1/256 bit, as estimated, and the stream, made when it is asked for."""

    bits: int
    write: Callable[[], Stream]

    @classmethod
    def of(cls, stream: Stream) -> "Offer":
        """A stream that is there already, at what it takes."""
        return cls(8 * 256 * stream.size, lambda: stream)

    @cached_property
    def stream(self) -> Stream:
        """The stream itself, made once."""
        return self.write()


class Chunks(ABC):
    """The chunks of one stream, as its parameters say they are to be read."""

    constant: int | None = None
    """What every integer is, of a stream that has no chunks."""
    by_columns: bool = False
    """Whether the integers are in the order of a matrix' columns."""

    @abstractmethod
    def decode(self, data: bytes, start: int, count: int, kind: Kind) -> Values:
        """The `count` integers of one chunk, the first of which is number `start` of the stream.

        **Raises** `CodecError` if it is malformed or they do not fit `kind`.
        """

    def decode_uniform(self, data: bytes, out: npt.NDArray[np.float32], start: int, run: int, grid: Grid) -> bool:
        """Decode one chunk to fp32 straight into `out` (see `decoder.decode_uniform`); False if there is no such
        way."""
        return False


class Coder(ABC):
    """One way to encode: its id in files (a promise), its name for people, whom to cite (BibTeX, or "" where there is
    nobody), and both directions."""

    id: ClassVar[int]
    name: ClassVar[str]
    reference: ClassVar[str] = ""

    @abstractmethod
    def offer(self, numbers: Numbers, best: Offer) -> Offer | None:
        """What it would write, if that is smaller than `best`; None if not, or if it is not for such integers."""

    @abstractmethod
    def open(self, params: bytes) -> Chunks:
        """The chunks of a stream with these parameters. **Raises** `CodecError` unless an encoder wrote them."""
