"""Every compression of the list against every promise. To add a compression, add a line to cases.py."""

import checks
import pytest
import torch
from cases import CASES, EXACT, NOTHING
from hypothesis import given
from hypothesis import strategies as st
from weights import DTYPES, SHAPES, awkward, grid, importances, weights

every = pytest.mark.parametrize("case", CASES, ids=str)
optimal = pytest.mark.parametrize("case", [case for case in CASES if case.oracle], ids=str)
single = pytest.mark.parametrize("case", [case for case in CASES if len(case.compression.parts()) == 1], ids=str)


@optimal
def test_brute_force_on_a_fixed_grid(case):
    for shape in SHAPES[case.ndim]:
        for weight in grid(shape):
            checks.is_optimal(case, weight)


@optimal
@given(st.data())
def test_brute_force(case, data):
    weight = data.draw(weights(case.ndim))
    weighting = data.draw(st.none() | importances(weight)) if case.weighted else None
    checks.is_optimal(case, weight, weighting)
    if case.compression.per == "task":
        checks.is_optimal_over_the_task(case, weight)


@every
@given(st.data())
def test_promises(case, data):
    weight = data.draw(weights(case.ndim, DTYPES))
    form = checks.is_a_form_of(case, weight)
    if not case.shrinks:
        checks.returns_its_own_kind(case, weight, form)
    checks.keeps_a_better_previous(case, weight.flip(0) * 0.5 if weight.ndim else -weight, weight, form)
    if len(case.compression.parts()) > 1:
        checks.beats_its_parts(case, weight, form)


@every
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_awkward_weights(case, dtype):
    for weight in awkward(case.ndim, dtype).values():
        if weight.abs().max() > case.largest:
            checks.refuses(case, weight, "of the largest entry")
            continue
        checks.is_a_form_of(case, weight)
        checks.is_deterministic(case, weight)
        checks.survives_the_file(case, weight)
        checks.shares_no_memory(case, weight)
        if not case.shrinks:
            checks.returns_its_own_kind(case, weight)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_limits(dtype):
    for weight in awkward(2, dtype).values():
        for compression in EXACT:
            assert torch.equal(compression.project(weight).dense(), weight), str(compression)
        for compression in NOTHING:
            assert not compression.project(weight).dense().any(), str(compression)


@every
def test_refuses_what_is_no_weight(case):
    shape = SHAPES[case.ndim][-1]
    for bad in (float("nan"), float("inf"), -float("inf")):
        weight = torch.ones(shape)
        weight.view(-1)[-1] = bad
        checks.refuses(case, weight, "must be finite, got .1 NaN or infinite")
    checks.refuses(case, torch.ones(shape, dtype=torch.int64), "must be a tensor of a floating dtype")


@every
def test_text(case):
    checks.reads_its_own_text(case)


@single
def test_transfers(case):
    if case.price is not None:
        pytest.skip("a free hyperparameter is chosen by the coder's bits, which are counted in host memory")
    checks.moves_little(case, torch.linspace(-1, 1, 6).reshape([6, *[1] * (max(case.ndim, 1) - 1)]))


@every
def test_threads_change_nothing(case):
    generator = torch.Generator().manual_seed(0)
    shape = [6, *[4] * (max(case.ndim, 1) - 1)]
    named = {str(i): torch.randn(shape, generator=generator) for i in range(5)}
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(case.compression.project_task(named, mu=case.mu, price=case.price))
    finally:
        torch.set_num_threads(threads)
    assert list(found[0]) == list(found[1]) == list(named)
    assert all(found[0][name].same(found[1][name]) for name in named)
