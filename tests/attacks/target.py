"""What is fuzzed (fuzz.py): any bytes as a section's payload, as a header, or as a whole file.

An input is harmless when it is refused, or reads to forms that are valid and within `MAX_BYTES`. A whole file passes
many checks before it reaches the decoder, so the decoder and the header are targets of their own, with what stands
before them done once. There a refusal is a ValueError, which the reader turns into a FileError.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace

from summands.coding import Layout, decode_section
from summands.compressions import Successive
from summands.container import Contents, read, read_prefix, to_bytes
from summands.container.header import MAGIC, VERSION, HeaderReader, read_body, write_header
from summands.container.validate import check as check_header
from summands.errors import FileError
from tests.attacks.forge import file_of, opened, sections_of
from tests.container.samples import grid
from tests.golden import make

MAX_BYTES = 1 << 22
SMALL = to_bytes(make.small())
LAYERS = to_bytes(make.every_kind(), layers=3)
KINDS = {**make.every_kind(), **make.trellis(), "few": grid((40, 8), spread=0.2)}
KINDS["picks"] = Successive(sparsity=0.5).project(KINDS["grid"].dense())
FILES = (SMALL, LAYERS, *(to_bytes({name: form}) for name, form in KINDS.items()))
PARTS = tuple(sections_of(data) for data in FILES)
SECTIONS: tuple[tuple[list[Layout], bytes], ...] = tuple(
    ([member.layout for member in list(header.sections)[-1].members], payloads[-1])
    for header, payloads in PARTS
    if not header.shared
)
"""What a decoder knows of a section, and a payload of it."""


def check(data: bytes, reader: Callable[..., Contents] = read) -> None:
    """Any exception but a FileError is a find."""
    try:
        contents = reader(data, max_bytes=MAX_BYTES, threads=1)
    except FileError:
        return
    for form in contents.forms.values():
        form.validate()
        if form.dense_bytes > MAX_BYTES:
            raise AssertionError(f"{form.dense_bytes} bytes where {MAX_BYTES} are allowed")


def with_payload(place: int, payload: bytes) -> bytes:
    """A good file, its last payload replaced, its checksum made right."""
    header, payloads = PARTS[place % len(PARTS)]
    last = replace(header.layers[-1][-1], size_bytes=len(payload), checksum=zlib.crc32(payload))
    layers = (*header.layers[:-1], (*header.layers[-1][:-1], last))
    return write_header(replace(header, layers=layers)) + b"".join([*payloads[:-1], payload])


def with_header(features: int, body: bytes) -> bytes:
    """A file with this header, which is stored and not deflated, for speed, and some bytes after it."""
    size = len(body).to_bytes(2, "little")
    packed = b"\x01" + size + bytes(255 - byte for byte in size) + body
    return file_of(b"", bytes(64), features=features, packed=packed)


def section(data: bytes) -> None:
    """The first byte chooses layouts, the rest is the payload; whatever decodes is what its bytes say, and valid."""
    layouts, _ = SECTIONS[data[0] % len(SECTIONS)] if data else SECTIONS[0]
    try:
        forms = decode_section(data[1:], layouts)
    except ValueError:
        return
    for form, layout in zip(forms, layouts, strict=True):
        form.validate()
        if tuple(form.shape) != layout.shape:
            raise AssertionError(f"a form of {tuple(form.shape)} where {layout.shape} is declared")


def header(data: bytes) -> None:
    """The first byte has the features, the rest is the header unpacked; what passes says how large it is."""
    features = data[0] & 1 if data else 0
    try:
        found = read_body(HeaderReader(data[1:]), VERSION, features, 0)
        check_header(found)
    except ValueError:
        return
    if found.memory_bytes() + found.working_bytes() < 0 or len(found.layouts) != len(found.names):
        raise AssertionError("a header of less than nothing")


def whole(data: bytes) -> None:
    """The first byte says what the rest is, and which of the readers gets it."""
    kind, rest = data[:1], data[1:]
    reader = read_prefix if kind >= b"\x80" else read
    match kind[0] % 4 if kind else 0:
        case 1:
            check(MAGIC + bytes([VERSION]) + rest, reader)
        case 2 if rest:
            check(with_header(rest[0] & 1, rest[1:]), reader)
        case 3 if rest:
            check(with_payload(rest[0], rest[1:]), reader)
        case _:
            check(rest, reader)


TARGETS: dict[str, Callable[[bytes], None]] = {"section": section, "header": header, "whole": whole}


def seeds(target: str) -> list[bytes]:
    """Inputs to start from: good files, their header bodies, their last payloads."""
    if target == "section":
        return [bytes([n]) + payload for n, (_, payload) in enumerate(SECTIONS)]
    found = []
    for n, data in enumerate(FILES):
        body, _, features = opened(data)
        if target == "header":
            found.append(bytes([features]) + body)
        else:
            found += [b"\0" + data, bytes([2, features]) + body, bytes([3, n]) + PARTS[n][1][-1]]
    return found
