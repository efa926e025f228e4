"""A file to forms: the header, its limits, then each section with its checksum, in threads.

Whatever the bytes, only a FileError leaves these functions, and no more memory is asked for than `max_bytes` allows.
"""

from __future__ import annotations

import io
import json
import os
import threading
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from ..coding import decode_section
from ..coding.codec import Earlier
from ..errors import (
    ArgumentError,
    CorruptFileError,
    FileError,
    LimitError,
    UnsupportedFileError,
    in_context,
    must,
    near,
)
from ..forms import Form
from .blocks import stack_blocks
from .header import (
    CHECKSUM_BYTES,
    CONTINUED,
    KNOWN_FEATURES,
    MAGIC,
    MAX_HEADER,
    MAX_METADATA,
    PRELUDE_BYTES,
    VERSION,
    Header,
    HeaderReader,
    Section,
    read_body,
    unpack,
)
from .layers import Piece, assemble, count_pieces, so_far
from .validate import check

Source = str | Path | bytes | BinaryIO
"""A path, the bytes themselves, or an open binary file that can seek, such as a reader of byte ranges."""

LEAST_LIMIT = 1 << 30
LIMIT_FACTOR = 1000


@dataclass(frozen=True)
class Contents:
    """What a file holds, or a prefix of it.

    Attributes:
        forms: by name, in the order of the file; a tensor that was shared is shared again.
        metadata: as it was given to `write`.
        layers: how many refinement layers the forms are made of.
    """

    forms: dict[str, Form]
    metadata: dict[str, Any]
    layers: int = 1


def read(
    source: Source,
    *,
    names: Iterable[str] | None = None,
    max_bytes: int | None = None,
    threads: int | None = None,
) -> Contents:
    """The forms of a file, equal to the last bit to those that were written.

    Args:
        source: a path, bytes, or an open binary file.
        names: the weights wanted, by default all; only the sections that hold them are read.
        max_bytes: the memory that reading may take: the forms, or their dense weights if these are larger, and what
            the decoder works with. Checked against what the file declares before anything is allocated. By default
            1 GiB, or 1,000 times the file if that is more.
        threads: how many decode at once, by default one for each processor.

    Raises:
        FileError: the file cannot be read. CorruptFileError, UnsupportedFileError and LimitError say more.
        ArgumentError: a name that the file does not have.
    """
    with _opened(source) as file:
        header = _read_head(file)
        if file.size != header.file_bytes:
            raise CorruptFileError(f"the header declares {header.file_bytes} bytes, the file has {file.size}")
        wanted = _weights(header, names)
        sections = _needed(header, wanted)
        return _decode(file, header, sections, wanted, len(header.layers), max_bytes, threads)


def read_prefix(
    source: Source, *, layers: int | None = None, max_bytes: int | None = None, threads: int | None = None
) -> Contents:
    """The coarser network in the first layers of a file, of which the rest may be missing.

    Args:
        source: as for `read`; may end anywhere after the first layer. `Header.layer_ends` says where layers end.
        layers: how many to read, by default all that are there whole.
        max_bytes, threads: as for `read`.

    Raises:
        FileError: as for `read`; also when the first layer, or one of `layers`, is not there whole.
    """
    with _opened(source) as file:
        header = _read_head(file)
        if file.size > header.file_bytes:
            raise CorruptFileError(f"the header declares {header.file_bytes} bytes, the file has {file.size}")
        if layers is not None and not 1 <= layers <= len(header.layers):
            raise ArgumentError(must("layers", f"in [1, {len(header.layers)}], as this file has", layers))
        whole = sum(end <= file.size for end in header.layer_ends)
        chosen = layers or max(whole, 1)
        if chosen > whole:
            end = header.layer_ends[chosen - 1]
            raise CorruptFileError(f"layer {chosen} ends at byte {end}, the file at {file.size}: truncated")
        sections = [section for layer in header.layers[:chosen] for section in layer]
        return _decode(file, header, sections, set(range(len(header.names))), chosen, max_bytes, threads)


def read_header(source: Source) -> Header:
    """What a file declares, read from its header alone: names, layouts, sections, sizes.

    >>> import torch
    >>> from summands.container import to_bytes
    >>> from summands.forms import Dense
    >>> weight = torch.zeros(3, 4)
    >>> header = read_header(to_bytes({"fc.weight": Dense(shape=weight.shape, dtype=weight.dtype, values=weight)}))
    >>> header.names, header.layouts["fc.weight"][0].kind, header.shape("fc.weight"), header.memory_bytes()
    (('fc.weight',), 'Dense', torch.Size([3, 4]), 48)
    """
    with _opened(source) as file:
        return _read_head(file)


class _File:
    """Runs of bytes from a seekable file, for several threads."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self.size = stream.seek(0, io.SEEK_END)

    def pull(self, offset: int, count: int) -> bytes:
        """CorruptFileError unless the file has all of them."""
        if offset + count > self.size:
            raise CorruptFileError(f"truncated: it ends at byte {self.size}, before {offset + count}")
        with self._lock:
            self._stream.seek(offset)
            data = self._stream.read(count)
        if len(data) != count:
            raise CorruptFileError(f"truncated: {len(data)} bytes of {count} could be read at {offset}")
        return data


@contextmanager
def _opened(source: Source) -> Iterator[_File]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield _File(io.BytesIO(source))
        return
    path = Path(source) if isinstance(source, (str, Path)) else None
    where = str(path) if path else "the open file"
    try:
        with in_context(where):
            if path is None:
                yield _File(source)  # type: ignore[arg-type]
            else:
                with path.open("rb") as stream:
                    yield _File(stream)
    except OSError as error:
        raise FileError(f"{where} cannot be read: {error.strerror or error}") from error


@contextmanager
def _corrupt(what: str) -> Iterator[None]:
    """A ValueError about bytes becomes a CorruptFileError that says where."""
    try:
        yield
    except ValueError as error:
        raise CorruptFileError(f"{what}: {error}") from error


def _read_head(file: _File) -> Header:
    start = file.pull(0, min(file.size, PRELUDE_BYTES))
    if start[: len(MAGIC)] != MAGIC:
        raise CorruptFileError(f"not a summands file: it begins with {start[: len(MAGIC)]!r}, not with {MAGIC!r}")
    with _corrupt("the header"):
        prelude = HeaderReader(start, len(MAGIC))
        if (version := prelude.varint()) != VERSION:
            raise UnsupportedFileError(f"format version {version}; this summands knows {VERSION}: update it")
        features = prelude.varint()
        if unknown := features & ~KNOWN_FEATURES:
            bits = ", ".join(str(i) for i in range(unknown.bit_length()) if unknown >> i & 1)
            raise UnsupportedFileError(f"it requires feature {bits}, which this summands does not know: update it")
        length = prelude.varint(MAX_HEADER)
        end = prelude.position + length
        data = file.pull(0, end + CHECKSUM_BYTES)
        if zlib.crc32(data[:end]) != int.from_bytes(data[end:], "little"):
            raise CorruptFileError("the header does not have its checksum")
        body = unpack(data[prelude.position : end], MAX_HEADER)
        header = read_body(HeaderReader(body), version, features, end + CHECKSUM_BYTES)
        check(header)
    return header


def _weights(header: Header, names: Iterable[str] | None) -> set[int]:
    if names is None:
        return set(range(len(header.names)))
    numbers = {name: i for i, name in enumerate(header.names)}
    chosen = list(names)
    if unknown := [name for name in chosen if name not in numbers]:
        raise ArgumentError(must("names", "weights of this file", unknown[0], near(unknown[0], header.names)))
    return {numbers[name] for name in chosen}


def _decode(
    file: _File,
    header: Header,
    sections: Sequence[Section],
    wanted: set[int],
    layers: int,
    max_bytes: int | None,
    threads: int | None,
) -> Contents:
    if threads is not None and threads < 1:
        raise ArgumentError(must("threads", "at least 1", threads))
    limit = max(LEAST_LIMIT, LIMIT_FACTOR * file.size) if max_bytes is None else max_bytes
    count = 1 if header.is_continued else min(threads or os.cpu_count() or 1, max(len(sections), 1))
    memory, working = header.memory_bytes(sections), header.working_bytes(sections, count)
    if memory + working > limit:
        raise LimitError(
            f"it declares {memory} bytes of memory and {working} to decode them; "
            f"the limit is {limit}: pass max_bytes={memory + working} if that is meant"
        )
    metadata = _read_metadata(file, header)
    shared = _decode_shared(file, header)

    # Of every weight whose pieces are decoded, and of every shared tensor.
    came: dict[int, list[Piece]] = {m.weight: [] for section in sections for m in section.members}
    came |= {len(header.names) + i: [Piece(0, form)] for i, form in enumerate(shared)}
    tensors = [form.tensors()["values"] for form in shared]
    # By weight and term, of the kinds whose later pieces need them.
    known: defaultdict[tuple[int, int], list[Form]] = defaultdict(list)
    known |= {(weight, 0): [pieces[0].form] for weight, pieces in came.items() if pieces}

    def decoded(section: Section) -> list[Form]:
        places: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for i, member in enumerate(section.members):
            if member.layout.kind in CONTINUED:
                places[member.weight, member.term].append(i)

        def earlier(i: int, forms: Sequence[Form]) -> Form | None:
            key = section.members[i].weight, section.members[i].term
            if key not in places:
                return None
            return so_far([*known[key], *(forms[k] for k in places[key] if k < i)])

        what = _described(header, section)
        return _decode_section(file, section, tensors, what, earlier if header.is_progressive else None)

    for section, forms in zip(sections, _in_threads(decoded, sections, count), strict=True):
        for member, form in zip(section.members, forms, strict=True):
            came[member.weight].append(Piece(member.term, form))
            if member.layout.kind in CONTINUED:
                known[member.weight, member.term].append(form)
    longer = {id(tensor): _longer(came.pop(len(header.names) + i)) for i, tensor in enumerate(tensors)}
    declared = _declared(header)
    whole = {}
    for weight in sorted(wanted):
        pieces = came.pop(weight)
        with _corrupt(f"weight {header.names[weight]!r}"):
            if header.is_progressive:
                form = assemble(pieces, declared[weight]).map(lambda tensor: longer.get(id(tensor), tensor))
                form.validate()
            else:
                form = stack_blocks([piece.form for piece in pieces])
        whole[header.names[weight]] = form
    return Contents(whole, metadata, layers)


def _declared(header: Header) -> list[dict[int, int]]:
    """For each weight, how many pieces each of its terms has in the whole file."""
    terms: list[list[int]] = [[] for _ in header.names]
    for section in header.sections:
        for member in section.members:
            if member.weight < len(terms):
                terms[member.weight].append(member.term)
    return [count_pieces(own) for own in terms]


def _needed(header: Header, wanted: Iterable[int]) -> list[Section]:
    """The sections to decode for these weights.

    With theirs come those of the pieces that others continue in the same section, and of all shared tensors.
    """
    sections = list(header.sections)
    holding: defaultdict[int, list[int]] = defaultdict(list)
    for i, section in enumerate(sections):
        for member in section.members:
            holding[member.weight].append(i)
    weights = set(wanted) | {weight for weight in holding if weight >= len(header.names)}
    waiting, chosen = list(weights), set()
    while waiting:
        for i in holding[waiting.pop()]:
            if i in chosen:
                continue
            chosen.add(i)
            if header.is_continued:
                also = {m.weight for m in sections[i].members if m.layout.kind in CONTINUED} - weights
                weights |= also
                waiting.extend(also)
    return [section for i, section in enumerate(sections) if i in chosen]


def _longer(pieces: Sequence[Piece]) -> Tensor:
    """A shared tensor of the pieces that came."""
    return assemble(pieces, {0: len(pieces)}).tensors()["values"]


def _described(header: Header, section: Section) -> str:
    first, more = section.members[0].weight, len(section.members) - 1
    name = f"weight {header.names[first]!r}" if first < len(header.names) else "a shared tensor"
    return name + (f" and {more} more" if more else "")


def _decode_shared(file: _File, header: Header) -> list[Form]:
    return _decode_section(file, header.shared, [], "the shared tensors") if header.shared else []


def _decode_section(
    file: _File, section: Section, shared: Sequence[Tensor], what: str, earlier: Earlier | None = None
) -> list[Form]:
    payload = file.pull(section.offset, section.size_bytes)
    if zlib.crc32(payload) != section.checksum:
        raise CorruptFileError(f"{what}: the section at byte {section.offset} does not have its checksum")
    with _corrupt(what), _memory(section):
        return decode_section(payload, [member.layout for member in section.members], shared, earlier)


@contextmanager
def _memory(section: Section) -> Iterator[None]:
    """Memory that was allowed but is not there is a LimitError; torch reports it as a RuntimeError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error):
            raise
        needed = sum(member.layout.decoded_bytes for member in section.members)
        raise LimitError(f"a section needs {needed} bytes, which this machine does not have") from error


def _in_threads(
    function: Callable[[Section], list[Form]], sections: Sequence[Section], count: int
) -> Iterator[list[Form]]:
    """The function of every section, in order; the decoder releases the GIL."""
    if count < 2:
        yield from map(function, sections)
        return
    with ThreadPoolExecutor(count) as pool:
        try:
            yield from pool.map(function, sections)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _read_metadata(file: _File, header: Header) -> dict[str, Any]:
    if not header.metadata_bytes:
        return {}
    stored = file.pull(header.size_bytes, header.metadata_bytes)
    if zlib.crc32(stored) != header.metadata_checksum:
        raise CorruptFileError("the metadata does not have its checksum")
    with _corrupt("the metadata"):
        try:
            metadata = json.loads(unpack(stored, MAX_METADATA), parse_constant=_refuse)
        except RecursionError:
            raise ValueError("nested too deep") from None
        if not isinstance(metadata, dict):
            raise ValueError(f"an object is wanted, got {type(metadata).__name__}")
    return metadata


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
