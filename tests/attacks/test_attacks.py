"""One hostile file for each rule: the checksums are right, so the rule itself refuses it, before any allocation."""

import zlib
from dataclasses import replace

import pytest
import torch

from summands.coding import Layout, encode_section, layout_of
from summands.container import read, read_header, to_bytes
from summands.container.header import MAX_FORMS, VERSION, pack, write_header
from summands.errors import LimitError, UnsupportedFileError
from summands.forms import Dense, Sparse, Sum
from tests.attacks.forge import (
    EXTENT,
    body_of,
    checksum,
    file_of,
    rewritten,
    sections_of,
    with_layouts,
    with_payload,
    with_section,
)
from tests.attacks.refusal import refused
from tests.container.samples import codebook, dense, grid, low_rank, sparse, total

GOOD = {"a": dense((3, 4)), "b": codebook((5, 6)), "c": sparse((9, 9))}
SMALL = layout_of(dense((2,)))


def test_refused_fails_on_wrong_answers():
    """The helper sees a file that is read, a wrong message and a wrong type."""
    with pytest.raises(pytest.fail.Exception):
        refused(to_bytes({}), "x")
    with pytest.raises(AssertionError):
        refused(b"nothing", "checksum")
    with pytest.raises(AssertionError):
        refused(b"nothing", "not a summands file", LimitError)
    with pytest.raises(AssertionError, match="decoder was called"):
        refused(to_bytes(GOOD), "x")
    refused(b"nothing", "not a summands file")


# The prelude


@pytest.mark.parametrize("data", [b"", b"\x93", b"\x93SUN" + b"\0" * 40, b"PK\x03\x04", b"\x80\x04\x95"])
def test_other_files(data):
    refused(data, "not a summands file")


def test_an_unknown_version():
    refused(file_of(b"", version=VERSION + 1), f"format version {VERSION + 1}", UnsupportedFileError)
    refused(file_of(b"", version=0), "format version 0", UnsupportedFileError)


def test_an_unknown_feature():
    refused(file_of(body_of(0, 0, 0), features=0b100100), "feature 2, 5", UnsupportedFileError)
    refused(file_of(body_of(0, 0, 0), features=2**62), "feature 62", UnsupportedFileError)


def test_a_varint_without_end_or_not_in_its_shortest_writing():
    for varint in (b"\xff" * 20, b"\x80\x00", b"\x80" * 8 + b"\x01\x00"):
        refused(b"\x93SUM\x01\x00" + varint + b"\0" * 20, "varint|most|version")
    refused(b"\x93SUM\x81\x00", "varint")


# The header


def test_a_header_beyond_the_file():
    refused(b"\x93SUM\x01\x00" + b"\xff\xff\x03" + b"\0" * 99, "truncated")


def test_a_header_beyond_the_limit():
    refused(b"\x93SUM\x01\x00" + b"\xff\xff\xff\xff\x0f" + b"\0" * 99, "must be at most|limit")


def test_a_header_without_its_checksum():
    data = bytearray(to_bytes(GOOD))
    data[10] ^= 1
    refused(bytes(data), "header does not have its checksum")


def test_an_endless_header():
    bomb = pack(bytes(40 << 20))
    assert len(bomb) < 50_000
    refused(file_of(b"", packed=bomb), "no end within")


def test_a_header_that_is_not_one_deflate_stream():
    body = pack(body_of(0, 0, 0))
    refused(file_of(b"", packed=b"\xff" * 30), "not deflated")
    refused(file_of(b"", packed=body[:-1]), "no end within")
    refused(file_of(b"", packed=body + b"\0"), "after its deflate stream")
    refused(file_of(b"", packed=b""), "no end within")


def test_a_header_with_more_or_less_than_it_declares():
    refused(file_of(body_of(0, 0, 0, 0)), "1 bytes after its end")
    refused(file_of(body_of(0, 0)), "wanted")


# Names


def test_more_weights_than_allowed():
    refused(file_of(body_of(MAX_FORMS + 1)), "at most")


def test_duplicate_names():
    refused(rewritten(GOOD, lambda h: replace(h, names=("a", "b", "a"))), "two weights are named 'a'")


def test_a_name_that_shares_more_than_there_is():
    refused(file_of(body_of(2, "ab", 3, 0)), "at most 2")


def test_a_name_beyond_the_limit_and_names_beyond_memory():
    refused(file_of(body_of(1, 0, 5000, b"x" * 5000)), "at most 4096")
    long = body_of(20_000, 0, 4096, b"x" * 4096) + body_of(4095, 1, b"y") * 19_999
    refused(file_of(long), "names have more than")


def test_a_name_that_is_not_utf8():
    refused(file_of(body_of(1, 0, 2, b"\xff\xfe", 0, 2, SMALL, *EXTENT, 0)), "utf-8")


# Coverage: which weights stand in which section, and where


def test_a_group_of_no_weights_or_one_block():
    for group in (0, 1, 3):
        refused(file_of(body_of(1, "w", 0, group, SMALL, *EXTENT, 0), bytes(8)), "cannot be")


def test_a_group_of_more_weights_than_there_are():
    refused(file_of(body_of(1, "w", 0, 4, SMALL, SMALL, *EXTENT, 0), bytes(8)), "a group of 2 weights where 1 are left")


def test_missing_weights():
    refused(file_of(body_of(2, "v", "w", 0, 2, SMALL, *EXTENT, 0), bytes(8)), "cannot be|wanted")


def test_sections_with_a_hole_an_overlap_or_trailing_bytes():
    data = to_bytes(GOOD)
    for wrong in (data + b"\0", data[:-1], data + data):
        refused(wrong, "declares")
    for change in (1, -1, 2**62):
        grown = rewritten(
            GOOD, lambda h, n=change: with_section(h, 0, lambda s: replace(s, size_bytes=s.size_bytes + n))
        )
        refused(grown, "declares")


def test_a_length_that_overflows():
    data = file_of(body_of(2, "v", "w", 0, 2, SMALL, 2**63 - 1, bytes(4), 2, SMALL, 2**63 - 1, bytes(4), 0), bytes(8))
    refused(data, "declares")
    refused(file_of(body_of(1, "w", 0, 2, SMALL) + b"\xff" * 9 + b"\x01" + bytes(4) + b"\0"), "varint")


def test_truncation_everywhere():
    data = to_bytes(GOOD, metadata={"a": 1})
    for size in range(len(data)):
        refused(data[:size], "truncated|declares|not a summands file|wanted")


# What is shared


def test_a_shared_tensor_that_is_not_there():
    layout = layout_of(dense((2,)), ())
    far = replace(layout, stored=(replace(layout.stored[0], shared=3),))
    refused(file_of(body_of(1, "w", 0, 2, far, *EXTENT, 0), bytes(8)), "shared tensor 3 of 0")
    refused(file_of(body_of(0, 1, far, *EXTENT, 0), bytes(8)), "stored where it stands")


def test_a_shared_tensor_of_another_shape_or_dtype():
    form = dense((2,))
    layout = layout_of(form, [form.values])
    for there in (dense((3,)), dense((2,), dtype=torch.float16), dense((2, 1))):
        body = body_of(1, "w", 1, layout_of(there), *EXTENT, 2, layout, *EXTENT, 0)
        refused(file_of(body, bytes(16)), "shared tensor")


def test_a_shared_tensor_must_be_dense():
    refused(file_of(body_of(0, 1, layout_of(grid((2,))), *EXTENT, 0), bytes(8)), "must be Dense")
    refused(file_of(body_of(0, 1, layout_of(dense((2,), stored=torch.float16)), *EXTENT, 0), bytes(8)), "two dtypes")


def test_shared_positions_outside_the_weight_that_they_look_into():
    """They are looked up in the term before when no form has checked them yet."""
    indices = torch.tensor([1, 2, 3])
    quantised, values = grid((9,)), torch.ones(3)

    def picked() -> Sum:
        return Sum(
            shape=quantised.shape,
            dtype=quantised.dtype,
            terms=(
                quantised,
                Sparse(shape=quantised.shape, dtype=quantised.dtype, indices=indices, values=values.clone()),
            ),
        )

    forms = {"a": picked(), "b": replace(picked(), terms=(grid((9,), 1), picked().terms[1]))}
    header, payloads = sections_of(to_bytes(forms))
    far = Dense(shape=indices.shape, dtype=indices.dtype, values=torch.tensor([1, 2, 10**9]))
    payload = encode_section([far]).payload
    shared = replace(header.shared, size_bytes=len(payload), checksum=zlib.crc32(payload))
    data = write_header(replace(header, shared=shared)) + payload + b"".join(payloads[1:])
    refused(data, r"in \[0, 9\)", decodes=True)


# Row blocks


def blocks(*layouts: Layout, shared: tuple[Layout, ...] = ()) -> bytes:
    items = [item for layout in layouts for item in (layout, *EXTENT)]
    extent = EXTENT if shared else ()
    body = body_of(1, "w", len(shared), *shared, *extent, 2 * len(layouts) + 1, *items, 0)
    return file_of(body, bytes(8 * (len(layouts) + bool(shared))))


def test_row_blocks_that_do_not_fit():
    one = layout_of(dense((2, 3)))
    two = layout_of(total(dense((2, 3)), sparse((2, 3))))
    three = layout_of(total(dense((2, 3)), sparse((2, 3)), sparse((2, 3))))
    for other in (
        layout_of(dense((2, 4))),
        layout_of(dense((2, 3, 1))),
        layout_of(dense((2, 3), dtype=torch.float16)),
        layout_of(dense((2, 3), stored=torch.float16)),
        layout_of(sparse((2, 3))),
        two,
    ):
        refused(blocks(one, other), "row blocks")
    refused(blocks(two, three), "row blocks")
    refused(blocks(layout_of(dense(())), layout_of(dense(()))), "row blocks")
    refused(blocks(layout_of(low_rank((2, 3))), layout_of(low_rank((2, 3)))), "row blocks")


def test_row_blocks_of_different_values():
    a, b = codebook((2, 3)), codebook((2, 3), count=5)
    refused(blocks(layout_of(a), layout_of(a)), "row blocks")
    refused(blocks(layout_of(a, [a.values]), layout_of(a), shared=(layout_of(dense((4,))),)), "row blocks")
    refused(blocks(layout_of(codebook((2, 3), axis=0)), layout_of(codebook((2, 3), axis=0, count=5))), "row blocks")
    refused(
        blocks(layout_of(a, [a.values]), layout_of(b, [b.values]), shared=(layout_of(dense((4,))),)),
        "shared tensor|row blocks",
    )


# Payloads


def test_a_section_without_its_checksum():
    data = to_bytes(GOOD)
    refused(data[:-1] + bytes([data[-1] ^ 1]), "weight 'a' and 2 more: the section at byte .* checksum")


def test_a_wrong_final_coder_state():
    """Bytes that the encoder would not have written: the coder's last state says which had to come."""
    for change in (
        lambda payload: payload + b"\0",
        lambda payload: payload + b"\1",
        lambda payload: payload + bytes(10_000),
        lambda payload: payload + payload,
    ):
        refused(with_payload({"w": sparse((40, 40))}, change), "weight 'w'", decodes=True)


def test_a_bomb_of_one_symbol_class():
    """Zeros cost next to nothing: what a small file may hold is what `max_bytes` allows, and no more."""
    zeros = grid((4_000_000,), levels=torch.int8)
    zeros.levels.zero_()
    data = to_bytes({"w": zeros})
    assert len(data) < 1000
    refused(data, "the limit is 1000000", LimitError, max_bytes=1_000_000)
    header = read_header(data)
    enough = header.memory_bytes() + header.working_bytes()
    assert not read(data, max_bytes=enough, threads=1).forms["w"].levels.any()


def test_a_section_that_belongs_to_other_layouts():
    data = rewritten({"w": codebook((8, 8))}, lambda h: with_layouts(h, 0, [layout_of(grid((30,)))]))
    refused(data, "weight 'w'", decodes=True)


# Metadata


def with_metadata(stored: bytes) -> bytes:
    return file_of(body_of(0, 0, len(stored), checksum(stored)), stored)


def test_metadata():
    assert read(with_metadata(pack(b'{"a": 1}'))).metadata == {"a": 1}
    refused(with_metadata(pack(b" " * (20 << 20))), "no end within")
    refused(with_metadata(b"\xff\xff"), "not deflated")
    refused(with_metadata(pack(b"{} {}")), "metadata")
    refused(with_metadata(pack(b"\xff\xfe\xfa")), "metadata")
    refused(with_metadata(pack(b"[1]")), "an object is wanted")
    refused(with_metadata(pack(b'{"a": NaN}')), "NaN is not JSON")
    refused(with_metadata(pack(b'{"a": ' + b"[" * 10**6 + b"}")), "nested too deep")
    refused(with_metadata(pack(b'{"a": ' + b"9" * 10**6 + b"}")), "metadata")
    refused(file_of(body_of(0, 0, 2**40, bytes(4))), "at most")
    data = with_metadata(pack(b"{}"))
    refused(data[:-1] + bytes([data[-1] ^ 1]), "metadata does not have its checksum")
