"""Fixed bases against least squares and brute force over the coefficients."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from summands.compressions import Transform, squared_error
from summands.errors import ArgumentError, WeightError
from summands.forms.transform import basis_functions

cases = st.tuples(st.sampled_from([(2, 3), (1, 2, 2, 2), (5,), (3, 1, 2)]), st.integers(0, 999)).map(
    lambda case: torch.randn(case[0], generator=torch.Generator().manual_seed(case[1]), dtype=torch.float64)
)


@given(cases, st.integers(0, 9), st.sampled_from(["dct", "chebyshev"]))
def test_terms_are_least_squares(weight, terms, basis):
    transform = Transform(terms, basis=basis)
    form = transform.project(weight)
    form.validate()
    assert transform.is_feasible({"w": form}, {"w": weight})
    rows = weight.reshape(weight.shape[0], -1)
    terms = min(terms, rows.shape[1])
    x = torch.arange(rows.shape[1], dtype=torch.float64) + 0.5
    design = [torch.cos(math.pi * k * x / len(x)) if basis == "dct" else x**k for k in range(terms)]
    best = float(rows.square().sum())
    if terms:
        phi = torch.stack(design, dim=1)
        best = float((rows.T - phi @ torch.linalg.lstsq(phi, rows.T, driver="gelsd").solution).square().sum())
    assert transform.objective(weight, form) == pytest.approx(best, abs=1e-9)


@given(cases, st.integers(0, 7), st.sampled_from([0.0, 0.003, 0.02, 1.0]))
def test_kept_coefficients_are_the_best(weight, count, price):
    by_count, auto = Transform(count=count), Transform(keep="auto")
    rows = weight.reshape(weight.shape[0], -1)
    size = rows.numel()
    square = (rows @ basis_functions("dct", rows.shape[1], rows.shape[1])).reshape(-1) ** 2
    best, cheapest = float(square.sum()), math.inf
    for kept in range(size + 1):
        entropy = sum(-size * p * math.log2(p) for p in (kept / size, 1 - kept / size) if p)
        for support in itertools.combinations(range(size), kept):
            error = float(square.sum() - square[list(support)].sum())
            best = min(best, error) if kept <= count else best
            cheapest = min(cheapest, error + price * (entropy + 54 * kept))
    form, priced = by_count.project(weight), auto.project(weight, price=price)
    assert by_count.objective(weight, form) <= best + 1e-9 and form.indices.numel() <= count
    assert auto.objective(weight, priced, price=price) == pytest.approx(cheapest, abs=1e-9)
    assert by_count.is_feasible({"w": form}, {"w": weight})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_limits(dtype):
    weight = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    precision = 4 * torch.finfo(dtype).eps
    for whole in (Transform(terms=99), Transform(keep=1.0, view="kernel"), Transform(count=24, view="reshape(2)")):
        assert torch.allclose(whole.project(weight).dense(), weight, rtol=0, atol=8 * precision)
    assert not Transform(keep=0.0).project(weight).dense().any()
    assert not Transform(terms=0).project(weight).dense().any()
    assert Transform(keep=0.5, dtype="float16").project(weight).values.dtype == torch.float16
    assert Transform(keep=1.0).project(torch.zeros(2, 2, dtype=dtype)).indices.numel() == 0
    assert Transform(terms=1).project(torch.empty(0, 2, dtype=dtype)).dense().shape == (0, 2)
    constant = torch.full((2, 8), 3.0, dtype=dtype)
    assert squared_error(constant, Transform(terms=1).project(constant)) < 16 * (3 * precision) ** 2


def test_refuses():
    for arguments in ({}, {"terms": 1, "keep": 0.5}, {"terms": -1}, {"terms": 1.0}, {"keep": 1.5}, {"count": -1},
                      {"terms": 1, "basis": "haar"}, {"terms": 33, "basis": "chebyshev"},
                      {"keep": 0.1, "basis": "chebyshev"}, {"terms": 1, "view": "up"},
                      {"terms": 1, "dtype": "int8"}):  # fmt: skip
        with pytest.raises(ArgumentError, match="must be"):
            Transform(**arguments)
    with pytest.raises(WeightError, match="8192"):
        Transform(terms=1).project(torch.ones(1, 9000))
    with pytest.raises(ArgumentError, match="price"):
        Transform(keep="auto").project(torch.ones(2, 2))
    with pytest.raises(ArgumentError, match="importance"):
        Transform(terms=1).project(torch.ones(2, 2), importance=torch.ones(2, 2))
