"""Layouts: written and read again, and refused when nothing of their kind can exist."""

from dataclasses import replace

import pytest
import torch
from forms_strategy import forms
from hypothesis import given
from hypothesis import strategies as st

from summands.coding import ByteReader, ByteWriter, Layout, layout_of, read_layout, shared_tensors
from summands.coding.bytes_io import LARGEST
from summands.coding.kinds import KINDS
from summands.coding.layout import Stored
from summands.forms import Dense

F32, F16, I64 = Stored(torch.float32), Stored(torch.float16), Stored(torch.int64)


@given(forms)
def test_written_and_read_again(form):
    for shared in ([], shared_tensors([form, form])):
        layout = layout_of(form, shared)
        out = ByteWriter()
        layout.write(out)
        reader = ByteReader(bytes(out))
        assert read_layout(reader) == layout
        assert reader.remaining == 0
        assert layout.dense_bytes == form.dense_bytes
    own = layout_of(form)
    assert own.decoded_bytes == sum(t.numel() * t.element_size() for t in form.tensors().values())


@given(st.binary(max_size=60))
def test_random_bytes_are_a_layout_or_refused(data):
    try:
        layout = read_layout(ByteReader(data))
    except ValueError:
        return
    layout.validate()


@pytest.mark.parametrize(
    "layout",
    [
        Layout("Dense", (-1,), torch.float32, (), (F32,)),
        Layout("Dense", (2**30, 2**30), torch.float32, (), (F32,)),
        Layout("Dense", (0, 2**62), torch.float32, (), (F32,)),
        Layout("Dense", (1,) * 9, torch.float32, (), (F32,)),
        Layout("Dense", (2,), torch.float32, (), ()),
        Layout("Codebook", (3, 4), torch.float32, (2, 3), (F32, I64)),
        Layout("Codebook", (3, 4), torch.float32, (0, 0), (F32, I64)),
        Layout("Codebook", (3, 4), torch.float32, (300, 0), (F32, Stored(torch.uint8))),
        Layout("Codebook", (3, 4), torch.float32, (2, 0), (F32, F16)),
        Layout("Grid", (3, 4), torch.float32, (0,), (F32, F16)),
        Layout("Sparse", (3, 4), torch.float32, (13,), (I64, F32)),
        Layout("Sparse", (3, 4), torch.float32, (3,), (F32, F32)),
        Layout("LowRank", (3, 4), torch.float32, (1, 1, 0), (F32, F32)),
        Layout("LowRank", (3, 4), torch.float32, (1, 4, 5), (F32, F32)),
        Layout("LowRank", (3, 4), torch.float32, (1, 9, 0), (F32, F32)),
        Layout("LowRank", (3, 4), torch.float32, (2**60, 0, 0), (F32, F32)),
        Layout("Sum", (3,), torch.float32, terms=(Layout("Dense", (3,), torch.float32, (), (F32,)),)),
        Layout("Sum", (3,), torch.float32, terms=(Layout("Dense", (4,), torch.float32, (), (F32,)),) * 2),
        Layout("Sum", (3,), torch.float32, terms=(Layout("Dense", (3,), torch.float16, (), (F16,)),) * 2),
    ],
)
def test_impossible_layouts_are_refused(layout):
    with pytest.raises(ValueError):
        layout.validate()


def test_a_sum_in_a_sum_is_refused():
    dense = Layout("Dense", (3,), torch.float32, (), (F32,))
    total = Layout("Sum", (3,), torch.float32, terms=(dense, dense))
    total.validate()
    with pytest.raises(ValueError, match="no sum"):
        replace(total, terms=(dense, total)).validate()


def test_layouts_are_small():
    form = Dense(shape=torch.Size([500]), dtype=torch.float32, values=torch.zeros(500).half())
    out = ByteWriter()
    layout_of(form).write(out)
    assert len(out) == 5


def test_tags_are_unique():
    assert len({kind.tag for kind in KINDS}) == len(KINDS)


@given(st.lists(st.integers(0, LARGEST)))
def test_varints(numbers):
    out = ByteWriter()
    for n in numbers:
        out.varint(n)
    reader = ByteReader(bytes(out))
    assert [reader.varint() for _ in numbers] == numbers
    with pytest.raises(ValueError):
        reader.varint()


@pytest.mark.parametrize("data", ["", "80", "8000", "ffffffffffffffffff01", "ffffffffffffffffff"])
def test_bad_varints_are_refused(data):
    with pytest.raises(ValueError):
        ByteReader(bytes.fromhex(data)).varint()


def test_reading_is_bounded():
    with pytest.raises(ValueError):
        ByteReader(b"abc", 0, 2).raw(3)
    with pytest.raises(ValueError):
        ByteReader(b"\x05").varint(limit=4)
    with pytest.raises(ValueError):
        ByteWriter().varint(-1)
