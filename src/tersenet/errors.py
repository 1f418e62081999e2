"""The exceptions of tersenet.

TersenetError
├── InputError           a checkpoint, model or task that cannot be used as it is
│   ├── CheckpointError  the file cannot be read as a checkpoint
│   ├── WeightError      a weight that cannot be quantised (NaN, infinity)
│   └── KeyMismatchError tensors of the file and of the module do not match
├── FormatError          a .terse file that is not valid: damaged, truncated, foreign
│   ├── ChecksumError    bytes differ from what was written
│   ├── VersionError     written by a newer tersenet
│   └── SizeLimitError   claims more memory than its size allows, or than there is
├── OutputError          the result cannot be written (exists, is what is read, disk full, held by another process)
├── TrainingError        a training that cannot go on (NaN, infinity)
├── BudgetError          a byte or accuracy target that cannot be met; `.nearest` says how near
├── UsageError           an option that does not exist or contradicts another
└── NativeError          TERSENET_REQUIRE_NATIVE=1 and the native module is absent

Every message says what was got, what was expected, where, and what to do.
"""


class TersenetError(Exception):
    """Anything tersenet raises on purpose."""


class InputError(TersenetError):
    """A checkpoint, model or task that cannot be used as it is."""


class CheckpointError(InputError):
    """The file cannot be read as a checkpoint."""


class WeightError(InputError):
    """A weight that cannot be quantised."""


class KeyMismatchError(InputError):
    """Tensors of the file and of the module do not match."""


class FormatError(TersenetError):
    """A .terse file that is not valid."""


class ChecksumError(FormatError):
    """Bytes differ from what was written."""


class VersionError(FormatError):
    """The file was written by a newer tersenet."""


class SizeLimitError(FormatError):
    """The file claims more memory than its size allows, or than there is."""


class OutputError(TersenetError):
    """The result cannot be written."""


class TrainingError(TersenetError):
    """A training that cannot go on."""


class BudgetError(TersenetError):
    """A target that cannot be met; `nearest` is the closest value reached."""

    def __init__(self, message: str, nearest: float | None = None) -> None:
        super().__init__(message)
        self.nearest = nearest


class UsageError(TersenetError):
    """An option that does not exist or contradicts another."""


class NativeError(TersenetError):
    """The native module is required and absent."""
