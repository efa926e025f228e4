"""Tucker-2 against its HOSVD bound, exact decompositions and the enumeration of ranks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from summands.compressions import Tucker
from summands.errors import ArgumentError, WeightError
from summands.forms import Dense

cases = st.tuples(st.sampled_from([(4, 3, 2, 2), (3, 5, 4), (2, 2, 1, 3, 2), (6, 1, 3, 3)]), st.integers(0, 999)).map(
    lambda case: torch.randn(case[0], generator=torch.Generator().manual_seed(case[1]), dtype=torch.float64)
)


def tails(weight, axis):
    return torch.linalg.svdvals(weight.movedim(axis, 0).flatten(1)) ** 2


@given(cases, st.integers(0, 6), st.integers(0, 6))
def test_lies_between_the_bounds(weight, p, q):
    """The error is at least each unfolding's tail, and at most their sum (De Lathauwer 2000)."""
    before, compression = weight.clone(), Tucker(p, q)
    form = compression.project(weight)
    form.validate()
    error = compression.objective(weight, form)
    lost = [float(tails(weight, 0)[p:].sum()), float(tails(weight, 1)[q:].sum())]
    assert max(lost) - 1e-9 <= error <= sum(lost) + 1e-9
    assert compression.is_feasible({"w": form}, {"w": weight})
    assert torch.equal(weight, before)
    again = compression.project(weight, previous=form)
    assert compression.objective(weight, again) <= error


@given(cases, st.sampled_from([0.0, 1e-4, 1e-3, 1e-2, 1.0]))
def test_auto_is_no_worse_than_any_pair_of_ranks(weight, price):
    compression = Tucker("auto")
    form = compression.project(weight, price=price)
    reached = compression.objective(weight, form, price=price)
    u, v = (torch.linalg.svd(weight.movedim(a, 0).flatten(1))[0] for a in (0, 1))
    n, m, d = *weight.shape[:2], weight[0, 0].numel()
    for p in range(n + 1):
        for q in range(m + 1):
            core = torch.einsum("nm...,np,mq->pq...", weight, u[:, :p], v[:, :q])
            total = weight.square().sum() - core.square().sum() + price * 56 * (n * p + m * q + p * q * d)
            assert reached <= float(total) + 1e-9
    assert reached <= price * 56 * weight.numel() + 1e-9
    assert compression.is_feasible({"w": form}, {"w": weight})


def test_exact_decompositions_are_found():
    noise = torch.Generator().manual_seed(0)
    core, u, v = (torch.randn(s, generator=noise) for s in ((2, 3, 3, 3), (7, 2), (6, 3)))
    weight = torch.einsum("pqij,np,mq->nmij", core, u, v)
    form = Tucker("auto").project(weight, price=1e-4)
    assert form.ranks == (2, 3) and torch.allclose(form.dense(), weight, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_limits(dtype):
    weight = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert isinstance(Tucker(3, 4).project(weight), Dense)
    assert torch.equal(Tucker(9, 9).project(weight).dense(), weight)
    assert Tucker(0, 2).project(weight).dense().equal(torch.zeros_like(weight))
    assert Tucker(2, 2).project(weight).dense().dtype == dtype
    assert Tucker(2, 2, dtype="float16").project(weight).core.dtype == torch.float16
    assert Tucker(1, 1).project(torch.zeros(2, 2, 2, dtype=dtype)).dense().count_nonzero() == 0
    assert Tucker(1, 1).project(torch.empty(0, 2, 2, dtype=dtype)).dense().shape == (0, 2, 2)
    assert Tucker("auto").project(torch.empty(2, 0, 2, dtype=dtype), price=1.0).dense().shape == (2, 0, 2)


def test_refuses():
    for ranks in (("auto", 1), (1,), (-1, 1), (1, 1.0), ("some",)):
        with pytest.raises(ArgumentError, match="must be"):
            Tucker(*ranks)
    with pytest.raises(WeightError, match="3-d"):
        Tucker(1, 1).project(torch.ones(2, 2))
    with pytest.raises(ArgumentError, match="price"):
        Tucker("auto").project(torch.ones(2, 2, 2))
    with pytest.raises(ArgumentError, match="importance"):
        Tucker(1, 1).project(torch.ones(2, 2, 2), importance=torch.ones(2, 2, 2))
