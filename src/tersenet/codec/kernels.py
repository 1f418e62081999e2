"""The inner loops: native where the extension is there, else the references. Both give the same integers and bytes."""

from .rans import decode_symbols, encode_symbols
from .reference import histogram
from .trellis import decode_trellis, to_indices

__all__ = ["decode_symbols", "decode_trellis", "encode_symbols", "histogram", "to_indices"]
