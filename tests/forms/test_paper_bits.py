"""The accounting of the LC papers (algorithms 8) against counts by hand: no entropy coding, no headers."""

from __future__ import annotations

import math

import pytest
import torch

from summands.forms import Codebook, Grid, Sparse, Trellis
from tests.container import samples

SHAPE = torch.Size([4, 6])


@pytest.mark.parametrize(("values", "width"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (17, 5)])
def test_a_code_takes_whole_bits(values: int, width: int) -> None:
    codes = torch.zeros(SHAPE, dtype=torch.uint8)
    form = Codebook(shape=SHAPE, dtype=torch.float32, values=torch.arange(values) / 1.0, codes=codes)
    assert form.paper_bits(set()) == 24 * width + 32 * values


@pytest.mark.parametrize(("low", "high", "width"), [(0, 0, 0), (0, 1, 1), (-1, 1, 2), (-3, 4, 3), (-4, 4, 4)])
def test_a_level_takes_the_bits_of_their_range(low: int, high: int, width: int) -> None:
    levels = torch.full(SHAPE, low, dtype=torch.int32)
    levels[1, 2] = high
    form = Grid(shape=SHAPE, dtype=torch.float32, levels=levels, step=torch.tensor(0.5))
    assert form.paper_bits(set()) == 24 * width + 32


@pytest.mark.parametrize(("high", "width"), [(1, 1), (2, 1), (3, 1), (4, 2), (7, 2), (8, 3)])
def test_on_a_trellis_every_second_level_is_open(high: int, width: int) -> None:
    levels = torch.zeros(SHAPE, dtype=torch.int32)
    levels[3, 5] = high
    form = Trellis(shape=SHAPE, dtype=torch.float32, levels=levels, step=torch.tensor(0.5))
    assert form.paper_bits(set()) == 24 * max(width, 1) + 32


@pytest.mark.parametrize("seed", range(20))
def test_gaps_have_the_best_width_and_filler_fields(seed: int) -> None:
    """A gap that a field cannot hold is sent as full fields, each of 2^p - 1 zeros, and what is left."""
    generator = torch.Generator().manual_seed(seed)
    size, count = 3000, int(torch.randint(1, 60, (), generator=generator))
    indices = torch.randperm(size, generator=generator)[:count].sort().values
    values = torch.zeros(count, dtype=torch.float16)
    form = Sparse(shape=torch.Size([size]), dtype=torch.float32, indices=indices, values=values)
    widths = []
    for p in range(2, 33):
        fields, last = 0, -1
        for place in indices.tolist():
            gap, last = place - last - 1, place
            while gap >= 2**p - 1:
                fields, gap = fields + 1, gap - (2**p - 1)
            fields += 1
        widths.append(p * fields)
    assert form.paper_bits(set()) == 16 * count + min(widths)


def test_a_shared_codebook_is_billed_once_and_planes_with_their_signs() -> None:
    billed: set[int] = set()
    one = samples.codebook((4, 6))
    other = Codebook(shape=one.shape, dtype=one.dtype, values=one.values, codes=one.codes)
    width = math.ceil(math.log2(one.values.numel()))
    assert one.paper_bits(billed) - other.paper_bits(billed) == 32 * one.values.numel()
    assert other.paper_bits(billed) == 24 * width
    embedded = samples.embedded((4, 6), planes=5)
    assert embedded.paper_bits(set()) == (5 + 1) * 24 + 32 + 8 * 5  # and a step, and a point each
