"""Symbols to bits and back: the layout of a form, its coded bytes, and what they will be."""

from .bytes_io import ByteReader, ByteWriter
from .codec import Encoded, decode_section, encode_section, estimated_bits
from .layout import Layout, layout_of, read_layout, shared_tensors
from .pricing import price_levels
from .trellis import NODES, node_after

__all__ = [
    "NODES",
    "ByteReader",
    "ByteWriter",
    "Encoded",
    "Layout",
    "decode_section",
    "encode_section",
    "estimated_bits",
    "layout_of",
    "node_after",
    "price_levels",
    "read_layout",
    "shared_tensors",
]
