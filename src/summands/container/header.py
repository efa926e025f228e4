"""The header of a file and its bytes (docs/format.md).

Offsets are not written: sections follow one another in the order of the header, and so do the weights in them. Holes
and overlaps, between sections or between row blocks of a weight, cannot be expressed; sums that do not come out are
refused by `validate.check`.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from heapq import nlargest
from itertools import accumulate, chain, groupby

import torch

from ..coding import ByteReader, ByteWriter, Layout, read_layout
from ..errors import ArgumentError, must

MAGIC = b"\x93SUM"
VERSION = 1

PROGRESSIVE = 1
KNOWN_FEATURES = PROGRESSIVE

MAX_HEADER = 16 << 20
"""Bytes of the header unpacked, and of all names together."""
MAX_NAME = 1 << 12
"""Bytes of one name."""
MAX_FORMS = 1 << 17
"""Weights, row blocks and pieces, each counted by its terms: reading so many layouts takes seconds and 100 MB."""
MAX_LAYERS = 1 << 8
MAX_METADATA = 16 << 20
"""Bytes of the metadata, packed or not."""

PRELUDE_BYTES = len(MAGIC) + 3 * 9
"""The magic and three varints of at most nine bytes."""
CHECKSUM_BYTES = 4
CONTINUED = ("Successive", "Events", "Embedded")
"""The kinds whose later pieces are coded as what the pieces before them leave open."""
CONTINUED_BYTES = 8
"""Memory for a byte of such pieces, at most, while the next one is decoded: what they say together, who was picked."""
ENTRY_BYTES = 16
"""Memory that decoding takes for an entry, at most, besides the result: copies in scan order, means, neighbours."""


@dataclass(frozen=True)
class Member:
    """One form in a section: a weight, a row block of it, or a piece of one of its terms.

    In a refinement layer, the numbers of the weights go on with those of the shared tensors.
    """

    weight: int
    layout: Layout
    term: int = 0


@dataclass(frozen=True)
class Section:
    """What is coded together: one run of bytes with one checksum.

    Attributes:
        members: the forms in it, in order.
        size_bytes: length of the payload.
        checksum: CRC-32 of the payload.
        offset: where the payload starts in the file.
    """

    members: tuple[Member, ...]
    size_bytes: int
    checksum: int
    offset: int = 0


@dataclass(frozen=True)
class Header:
    """All that a file declares.

    Attributes:
        version, features: of the format.
        names: of the weights, in the order in which they were written.
        shared: the section of the tensors that several forms hold, or None.
        layers: the sections of every layer; a file without refinement has one layer.
        metadata_bytes, metadata_checksum: of the stored metadata; 0 bytes for none.
        size_bytes: where the header ends and the metadata begins.
    """

    version: int
    features: int
    names: tuple[str, ...]
    shared: Section | None
    layers: tuple[tuple[Section, ...], ...]
    metadata_bytes: int = 0
    metadata_checksum: int = 0
    size_bytes: int = 0

    @property
    def is_progressive(self) -> bool:
        return bool(self.features & PROGRESSIVE)

    @property
    def sections(self) -> Iterator[Section]:
        """All sections but the shared one, in the order of the file."""
        return chain.from_iterable(self.layers)

    @cached_property
    def layouts(self) -> dict[str, tuple[Layout, ...]]:
        """The declared layouts of every weight: one, or several for row blocks or refinement."""
        found: list[list[Layout]] = [[] for _ in self.names]
        for section in self.sections:
            for member in section.members:
                if member.weight < len(found):
                    found[member.weight].append(member.layout)
        return {name: tuple(layouts) for name, layouts in zip(self.names, found, strict=True)}

    def shape(self, name: str) -> torch.Size:
        """The shape of the dense weight."""
        first, *rest = self.layouts[name]
        if self.is_progressive or not rest:
            return torch.Size(first.shape)
        return torch.Size([first.shape[0] + sum(block.shape[0] for block in rest), *first.shape[1:]])

    @property
    def layer_ends(self) -> tuple[int, ...]:
        """Where each layer ends in the file: a prefix of so many bytes holds it and all before it."""
        start = self.size_bytes + self.metadata_bytes + (self.shared.size_bytes if self.shared else 0)
        sizes = (sum(section.size_bytes for section in layer) for layer in self.layers)
        return tuple(accumulate(sizes, initial=start))[1:]

    @property
    def file_bytes(self) -> int:
        """The length of the whole file."""
        return self.layer_ends[-1]

    def memory_bytes(self, sections: Iterable[Section] | None = None) -> int:
        """Memory that the weights of these sections (by default all) take, as forms or dense, whichever is more."""
        decoded: Counter[int] = Counter()
        dense: Counter[int] = Counter()
        for section in self.sections if sections is None else sections:
            for member in section.members:
                decoded[member.weight] += member.layout.decoded_bytes
                if self.is_progressive:
                    dense[member.weight] = member.layout.dense_bytes
                else:
                    dense[member.weight] += member.layout.dense_bytes
        shared = sum(member.layout.decoded_bytes for member in self.shared.members) if self.shared else 0
        return shared + sum(max(decoded[weight], dense[weight]) for weight in decoded)

    def working_bytes(self, sections: Iterable[Section] | None = None, threads: int = 1) -> int:
        """Memory that decoding these sections (by default all), so many at once, takes besides, at most."""
        chosen = list(self.sections if sections is None else sections)
        if self.shared:
            chosen.append(self.shared)
        coded = (sum(_coded_entries(member.layout) for member in section.members) for section in chosen)
        # Blocks and pieces of a weight stand beside the weight that they are joined to.
        joined: Counter[int] = Counter()
        for section in chosen:
            for member in section.members if section is not self.shared else ():
                joined[member.weight] += member.layout.decoded_bytes
        known = CONTINUED_BYTES * max(joined.values(), default=0) if self.is_continued else 0
        return ENTRY_BYTES * sum(nlargest(threads, coded)) + max(joined.values(), default=0) + known

    @cached_property
    def is_continued(self) -> bool:
        """True when pieces are coded as what others before them leave open: sections are decoded in order."""
        members = (member for section in self.sections for member in section.members)
        return self.is_progressive and any(member.layout.kind in CONTINUED for member in members)


def write_header(header: Header) -> bytes:
    """The bytes of a header: all of the file before the metadata. ArgumentError where no reader would take it."""
    members = chain(header.shared.members if header.shared else (), *(section.members for section in header.sections))
    if (forms := sum(len(member.layout.leaves()) for member in members)) > MAX_FORMS:
        raise ArgumentError(
            must("the forms of a file, with their terms, blocks and pieces", f"{MAX_FORMS} at most", forms)
        )
    if (named := sum(len(name.encode()) for name in header.names)) > MAX_HEADER:
        raise ArgumentError(must("the names of a file's weights", f"{MAX_HEADER} bytes at most", named))
    body = ByteWriter()
    body.varint(len(header.names))
    _write_names(body, header.names)
    body.varint(len(header.shared.members) if header.shared else 0)
    if header.shared:
        for member in header.shared.members:
            member.layout.write(body)
        _write_extent(body, header.shared)
    _write_first_layer(body, header.layers[0])
    if header.is_progressive:
        body.varint(len(header.layers) - 1)
        for layer in header.layers[1:]:
            _write_refinement(body, layer)
    body.varint(header.metadata_bytes)
    if header.metadata_bytes:
        body.raw(header.metadata_checksum.to_bytes(CHECKSUM_BYTES, "little"))
    if len(body) > MAX_HEADER:
        raise ArgumentError(must("a file's header", f"{MAX_HEADER} bytes at most", len(body)))
    out = ByteWriter()
    out.raw(MAGIC)
    out.varint(header.version)
    out.varint(header.features)
    packed = pack(bytes(body))
    out.varint(len(packed))
    out.raw(packed)
    out.raw(zlib.crc32(bytes(out)).to_bytes(CHECKSUM_BYTES, "little"))
    return bytes(out)


class HeaderReader(ByteReader):
    """A ByteReader of layouts too, which have at most MAX_FORMS terms together."""

    forms = 0

    def layout(self) -> Layout:
        layout = read_layout(self)
        self.forms += len(layout.leaves())
        if self.forms > MAX_FORMS:
            raise ValueError(f"it has more than {MAX_FORMS} forms")
        return layout


def read_body(reader: HeaderReader, version: int, features: int, size_bytes: int) -> Header:
    """The header from its unpacked body, and what the prelude said; ValueError if it is malformed."""
    names = _read_names(reader)
    shared = None
    if count := reader.varint(MAX_FORMS):
        shared = _read_extent(reader, [Member(i, reader.layout()) for i in range(count)])
    blocks_allowed = not features & PROGRESSIVE
    layers = [_read_first_layer(reader, len(names), blocks_allowed)]
    if features & PROGRESSIVE:
        weights = len(names) + (len(shared.members) if shared else 0)
        layers.extend(_read_refinement(reader, weights) for _ in range(_count(reader, MAX_LAYERS)))
    metadata_bytes = reader.varint(MAX_METADATA)
    metadata_checksum = _read_checksum(reader) if metadata_bytes else 0
    if reader.remaining:
        raise ValueError(f"{reader.remaining} bytes after its end")
    header = Header(version, features, names, shared, tuple(layers), metadata_bytes, metadata_checksum, size_bytes)
    return _placed(header)


def pack(data: bytes) -> bytes:
    """Raw deflate (RFC 1951), at level 9 for the same bytes everywhere."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def unpack(data: bytes, limit: int) -> bytes:
    """The inverse of `pack`; ValueError unless `data` is exactly one stream of at most `limit` bytes."""
    unpacker = zlib.decompressobj(-15)
    try:
        unpacked = unpacker.decompress(data, limit)
    except zlib.error as error:
        raise ValueError(f"not deflated: {error}") from None
    if not unpacker.eof:
        raise ValueError(f"its deflate stream has no end within {limit} bytes")
    if unpacker.unused_data:
        raise ValueError(f"{len(unpacker.unused_data)} bytes after its deflate stream")
    return unpacked


def _write_names(out: ByteWriter, names: Iterable[str]) -> None:
    """Each name: how many bytes it shares with the name before, and the rest."""
    last = b""
    for name in names:
        data = name.encode()
        same = next((i for i, (a, b) in enumerate(zip(last, data, strict=False)) if a != b), min(len(last), len(data)))
        out.varint(same)
        out.varint(len(data) - same)
        out.raw(data[same:])
        last = data


def _read_names(reader: HeaderReader) -> tuple[str, ...]:
    names, last, total = [], b"", 0
    for _ in range(reader.varint(MAX_FORMS)):
        same = reader.varint(len(last))
        last = last[:same] + bytes(reader.raw(reader.varint(MAX_NAME - same)))
        total += len(last)
        if total > MAX_HEADER:
            raise ValueError(f"its names have more than {MAX_HEADER} bytes")
        names.append(str(last, "utf-8"))
    return tuple(names)


def _write_extent(out: ByteWriter, section: Section) -> None:
    out.varint(section.size_bytes)
    out.raw(section.checksum.to_bytes(CHECKSUM_BYTES, "little"))


def _read_extent(reader: HeaderReader, members: Iterable[Member]) -> Section:
    return Section(tuple(members), reader.varint(), _read_checksum(reader))


def _read_checksum(reader: HeaderReader) -> int:
    return int.from_bytes(reader.raw(CHECKSUM_BYTES), "little")


def _write_first_layer(out: ByteWriter, sections: Iterable[Section]) -> None:
    """Groups: 2n, then n weights in one section; or 2b + 1, then one weight in b row blocks, each a section."""
    for _, group in groupby(sections, key=lambda section: section.members[0].weight):
        blocks = list(group)
        out.varint(2 * len(blocks[0].members) if len(blocks) == 1 else 2 * len(blocks) + 1)
        for block in blocks:
            for member in block.members:
                member.layout.write(out)
            _write_extent(out, block)


def _read_first_layer(reader: HeaderReader, weights: int, blocks_allowed: bool) -> tuple[Section, ...]:
    sections: list[Section] = []
    done = 0
    while done < weights:
        count, is_blocks = divmod(reader.varint(2 * MAX_FORMS), 2)
        if count == 0 or (is_blocks and (count == 1 or not blocks_allowed)):
            raise ValueError("a group of weights that cannot be")
        if is_blocks:
            sections.extend(_read_extent(reader, [Member(done, reader.layout())]) for _ in range(count))
            done += 1
        else:
            if count > weights - done:
                raise ValueError(f"a group of {count} weights where {weights - done} are left")
            sections.append(_read_extent(reader, [Member(done + i, reader.layout()) for i in range(count)]))
            done += count
    return tuple(sections)


def _write_refinement(out: ByteWriter, sections: tuple[Section, ...]) -> None:
    """The number of sections; each: the number of pieces, each with its weight, its term and its layout."""
    out.varint(len(sections))
    for section in sections:
        out.varint(len(section.members))
        for member in section.members:
            out.varint(member.weight)
            out.varint(member.term)
            member.layout.write(out)
        _write_extent(out, section)


def _read_refinement(reader: HeaderReader, weights: int) -> tuple[Section, ...]:
    sections = []
    for _ in range(_count(reader)):
        members = []
        for _ in range(_count(reader)):
            weight, term = reader.varint(weights - 1), reader.varint(MAX_FORMS)
            members.append(Member(weight, reader.layout(), term))
        sections.append(_read_extent(reader, members))
    return tuple(sections)


def _count(reader: HeaderReader, limit: int = MAX_FORMS) -> int:
    count = reader.varint(limit)
    if not count:
        raise ValueError("a layer or section without anything in it")
    return count


def _coded_entries(layout: Layout) -> int:
    """How many symbols the coder handles: entries of the stored tensors, and one for each place of positions."""
    total = 0
    for leaf in layout.leaves():
        for field, stored in zip(leaf.fields(), leaf.stored, strict=True):
            if stored.shared is None:
                total += max(math.prod(field.dims), getattr(field.symbols, "size", 0))
    return total


def _placed(header: Header) -> Header:
    """The header with the offset of every section."""
    offset = header.size_bytes + header.metadata_bytes

    def place(section: Section) -> Section:
        nonlocal offset
        offset, here = offset + section.size_bytes, offset
        return replace(section, offset=here)

    shared = place(header.shared) if header.shared else None
    return replace(header, shared=shared, layers=tuple(tuple(place(s) for s in layer) for layer in header.layers))
