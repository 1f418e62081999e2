"""A second reader of `.terse` files and their cards, written from docs/format.md and docs/cards.md alone.

It shares nothing with the code that writes files and cards: it imports no other room of tersenet (a test), but numpy,
JSON, zstandard and xxhash only. `read` gives the values of all tensors; `check` compares a card with the bytes of its
file.
"""

from .card import Difference, check
from .checks import RefusedError
from .reader import read

__all__ = ["Difference", "RefusedError", "check", "read"]
