"""What is fuzzed (fuzz.py): any bytes, as a file, a header, or a payload with its checksum made right.

An input is harmless when it is refused with a FileError, or reads to forms that are valid and within `MAX_BYTES`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace

from summands.container import Contents, read, read_prefix, to_bytes
from summands.container.header import MAGIC, VERSION, write_header
from summands.errors import FileError
from tests.attacks.forge import file_of, opened, sections_of
from tests.golden import make

MAX_BYTES = 1 << 22
SMALL = to_bytes(make.small())
LAYERS = to_bytes(make.every_kind(), layers=3)
FILES = (SMALL, LAYERS, *(to_bytes({name: form}) for name, form in make.every_kind().items()))
PARTS = tuple(sections_of(data) for data in FILES)


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


def one_input(data: bytes) -> None:
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


def seeds() -> list[bytes]:
    """Inputs to start from: good files, their header bodies, their last payloads."""
    found = []
    for n, data in enumerate(FILES):
        body, _, features = opened(data)
        found += [b"\0" + data, bytes([2, features]) + body, bytes([3, n]) + PARTS[n][1][-1]]
    return found
