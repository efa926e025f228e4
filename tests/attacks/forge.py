"""Hostile files with right checksums, so that the rule itself has to refuse them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from summands.coding import ByteReader, ByteWriter, Layout
from summands.container import Header, read_header, to_bytes
from summands.container.header import MAGIC, MAX_HEADER, VERSION, Section, pack, unpack, write_header
from summands.forms import Form

EXTENT = (8, b"\0\0\0\0")
"""Of a section: eight bytes, and a checksum that does not count before the section is read."""


def checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def file_of(body: bytes, rest: bytes = b"", *, version: int = VERSION, features: int = 0, packed: bytes | None = None):
    """A file with this header body and these bytes after the header."""
    head = ByteWriter()
    head.raw(MAGIC)
    head.varint(version)
    head.varint(features)
    packed = pack(body) if packed is None else packed
    head.varint(len(packed))
    head.raw(packed)
    return bytes(head) + checksum(bytes(head)) + rest


def body_of(*items: int | bytes | str | Layout) -> bytes:
    """Varints, raw bytes, names (what they share with the name before is 0), and layouts."""
    out = ByteWriter()
    for item in items:
        match item:
            case int():
                out.varint(item)
            case bytes():
                out.raw(item)
            case str():
                out.varint(0)
                out.varint(len(item.encode()))
                out.raw(item.encode())
            case Layout():
                item.write(out)
    return bytes(out)


def sections_of(data: bytes) -> tuple[Header, list[bytes]]:
    """A good file in its parts: header, and the payloads of all sections, the shared one first."""
    header = read_header(data)
    sections = [*([header.shared] if header.shared else []), *header.sections]
    return header, [data[s.offset : s.offset + s.size_bytes] for s in sections]


def rewritten(forms: dict[str, Form], change: Callable[[Header], Header], layers: int = 1) -> bytes:
    """A good file, its header changed and given its checksum again."""
    header, payloads = sections_of(to_bytes(forms, layers=layers))
    return write_header(change(header)) + b"".join(payloads)


def with_payload(forms: dict[str, Form], change: Callable[[bytes], bytes], layers: int = 1) -> bytes:
    """A good file, its last payload changed and given its checksum again."""
    header, payloads = sections_of(to_bytes(forms, layers=layers))
    payloads[-1] = change(payloads[-1])
    last = replace(list(header.sections)[-1], size_bytes=len(payloads[-1]), checksum=zlib.crc32(payloads[-1]))
    layer = (*header.layers[-1][:-1], last)
    return write_header(replace(header, layers=(*header.layers[:-1], layer))) + b"".join(payloads)


def with_section(header: Header, place: int, change: Callable[[Section], Section]) -> Header:
    """One section of the first layer changed."""
    first = list(header.layers[0])
    first[place] = change(first[place])
    return replace(header, layers=(tuple(first), *header.layers[1:]))


def with_layouts(header: Header, place: int, layouts: Sequence[Layout]) -> Header:
    """Other layouts for the members of one section of the first layer."""

    def changed(section: Section) -> Section:
        pairs = zip(section.members, layouts, strict=True)
        return replace(section, members=tuple(replace(member, layout=layout) for member, layout in pairs))

    return with_section(header, place, changed)


def opened(data: bytes) -> tuple[bytes, bytes, int]:
    """The header body of a good file, unpacked; all that follows the header; the features."""
    reader = ByteReader(data, len(MAGIC))
    reader.varint()
    features = reader.varint()
    packed = bytes(reader.raw(reader.varint()))
    return unpack(packed, MAX_HEADER), data[reader.position + 4 :], features
