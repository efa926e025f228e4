"""Rounding to a stored dtype never makes a finite weight infinite."""

import pytest
import torch

from summands.compressions import Keep
from summands.compressions.stored import STORED, rounded

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("own", DTYPES, ids=str)
@pytest.mark.parametrize("stored", [None, *STORED])
def test_the_largest_numbers_stay_finite(own, stored):
    weight = torch.tensor([1.0, -1.0], dtype=own) * torch.finfo(own).max
    dense = Keep(stored).project(weight).dense()
    assert dense.isfinite().all() and (dense.double() / weight.double() > 0).all()
    if stored is None or torch.finfo(getattr(torch, stored)).bits > torch.finfo(own).bits:
        assert torch.equal(dense, weight)


def test_the_largest_bfloat16_below_the_largest_float16():
    assert rounded(torch.tensor([65504.0], dtype=torch.float16), "bfloat16").tolist() == [65280.0]
