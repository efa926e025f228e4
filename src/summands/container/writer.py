"""Forms to a file: sections as they are made, then the header before them.

The bytes are a function of the forms, their names and order, the metadata and the number of layers.
"""

from __future__ import annotations

import io
import json
import tempfile
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from torch import Tensor

from ..atomic import check_place, file_errors, whole_file
from ..coding import encode_section, layout_of, shared_tensors
from ..errors import ArgumentError, in_context, must
from ..forms import Dense, Events, Form, Successive
from .header import (
    MAX_FORMS,
    MAX_LAYERS,
    MAX_METADATA,
    MAX_NAME,
    PROGRESSIVE,
    VERSION,
    Header,
    Member,
    Section,
    pack,
    write_header,
)
from .layers import cut_sequences, schedule, so_far
from .remember import blocks_of, encoded

SECTION_ENTRIES = 1 << 20
"""A section holds consecutive weights of at most so many entries together, or one weight, or a row block of one."""

_IN_MEMORY = 1 << 24
"""Bytes of sections that wait in memory for their header; more wait in a temporary file."""
_COPIED = 1 << 20


@dataclass(frozen=True)
class Written:
    """What was written. Header, metadata, shared tensors and payload add up to the file.

    Attributes:
        size_bytes: the file.
        header_bytes: all that is neither payload nor metadata.
        metadata_bytes: the metadata, packed.
        shared_bytes: the coded tensors that several forms hold.
        payload_bytes: all other coded tensors.
        part_bits: for each weight, how many bits of the payload each of its parts takes.
    """

    size_bytes: int
    header_bytes: int
    metadata_bytes: int
    shared_bytes: int
    payload_bytes: int
    part_bits: dict[str, tuple[float, ...]]


def write(
    path: str | Path, forms: Mapping[str, Form], *, metadata: Mapping[str, Any] | None = None, layers: int = 1
) -> Written:
    """Writes forms to a file, which appears whole or not at all.

    Args:
        path: where; a regular file there is replaced.
        forms: by name. A tensor that stands in them more than once, as the same object, is written once.
        metadata: what JSON can say; packed, and billed apart.
        layers: with more than one, a prefix of the file is a coarser network (`read_prefix`); costs some bytes.

    Raises:
        ArgumentError: a name, a form or the metadata cannot be written.
        FileError: no space, no permission, no place for a file. What was at `path` is then untouched.
    """
    with Writer(path, shared=shared_tensors(tuple(forms.values())), metadata=metadata) as writer:
        writer.builder.add_all(forms, layers)
    return writer.written


def to_bytes(forms: Mapping[str, Form], *, metadata: Mapping[str, Any] | None = None, layers: int = 1) -> bytes:
    """The bytes that `write` would write.

    >>> import torch
    >>> from summands.container import read
    >>> weight = torch.arange(4.0)
    >>> data = to_bytes({"fc.weight": Dense(shape=weight.shape, dtype=weight.dtype, values=weight)})
    >>> read(data).forms["fc.weight"].dense()
    tensor([0., 1., 2., 3.])
    """
    packed = pack_metadata(metadata)
    builder = Builder(io.BytesIO(), shared_tensors(tuple(forms.values())))
    builder.add_all(forms, layers)
    return b"".join(builder.finish(packed)[1])


def measure(forms: Mapping[str, Form]) -> Written:
    """What `write` would write, measured by encoding it, without metadata."""
    builder = Builder(io.BytesIO(), shared_tensors(tuple(forms.values())))
    builder.add_all(forms, 1)
    return builder.finish(b"")[0]


class Writer:
    """Writes a file weight by weight, for networks larger than memory.

    Sections wait in a temporary file beside `path` until the header is known. The file appears on leaving the `with`
    block; after an exception there is none. Then `written` says what the file holds.

    Args:
        path, metadata: as for `write`.
        shared: the tensors that several of the forms to come will hold. A tensor that stands in two forms and is not
            declared is an error, not two copies.

    >>> import tempfile, torch
    >>> from summands.container import read
    >>> path = Path(tempfile.mkdtemp()) / "model.sums"
    >>> with Writer(path) as writer:
    ...     for i in range(3):
    ...         writer.add(f"bias.{i}", Dense(shape=torch.Size([2]), dtype=torch.float32, values=torch.ones(2) * i))
    >>> writer.written.size_bytes == path.stat().st_size, list(read(path).forms)
    (True, ['bias.0', 'bias.1', 'bias.2'])
    """

    def __init__(
        self, path: str | Path, *, shared: Sequence[Tensor] = (), metadata: Mapping[str, Any] | None = None
    ) -> None:
        self.path = Path(path)
        self._metadata = pack_metadata(metadata)
        with file_errors(self.path):
            check_place(self.path)
            self._spool = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(self.path.parent))  # noqa: SIM115
        self.builder = Builder(self._spool, shared)
        self._written: Written | None = None

    def add(self, name: str, form: Form) -> None:
        """Appends a weight. ArgumentError if the name was used, or the form cannot be written."""
        with file_errors(self.path):
            self.builder.add(name, form)

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Declares more tensors that several of the forms to come will hold."""
        self.builder.share(tensors)

    @property
    def written(self) -> Written:
        """What the finished file holds."""
        if self._written is None:
            raise ArgumentError("Writer.written is known once the `with` block is left without an error")
        return self._written

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with file_errors(self.path), self._spool:
            if kind is None:
                written, chunks = self.builder.finish(self._metadata)
                with whole_file(self.path) as temporary, temporary.open("xb") as file:
                    file.writelines(chunks)
                self._written = written


class Builder:
    """Collects weights in sections, writes these to `spool` as they fill, and knows the header at the end."""

    def __init__(self, spool: IO[bytes], shared: Sequence[Tensor]) -> None:
        self._spool = spool
        self._shared = list(shared)
        self._seen: dict[int, weakref.ref[Tensor]] = {}
        self._bits: dict[str, list[float]] = {}
        self._pool: list[tuple[int, int, Form]] = []
        self._pooled = 0  # entries of the forms in the pool
        self._pieces: dict[tuple[int, int], list[Form]] | None = None  # by weight and term, only in layers
        self._sequences: dict[int, Successive] = {}
        self._layers: list[list[Section]] = [[]]

    def add(self, name: str, form: Form) -> None:
        """Appends a weight to the one layer."""
        self._check(name, form)
        self._watch(name, form)
        weight = self._enter(name, form)
        blocks = self._blocks(form)
        if len(blocks) == 1:
            self._append(weight, 0, form)
            return
        # Each block is a section, and shares it with no small weight before or after it.
        self._close_section()
        for block in blocks:
            self._append(weight, 0, block)
            self._close_section()

    def add_all(self, forms: Mapping[str, Form], layers: int) -> None:
        """Appends every weight, in one layer or several."""
        if not 1 <= layers <= MAX_LAYERS:
            raise ArgumentError(must("layers", f"in [1, {MAX_LAYERS}]", layers))
        if layers == 1:
            for name, form in forms.items():
                self.add(name, form)
            return
        cut, sequences = cut_sequences(tuple(forms.values()), layers, self._shared_ids())
        first = {id(runs.whole): runs.first for runs in sequences}
        self._shared = [first.get(id(tensor), tensor) for tensor in self._shared]
        for name, form in zip(forms, cut, strict=True):
            self._check(name, form)
            self._enter(name, form)
        scheduled = schedule(cut, layers, self._shared_ids(), sequences)
        # The pieces of a grid hold the same step.
        self.share(shared_tensors([piece.form for layer in scheduled for _, piece in layer]))
        places = {id(tensor): len(cut) + i for i, tensor in enumerate(self._shared)}
        numbers = [*range(len(cut)), *(places[id(runs.first)] for runs in sequences)]
        self._pieces = {(places[id(runs.first)], 0): [runs.pieces[0].form] for runs in sequences}
        for n, layer in enumerate(scheduled):
            if n:
                self._close_section()
                self._layers.append([])
            for weight, piece in layer:
                self._append(numbers[weight], piece.term, piece.form)

    def finish(self, metadata: bytes) -> tuple[Written, Iterator[bytes]]:
        """What the file will hold, and its bytes in order."""
        self._close_section()
        stored = [self._alone(tensor) for tensor in self._shared]
        shared_payload = encode_section(stored).payload if stored else b""
        members = tuple(Member(i, layout_of(form)) for i, form in enumerate(stored))
        header = Header(
            version=VERSION,
            features=PROGRESSIVE if len(self._layers) > 1 else 0,
            names=tuple(self._bits),
            shared=Section(members, len(shared_payload), zlib.crc32(shared_payload)) if stored else None,
            layers=tuple(tuple(layer) for layer in self._layers),
            metadata_bytes=len(metadata),
            metadata_checksum=zlib.crc32(metadata),
        )
        head = write_header(header)
        payload_bytes = sum(section.size_bytes for section in header.sections)
        written = Written(
            size_bytes=len(head) + len(metadata) + len(shared_payload) + payload_bytes,
            header_bytes=len(head),
            metadata_bytes=len(metadata),
            shared_bytes=len(shared_payload),
            payload_bytes=payload_bytes,
            part_bits={name: tuple(bits) for name, bits in self._bits.items()},
        )
        return written, self._chunks(head + metadata + shared_payload)

    def _chunks(self, start: bytes) -> Iterator[bytes]:
        yield start
        self._spool.seek(0)
        while chunk := self._spool.read(_COPIED):
            yield chunk

    def _check(self, name: str, form: Form) -> None:
        """ArgumentError unless a weight of this name and form can be next."""
        if not isinstance(name, str) or len(_utf8(name)) > MAX_NAME:
            raise ArgumentError(must("a weight's name", f"a text of at most {MAX_NAME} bytes", name))
        if name in self._bits:
            raise ArgumentError(must("a weight's name", "new to the file", name))
        if len(self._bits) == MAX_FORMS:
            raise ArgumentError(must("the number of weights", f"at most {MAX_FORMS}", MAX_FORMS + 1))
        with in_context(f"weight {name!r}"):
            try:
                form.validate()
                layout_of(form).validate()
            except ValueError as error:
                raise ArgumentError(f"a form that cannot be written: {error}") from error

    def _enter(self, name: str, form: Form) -> int:
        """Gives a weight the next number."""
        for part in form.parts():
            if isinstance(part, Successive) and id(part.events) in self._shared_ids():
                self._sequences.setdefault(id(part.events), part)
        self._bits[name] = []
        return len(self._bits) - 1

    def _alone(self, tensor: Tensor) -> Form:
        """The form that a shared tensor is stored as."""
        holder = self._sequences.get(id(tensor))
        if holder is None:
            return Dense(shape=tensor.shape, dtype=tensor.dtype, values=tensor)
        total, seed = holder.total, holder.seed
        return Events(shape=tensor.shape, dtype=tensor.dtype, values=tensor, total=total, seed=seed)

    def _watch(self, name: str, form: Form) -> None:
        """ArgumentError when a tensor that is not declared as shared comes a second time."""
        shared = self._shared_ids()
        own = [tensor for tensor in form.tensors().values() if id(tensor) not in shared]
        for i, tensor in enumerate(own):
            seen = self._seen.get(id(tensor))
            if (seen is not None and seen() is tensor) or any(tensor is other for other in own[:i]):
                raise ArgumentError(
                    f"a tensor of {name!r} stands in the file already; declare it: Writer(shared=[...])"
                )
        self._seen |= {id(tensor): weakref.ref(tensor) for tensor in own}

    def _blocks(self, form: Form) -> list[Form]:
        """The row blocks of a large form; what these have in common joins the shared tensors."""
        blocks = blocks_of(form, SECTION_ENTRIES)
        own = {id(tensor) for tensor in form.tensors().values()}
        common = [tensor for tensor in blocks[0].tensors().values() if id(tensor) in own]
        if len(blocks) == 1 or (own - {id(tensor) for tensor in common}) & self._shared_ids():
            return [form]
        self.share(common)
        return blocks

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Tensors that are stored once, from here on."""
        known = self._shared_ids()
        self._shared.extend(tensor for tensor in tensors if id(tensor) not in known)

    def _shared_ids(self) -> set[int]:
        return {id(tensor) for tensor in self._shared}

    def _append(self, weight: int, term: int, form: Form) -> None:
        """Puts a form into the open section, or into a new one when that is full."""
        if self._pool and self._pooled + form.size > SECTION_ENTRIES:
            self._close_section()
        self._pool.append((weight, term, form))
        self._pooled += form.size

    def _close_section(self) -> None:
        if not self._pool:
            return
        names = list(self._bits)
        with in_context(self._described(names)):
            try:
                section = encoded([form for _, _, form in self._pool], self._shared, self._earlier())
            except ValueError as error:
                raise ArgumentError(f"a form that cannot be written: {error}") from error
        members = tuple(Member(weight, layout_of(form, self._shared), term) for weight, term, form in self._pool)
        for (weight, term, _), bits in zip(self._pool, section.part_bits, strict=True):
            if weight >= len(names):  # a run of a shared sequence
                continue
            sums = self._bits[names[weight]]
            sums.extend([0.0] * (term + len(bits) - len(sums)))
            for k, part in enumerate(bits, start=term):
                sums[k] += part
        self._layers[-1].append(Section(members, len(section.payload), zlib.crc32(section.payload)))
        self._spool.write(section.payload)
        self._pool, self._pooled = [], 0

    def _described(self, names: Sequence[str]) -> str:
        """The weights in the pool."""
        inside = list(dict.fromkeys(names[weight] for weight, _, _ in self._pool if weight < len(names)))
        return f"weights {', '.join(map(repr, inside[:5]))}{' ...' if len(inside) > 5 else ''}"

    def _earlier(self) -> list[Form | None]:
        """What is known of each piece in the pool from those before it."""
        known: list[Form | None] = []
        if self._pieces is None:
            return known
        for weight, term, form in self._pool:
            pieces = self._pieces.setdefault((weight, term), [])
            known.append(so_far(pieces))
            pieces.append(form)
        return known


def pack_metadata(metadata: Mapping[str, Any] | None) -> bytes:
    """Metadata as the file holds it: JSON, deflated; nothing for none."""
    if not metadata:
        return b""
    try:
        text = json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        data = _utf8(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(must("metadata", "what JSON can say", type(metadata).__name__, str(error))) from error
    if len(data) > MAX_METADATA:
        raise ArgumentError(must("metadata", f"at most {MAX_METADATA} bytes of JSON", len(data)))
    return pack(data)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ArgumentError(must("a text", "Unicode that UTF-8 can say", text[:40])) from error
