"""LowRank against the singular values of LAPACK's SVD."""

import pytest
import torch

from summands.compressions import LowRank
from summands.errors import ArgumentError
from summands.forms import Dense

SHAPES = [(4, 7), (7, 4), (5, 5), (1, 6), (6, 1), (3, 4, 2, 2), (6,)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_error_is_the_tail_of_the_spectrum(shape, dtype):
    weight = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    spectrum = torch.linalg.svdvals(weight.double().reshape(shape[0], -1))
    for rank in range(len(spectrum) + 2):
        low = LowRank(rank)
        form = low.project(weight)
        form.validate()
        assert low.is_feasible({"w": form}, {"w": weight})
        assert low.objective(weight, form) == pytest.approx(float((spectrum[rank:] ** 2).sum()), rel=1e-5, abs=1e-10)


def test_full_rank_is_dense():
    weight = torch.randn(3, 5)
    form = LowRank(3).project(weight)
    assert isinstance(form, Dense) and torch.equal(form.dense(), weight)


@pytest.mark.parametrize("weight", [torch.zeros(4, 3), torch.ones(4, 3), torch.empty(0, 3), torch.full((2, 2), 1e-45)])
@pytest.mark.parametrize("rank", [0, 1, 2, 9])
def test_limits(weight, rank):
    dense = LowRank(rank).project(weight).dense()
    assert dense.shape == weight.shape and dense.isfinite().all()
    assert torch.allclose(dense, weight if rank else torch.zeros_like(weight), atol=1e-6)


def test_same_bits_twice_and_signs_fixed():
    weight = torch.randn(6, 9, generator=torch.Generator().manual_seed(2))
    first, second = LowRank(3).project(weight), LowRank(3).project(weight)
    negated = LowRank(3).project(-weight)
    assert first.same(second)
    assert torch.equal(first.right, negated.right) or torch.equal(first.left, negated.left)


@pytest.mark.parametrize("arguments", [{"rank": -1}, {"rank": 1.0}, {"rank": 1, "view": "up"}, {"rank": True}])
def test_refuses(arguments):
    with pytest.raises(ArgumentError):
        LowRank(**arguments)
