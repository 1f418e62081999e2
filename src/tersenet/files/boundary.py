"""The boundary of reading: whatever a file can make go wrong leaves as `FormatError` with the file and the part."""

from pathlib import Path
from types import TracebackType

from ..errors import FormatError, SizeLimitError, TersenetError, UsageError


class reading:  # a class, because every tensor passes through it
    """Turn what the body raises while it reads `part` of the file at `path` into a `FormatError`.

    Errors of tersenet pass, and so do warnings that are raised. Where memory runs out it is a `SizeLimitError`.
    """

    __slots__ = ("_part", "_path")

    def __init__(self, path: str | Path, part: str) -> None:
        if not isinstance(path, str | Path):
            raise UsageError(f"got a {type(path).__name__}: expected the path of a file")
        self._path, self._part = path, part

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, TersenetError | Warning):
            return
        if isinstance(error, OSError):
            raise FormatError(f"{self._path} cannot be read: {error.strerror or error}") from error
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            raise SizeLimitError(f"{self._path}: there is not enough memory to read its {self._part}") from error
        raise FormatError(f"{self._path}: its {self._part} cannot be read: {error or type(error).__name__}") from error
