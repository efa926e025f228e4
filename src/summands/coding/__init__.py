"""Symbols to bits and back: the layout of a form, its coded bytes, and what they will be."""

from .bytes_io import ByteReader, ByteWriter
from .codec import Encoded, decode_section, encode_section, estimated_bits
from .layout import Layout, layout_of, read_layout, shared_tensors

__all__ = [
    "ByteReader",
    "ByteWriter",
    "Encoded",
    "Layout",
    "decode_section",
    "encode_section",
    "estimated_bits",
    "layout_of",
    "read_layout",
    "shared_tensors",
]
