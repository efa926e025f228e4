"""Shapes, sizes and dtypes that cannot be, or that a caller does not allow."""

from dataclasses import replace

import pytest
import torch

from summands.coding import layout_of
from summands.container import header as header_module
from summands.container import read_header
from summands.errors import LimitError
from tests.attacks.forge import (
    EXTENT,
    body_of,
    checksum,
    file_of,
)
from tests.attacks.refusal import refused
from tests.container.samples import codebook, grid, low_rank, sparse


def shaped(*shape: int) -> bytes:
    """A Dense layout of this shape as bytes: head, sizes, kind, stored dtype."""
    return body_of(32 * len(shape), *shape, 64, 0)


@pytest.mark.parametrize("shape", [(2**40, 2**40), (2**49,), (2**24, 2**25), (2**40, 0, 2**40), (1,) * 9, (2**31,) * 8])
def test_a_shape_that_is_too_large(shape):
    data = file_of(body_of(1, "w", 0, 2, shaped(*shape), *EXTENT, 0), bytes(8))
    refused(data, "at most|product|must be")


def test_tensors_without_entries_that_are_too_large():
    core = body_of(3 * 32, 0, 0, 0, 64 + 5, 2**62, 2**62, 0, 0, 0)
    refused(file_of(body_of(1, "w", 0, 2, core, *EXTENT, 0), bytes(8)), "of a product up to")


@pytest.mark.parametrize(
    ("form", "place", "dtype"),
    [
        (grid((4, 4)), 0, torch.float8_e4m3fn),
        (grid((4, 4)), 1, torch.uint16),
        (codebook((4, 4)), 0, torch.int32),
        (codebook((4, 4)), 1, torch.uint64),
        (sparse((4, 4)), 1, torch.complex64),
    ],
)
def test_a_dtype_that_torch_does_not_calculate_with(form, place, dtype):
    layout = layout_of(form)
    stored = [replace(one, dtype=dtype) if i == place else one for i, one in enumerate(layout.stored)]
    wrong = replace(layout, stored=tuple(stored))
    refused(file_of(body_of(1, "w", 0, 2, wrong, *EXTENT, 0), bytes(8)), f"got {dtype}")


def test_a_giant_declared_shape():
    """4 TB in a file of 40 bytes."""
    data = file_of(body_of(1, "w", 0, 2, shaped(2**40), *EXTENT, 0), bytes(8))
    refused(data, f"declares {4 * 2**40} bytes of memory", LimitError)
    refused(data, "the limit is 1000", LimitError, max_bytes=1000)
    assert read_header(data).memory_bytes() == 4 * 2**40


def test_many_weights_that_are_large_together():
    body = body_of(1000, *(f"{i}" for i in range(1000)), 0, 2000, shaped(2**20) * 1000, *EXTENT, 0)
    refused(file_of(body, bytes(8)), f"declares {1000 * 4 * 2**20} bytes of memory", LimitError)


def test_a_large_weight_of_few_symbols():
    """A sparse weight without entries, or factors of rank 0, are small themselves and large when dense."""
    for layout in (layout_of(sparse((4, 4), keep=0)), layout_of(low_rank((4, 4), rank=0))):
        large = replace(layout, shape=(2**20, 2**20))
        data = file_of(body_of(1, "w", 0, 2, large, *EXTENT, 0), bytes(8))
        refused(data, f"declares {4 * 2**40} bytes of memory", LimitError)


def test_a_large_codebook_of_a_small_weight():
    large = replace(layout_of(codebook((2,), codes=torch.int64)), numbers=(2**40, 0))
    refused(file_of(body_of(1, "w", 0, 2, large, *EXTENT, 0), bytes(8)), "bytes of memory", LimitError)


def test_a_large_shared_tensor():
    body = body_of(0, 1, shaped(2**40), *EXTENT, 0)
    refused(file_of(body, bytes(8)), "bytes of memory", LimitError)


def test_the_default_limit_grows_with_the_file():
    gigabyte = file_of(body_of(1, "w", 0, 2, shaped(2**26), *EXTENT, 0), bytes(8))
    refused(gigabyte, "bytes of memory", LimitError)
    size = 4_000_000
    same = file_of(body_of(1, "w", 0, 2, shaped(2**26), size, checksum(bytes(size)), 0), bytes(size))
    with pytest.raises(AssertionError, match="decoder was called"):
        refused(same, "x")


def test_more_kept_entries_than_entries():
    wrong = replace(layout_of(sparse((9, 9))), numbers=(82,))
    refused(file_of(body_of(1, "w", 0, 2, wrong, *EXTENT, 0), bytes(8)), "at most 81")


def test_deep_and_wide_sums():
    term = body_of(64, 0)
    deep = body_of(32, 4, 1, 1, 1) + term * 8
    refused(file_of(body_of(1, "w", 0, 2, deep, *EXTENT, 0), bytes(8)), "tag")
    wide = body_of(32, 4, 63) + term * 64
    refused(file_of(body_of(1, "w", 0, 2, wide, *EXTENT, 0) + term * 999, bytes(8)), "after its end")
    none = body_of(32, 4, 0)
    refused(file_of(body_of(1, "w", 0, 2, none, *EXTENT, 0), bytes(8)), "terms")


def test_more_terms_than_allowed(monkeypatch):
    """A short header of many long sums: each weight has 64 terms."""
    monkeypatch.setattr(header_module, "MAX_FORMS", 640)
    count = 11
    layout = body_of(32, 4, 63) + body_of(64, 0) * 64
    names = body_of(*(f"{i}" for i in range(count)))
    data = file_of(body_of(count) + names + body_of(0, 2 * count) + layout * count + body_of(*EXTENT, 0), bytes(8))
    refused(data, "more than 640 forms")


def test_an_unknown_kind_or_dtype():
    for layout in (body_of(32, 4, 127, 0), body_of(32 + 31, 4, 64, 0), body_of(32, 4, 64, 62)):
        refused(file_of(body_of(1, "w", 0, 2, layout, *EXTENT, 0), bytes(8)), "tag|dtype")


def test_memory_that_is_not_there():
    huge = file_of(body_of(1, "w", 0, 2, shaped(2**46), 0, checksum(b""), 0))
    refused(huge, "does not have", LimitError, decodes=True, max_bytes=2**60)
