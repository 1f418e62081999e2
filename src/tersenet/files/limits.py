"""How much a file may ask for: the one place that decides it. See "Limits" in docs/format.md.

A file of n bytes may decode to `max(256 MiB, 250 n)` bytes, or to `max_output` bytes if the caller says so. Against the
same number counts the work beside the values: every tensor, tied name and attachment as 8,192 bytes, every byte of JSON
as 128 bytes, every array coded by context mixing as 65,536 and 16 for each of its integers.
"""

from dataclasses import dataclass
from pathlib import Path

from .. import codec
from ..errors import SizeLimitError, UsageError
from .layout import Index
from .records import Coded, product

FREE_OUTPUT = 1 << 28  # decoded bytes every file may have
MAX_GROWTH = 250  # decoded bytes per byte of file beyond that
ENTRY = 8192  # bytes that a tensor, a tied name or an attachment counts as
TEXT = 128  # bytes that a byte of JSON counts as
MIXED, MIXER = 16, 1 << 16  # bytes that an integer coded by context mixing counts as, and the array of them


@dataclass(frozen=True)
class Limit:
    """What one file may ask for, in bytes."""

    path: Path
    allowed: int

    @classmethod
    def of(cls, path: Path, size: int, max_output: int | None) -> "Limit":
        """The limit of a file of `size` bytes: `max_output` if that is given. **Raises** `UsageError` for no number."""
        if max_output is not None and not (isinstance(max_output, int) and max_output >= 1):
            raise UsageError(f"max_output={max_output!r}: expected a number of bytes, 1 or more")
        return cls(path, max(FREE_OUTPUT, MAX_GROWTH * size) if max_output is None else max_output)

    def check_text(self, size: int, what: str) -> None:
        """**Raises** `SizeLimitError` if `size` bytes of JSON are too many."""
        self._check(TEXT * size, f"{size:,} bytes of {what}")

    def check(self, index: Index) -> None:
        """**Raises** `SizeLimitError` if what would be written of the file is too large or too many."""
        aliases: dict[str, str] = index.about["aliases"]
        sizes = {name: record.output for name, record in index.records.items()}
        sizes |= {alias: sizes[name] for alias, name in aliases.items()}
        output = sum(sizes.values()) + sum(size for _, size in index.files.values())
        output += sum(_work(part) for record in index.records.values() for part in record.coded)
        many = len(sizes) + len(index.files)
        self._check(max(output, ENTRY * many), f"{output:,} bytes of tensors and files in {many:,} pieces")

    def _check(self, cost: int, claim: str) -> None:
        if cost > self.allowed:
            raise SizeLimitError(
                f"{self.path} claims {claim}, which count as {cost:,} bytes; {self.allowed:,} are allowed: "
                f"if you trust it, give max_output={cost}"
            )


def _work(part: Coded) -> int:
    """What decoding costs beyond the bytes of the result, as bytes."""
    return MIXER + MIXED * product(part.shape) if codec.coder_name(part.coder) == "cm" and part.chunks else 0
