"""LowRank against the singular values of LAPACK's SVD, and rank selection against the plain enumeration."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from summands.compressions import LowRank, squared_error
from summands.errors import ArgumentError
from summands.forms import Dense
from summands.forms import LowRank as LowRankForm
from summands.views import NAMED_VIEWS, dense_flops, parse_view

SHAPES = [(4, 7), (7, 4), (5, 5), (1, 6), (6, 1), (3, 4, 2, 2), (3, 2, 4), (6,)]
cases = st.tuples(st.sampled_from(SHAPES), st.integers(0, 2**31)).map(
    lambda case: torch.randn(case[0], generator=torch.Generator().manual_seed(case[1]), dtype=torch.float64)
)


def tail(weight, view, rank):
    """The squared error of the best matrix of this rank, by LAPACK's SVD."""
    return float((torch.linalg.svdvals(view.to_matrix(weight.double()))[rank:] ** 2).sum())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_error_is_the_tail_of_the_spectrum(shape, dtype):
    weight = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    for view in NAMED_VIEWS.values():
        try:
            full = min(view.matrix_shape(weight.shape))
        except ArgumentError:
            continue
        for rank in range(full + 2):
            low = LowRank(rank, view=str(view))
            form = low.project(weight)
            form.validate()
            assert low.is_feasible({"w": form}, {"w": weight})
            assert low.objective(weight, form) == pytest.approx(tail(weight, view, rank), rel=1e-5, abs=1e-10)


def applicable(weight):
    for view in NAMED_VIEWS.values():
        try:
            view.matrix_shape(weight.shape)
        except ArgumentError:
            continue
        yield view


@given(cases, st.sampled_from([0.0, 1e-4, 1e-3, 0.01, 0.1]), st.sampled_from(["storage", "flops"]), st.booleans())
def test_auto_is_the_best_of_all_ranks_and_views(weight, unit, priced, penalised):
    sizes = {1: (), 2: (), 3: (5,), 4: (5, 6)}[weight.ndim]
    out = tuple(n - 1 for n in sizes)
    low = LowRank(
        "auto", view="auto", alpha=unit / 2 * 3 if penalised else None, priced=priced, in_size=sizes, out_size=out
    )
    how = {"mu": 3.0} if penalised else {"price": unit / (56 if priced == "storage" else 1)}
    form = low.project(weight, **how)
    dense = weight.numel() if priced == "storage" else dense_flops(weight.shape, out)
    best = unit * dense
    for view in applicable(weight):
        each = (
            sum(view.matrix_shape(weight.shape)) if priced == "storage" else view.rank_flops(weight.shape, sizes, out)
        )
        for rank in range(min(view.matrix_shape(weight.shape)) + 1):
            best = min(best, tail(weight, view, rank) + unit * min(dense if each is None else each * rank, dense))
    assert low.objective(weight, form, **how) == pytest.approx(best, rel=1e-6, abs=1e-9)
    assert low.is_feasible({"w": form}, {"w": weight})


def test_rank_counts_the_singular_values_above_the_price():
    weight = torch.diag(torch.tensor([9.0, 5.0, 2.0, 1.0, 0.1] + [0.0] * 15))
    for price in (1e-5, 1e-3, 2e-3, 1e-2, 1.0):
        unit = price * 27 * 40
        assert LowRank("auto").project(weight, price=price).rank == sum(s**2 > unit for s in (9.0, 5.0, 2.0, 1.0, 0.1))


def test_a_price_of_nothing_stores_dense():
    weight = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    assert isinstance(LowRank("auto").project(weight, price=0.0), Dense)
    assert LowRank("auto").project(weight, price=1e6).rank == 0
    assert LowRank("auto", alpha=1.0).project(weight, mu=0.0).rank == 0
    assert isinstance(LowRank("auto", alpha=1.0).project(weight, mu=math.inf), Dense)


def test_the_view_is_chosen_by_the_price():
    weight = torch.einsum("nm,ij->nmij", torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), torch.eye(3))
    form = LowRank("auto", view="auto").project(weight, price=1e-4)
    assert (form.rank, str(form.view)) == (1, "spatial")
    assert str(LowRank("auto", view=("out", "reshape(48)")).project(weight, price=1e-4).view) == "reshape(48)"


def test_full_rank_is_dense():
    weight = torch.randn(3, 5)
    form = LowRank(3).project(weight)
    assert isinstance(form, Dense) and torch.equal(form.dense(), weight)


@pytest.mark.parametrize(
    "weight",
    [torch.zeros(4, 3), torch.ones(4, 3), torch.empty(0, 3), torch.full((2, 2), 1e-45), torch.full((2, 3), 1e38),
     torch.full((2, 2), 1e300, dtype=torch.float64), torch.full((3, 3), 1e-300, dtype=torch.float64), torch.ones(1, 1)],
)  # fmt: skip
@pytest.mark.parametrize("rank", [0, 1, 2, 9])
def test_limits(weight, rank):
    dense = LowRank(rank).project(weight).dense()
    assert dense.shape == weight.shape and dense.isfinite().all() and dense.dtype == weight.dtype
    expected = weight if rank else torch.zeros_like(weight)
    assert torch.allclose(dense, expected, rtol=1e-5, atol=2e-45)


@pytest.mark.parametrize("own", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("stored", [None, "float16", "bfloat16", "float32"])
def test_dtypes(own, stored):
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(3)).to(own)
    before = weight.clone()
    form = LowRank(2, dtype=stored).project(weight)
    assert form.dense().dtype == own and form.left.dtype == (getattr(torch, stored) if stored else own)
    assert squared_error(weight, form) <= tail(weight, parse_view("out"), 2) * 1.01 + 1e-3
    assert torch.equal(weight, before)


def test_same_bits_twice_and_signs_fixed():
    weight = torch.randn(6, 9, generator=torch.Generator().manual_seed(2))
    first, second = LowRank(3).project(weight), LowRank(3).project(weight)
    negated = LowRank(3).project(-weight)
    assert first.same(second)
    assert torch.equal(first.left, negated.left) and torch.equal(first.right, -negated.right)


@given(cases, st.integers(0, 3), st.booleans())
def test_importance_descends(weight, rank, auto):
    importance = torch.rand(weight.shape, generator=torch.Generator().manual_seed(4)) ** 3
    low = LowRank("auto") if auto else LowRank(rank)
    how = {"price": 0.001} if auto else {}
    plain, weighted = low.project(weight, **how), low.project(weight, importance=importance, **how)

    def objective(form):
        return low.objective(weight, form, importance=importance, **how)

    assert objective(weighted) <= objective(plain) * (1 + 1e-9)
    again = low.project(weight, importance=importance, previous=weighted, **how)
    assert objective(again) <= objective(weighted) * (1 + 1e-9)
    assert low.is_feasible({"w": again}, {"w": weight})


def test_importance_of_a_few_entries_is_solved():
    """Entries without importance complete a matrix that has rank one."""
    weight = torch.outer(torch.arange(1.0, 7.0), torch.arange(1.0, 6.0))
    importance = torch.ones_like(weight)
    importance[0, 0] = importance[3, 2] = 0
    spoiled = weight.clone()
    spoiled[0, 0], spoiled[3, 2] = 9, -9
    form = LowRank(1).project(spoiled, importance=importance)
    assert isinstance(form, LowRankForm)
    assert squared_error(spoiled, form, importance) < 0.01 * squared_error(
        spoiled, LowRank(1).project(spoiled), importance
    )


@pytest.mark.parametrize("arguments", [{"rank": -1}, {"rank": 1.0}, {"rank": 1, "view": "up"}, {"rank": True},
                                       {"rank": 1, "view": "auto"}, {"rank": 1, "view": ("out",)},
                                       {"rank": 1, "alpha": 1.0}, {"rank": "auto", "alpha": -1.0},
                                       {"rank": "auto", "view": ()}, {"rank": "auto", "view": ("up",)},
                                       {"rank": "auto", "priced": "bytes"}, {"rank": 1, "dtype": "int8"},
                                       {"rank": "some"}])  # fmt: skip
def test_refuses(arguments):
    with pytest.raises(ArgumentError, match="must be"):
        LowRank(**arguments)


def test_refuses_what_only_the_call_shows():
    with pytest.raises(ArgumentError, match="price"):
        LowRank("auto").project(torch.ones(2, 2))
    with pytest.raises(ArgumentError, match="mu"):
        LowRank("auto", alpha=1.0).project(torch.ones(2, 2))
    with pytest.raises(ArgumentError, match="in_size"):
        LowRank("auto", priced="flops").project(torch.ones(2, 2, 3, 3), price=1.0)
    with pytest.raises(ArgumentError, match="dimensions"):
        LowRank(1, view="kernel").project(torch.ones(2, 2))
