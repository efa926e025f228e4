"""Corrupted files: every byte of a small one, and mutations of any kind, with and without right checksums.

A corrupted file is either refused with a FileError or proven harmless: it reads to the very same weights, or, where
the checksums were made right again, to weights as they were declared, within the memory that was allowed.
"""

import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from summands.coding import decode_section
from summands.container import Contents, read, read_prefix, to_bytes
from summands.container.header import write_header
from summands.errors import FileError
from tests.attacks import target
from tests.attacks.forge import file_of, opened, sections_of
from tests.container.samples import check_same, dense
from tests.golden import make

MAX_BYTES = 1 << 22
GOLDEN = to_bytes(make.small())
KINDS = (GOLDEN, to_bytes(make.every_kind(), metadata=make.METADATA), to_bytes(make.every_kind(), layers=3))


def outcome(data: bytes, reader=read) -> Contents | None:
    """What a hostile file reads to; None when it is refused as it must be. Any other exception is a failure."""
    try:
        contents = reader(data, max_bytes=MAX_BYTES, threads=1)
    except FileError:
        return None
    assert sum(form.dense_bytes for form in contents.forms.values()) <= MAX_BYTES
    for form in contents.forms.values():
        form.validate()
        assert form.dense().shape == form.shape
    return contents


def check_refused_or_harmless(data: bytes) -> None:
    """A file with a fault is refused, or the weights are the right ones all the same."""
    contents = outcome(data)
    if contents is not None:
        check_same(contents.forms, make.small())


def test_check_refused_or_harmless_fails_on_wrong_answers():
    check_refused_or_harmless(GOLDEN)
    check_refused_or_harmless(GOLDEN[:-1])
    with pytest.raises(AssertionError):
        check_refused_or_harmless(to_bytes({**make.small(), "more": make.small()["steps"]}))


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_every_byte_corrupted(flip):
    for place in range(len(GOLDEN)):
        check_refused_or_harmless(GOLDEN[:place] + bytes([GOLDEN[place] ^ flip]) + GOLDEN[place + 1 :])


@pytest.mark.thorough
def test_every_byte_corrupted_in_every_way():
    for place in range(len(GOLDEN)):
        for value in set(range(256)) - {GOLDEN[place]}:
            check_refused_or_harmless(GOLDEN[:place] + bytes([value]) + GOLDEN[place + 1 :])


def test_every_byte_removed_or_doubled():
    for place in range(len(GOLDEN)):
        check_refused_or_harmless(GOLDEN[:place] + GOLDEN[place + 1 :])
        check_refused_or_harmless(GOLDEN[:place] + GOLDEN[place : place + 1] + GOLDEN[place:])


@given(st.data())
def test_any_mutation(data):
    mutated = data.draw(mutations(GOLDEN))
    if mutated != GOLDEN:
        check_refused_or_harmless(mutated)


@given(st.data())
def test_any_mutation_of_a_payload_with_its_checksum_made_right(data):
    header, payloads = sections_of(data.draw(st.sampled_from(KINDS)))
    place = data.draw(st.integers(0, len(payloads) - 1))
    payloads[place] = data.draw(mutations(payloads[place]))
    sections = iter([(len(payload), zlib.crc32(payload)) for payload in payloads])

    def fixed(section):
        size, checksum = next(sections)
        return replace(section, size_bytes=size, checksum=checksum)

    shared = fixed(header.shared) if header.shared else None
    layers = tuple(tuple(fixed(section) for section in layer) for layer in header.layers)
    header = replace(header, shared=shared, layers=layers, metadata_bytes=0)
    mutated = write_header(header) + b"".join(payloads)
    for reader in (read, read_prefix):
        contents = outcome(mutated, reader)
        assert contents is None or list(contents.forms) == list(header.names)


@given(st.data())
def test_any_mutation_of_a_header_with_its_checksum_made_right(data):
    whole = data.draw(st.sampled_from(KINDS))
    body, rest, features = opened(whole)
    for reader in (read, read_prefix):
        outcome(file_of(data.draw(mutations(body)), rest, features=features), reader)


@given(st.binary(max_size=300), st.sampled_from([0, 1]))
def test_any_header(body, features):
    outcome(file_of(body, bytes(8), features=features))


@pytest.mark.parametrize("name", target.TARGETS)
def test_the_seeds_of_the_fuzzer_are_harmless(name):
    for seed in target.seeds(name):
        target.TARGETS[name](seed)


def test_the_finds_of_the_fuzzer_are_not(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(target, "MAX_BYTES", 1000)
        with pytest.raises(AssertionError, match="1000 are allowed"):
            target.check(b"", lambda data, **arguments: read(to_bytes({"w": dense((300,))})))
    with pytest.raises(KeyError):
        target.check(b"", lambda data, **arguments: {}[0])
    with monkeypatch.context() as patch:
        patch.setattr(target, "decode_section", lambda payload, layouts: [dense((300,))])
        with pytest.raises(AssertionError, match="is declared"):
            target.section(b"")


def test_the_seeds_of_the_fuzzer_reach_the_decoder_of_every_kind(monkeypatch):
    """The targets are as near to the decoder as they say: all of the seeds decode, and a header passes."""
    decoded: list[str] = []

    def decode(payload, layouts):
        forms = decode_section(payload, layouts)
        decoded.extend(layout.kind for layout in layouts)
        return forms

    monkeypatch.setattr(target, "decode_section", decode)
    for seed in target.seeds("section"):
        target.section(seed)
    assert {"Dense", "Codebook", "Grid", "Trellis", "Sparse", "LowRank", "Successive", "Sum"} <= set(decoded)


@given(st.sampled_from(sorted(target.TARGETS)), st.binary(min_size=1, max_size=200))
def test_any_input_of_the_fuzzer(name, data):
    target.TARGETS[name](data)


@st.composite
def mutations(draw: st.DrawFn, data: bytes) -> bytes:
    """A few bytes changed, cut out, repeated or put in, anywhere."""
    mutated = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        a, b = sorted(draw(st.tuples(*[st.integers(0, len(mutated))] * 2)))
        b = min(b, a + draw(st.integers(0, 8)))
        mutated[a:b] = draw(st.binary(max_size=8) | st.just(bytes(mutated[a:b] * 2)))
    return bytes(mutated)
