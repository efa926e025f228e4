"""A fuzz entry for atheris (libFuzzer): any bytes, as a file, a header, or a payload with its checksum made right.

    pip install atheris
    python -m tests.attacks.fuzz CORPUS_FOLDER -runs=10000000 -max_len=1024

An input is harmless when it is refused with a FileError, or reads to forms that are valid and within `MAX_BYTES`.
"""

from __future__ import annotations

import sys
import zlib
from dataclasses import replace
from pathlib import Path

import torch

from summands.container import Header, read, read_prefix, to_bytes
from summands.container.header import MAGIC, VERSION, Section, write_header
from summands.errors import FileError
from tests.attacks.forge import file_of, opened, sections_of
from tests.golden import make

MAX_BYTES = 1 << 20
FILES = (to_bytes(make.small()), to_bytes(make.every_kind()), to_bytes(make.every_kind(), layers=3))
PARTS = tuple(sections_of(data) for data in FILES)


def check(data: bytes) -> None:
    """Any exception but a FileError is a find."""
    for reader in (read, read_prefix):
        try:
            contents = reader(data, max_bytes=MAX_BYTES, threads=1)
        except FileError:
            continue
        for form in contents.forms.values():
            form.validate()
            if form.dense_bytes > MAX_BYTES:
                raise AssertionError(f"{form.dense_bytes} bytes where {MAX_BYTES} are allowed")


def with_payload(data: bytes) -> bytes:
    """A good file, one of its payloads replaced, its checksum made right."""
    header, payloads = PARTS[data[0] % len(PARTS)]
    payloads = list(payloads)
    place = data[1] % len(payloads)
    payloads[place] = data[2:]
    sections = [*([header.shared] if header.shared else []), *header.sections]
    fixed = {id(sections[place]): replace(sections[place], size_bytes=len(data) - 2, checksum=zlib.crc32(data[2:]))}

    def of(section: Section) -> Section:
        return fixed.get(id(section), section)

    shared = of(header.shared) if header.shared else None
    layers = tuple(tuple(of(section) for section in layer) for layer in header.layers)
    changed: Header = replace(header, shared=shared, layers=layers, metadata_bytes=0)
    return write_header(changed) + b"".join(payloads)


def one_input(data: bytes) -> None:
    """The first byte says what the rest is."""
    if len(data) < 4:
        check(data)
        return
    kind, rest = data[0], data[1:]
    match kind % 4:
        case 0:
            check(rest)
        case 1:
            check(MAGIC + bytes([VERSION]) + rest)
        case 2:
            check(file_of(rest[1:], bytes(64), features=rest[0] & 1))
        case 3:
            check(with_payload(rest))


def seeds() -> list[bytes]:
    """Inputs to start from: good files, their header bodies, their payloads."""
    found = [b"\0" + data for data in FILES]
    for n, data in enumerate(FILES):
        body, _, features = opened(data)
        found.append(bytes([2, features]) + body)
        found.extend(bytes([3, n, place]) + payload for place, payload in enumerate(PARTS[n][1]))
    return found


def main() -> None:
    import atheris

    torch.set_num_threads(1)
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for n, seed in enumerate(seeds()):
        (corpus / f"seed{n}").write_bytes(seed)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
