"""Integers to bytes and back, numpy only: the codec never sees a tensor.

Guarantees, each tested: decoding gives back exactly the integers; the same integers give the same bytes on every
machine, with or without the native module; a malformed stream raises `CodecError`.
"""

from .choice import code_lengths
from .coders import coder_name, reference_of
from .decoder import by_columns, decode, decode_chunk, decode_uniform, extremes, pieces
from .encoder import encode
from .frame import inflate, stated_size
from .stream import CodecError, Stream

__all__ = [
    "CodecError",
    "Stream",
    "by_columns",
    "code_lengths",
    "coder_name",
    "decode",
    "decode_chunk",
    "decode_uniform",
    "encode",
    "extremes",
    "inflate",
    "pieces",
    "reference_of",
    "stated_size",
]
