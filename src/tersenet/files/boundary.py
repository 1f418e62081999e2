"""The boundary of reading: whatever a file can make go wrong leaves as `FormatError` with the file and the part."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import FormatError, SizeLimitError, TersenetError


@contextmanager
def reading(path: str | Path, part: str) -> Iterator[None]:
    """Turn what the body raises while it reads `part` of the file at `path` into a `FormatError`.

    Errors of tersenet pass, and so do warnings that are raised. Where memory runs out it is a `SizeLimitError`.
    """
    try:
        yield
    except (TersenetError, Warning):
        raise
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            raise SizeLimitError(f"{path}: there is not enough memory to read its {part}") from error
        raise FormatError(f"{path}: its {part} cannot be read: {error or type(error).__name__}") from error
