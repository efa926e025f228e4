"""Pruning against brute force over all supports."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from summands.compressions import Prune, PrunePenalty, squared_error
from summands.compressions.choose import largest, position_bits
from summands.errors import ArgumentError

numbers = st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1.5, 3.0, -3.0, 1e-40, 1e30, -1e5]) | st.floats(
    -4, 4, width=32
)
vectors = st.lists(numbers, max_size=7).map(lambda values: torch.tensor(values, dtype=torch.float32))
DTYPES = [None, "float16", "bfloat16"]


def importances(weight):
    return torch.linspace(0, 2, weight.numel()).flip(0).reshape(weight.shape)


def supports(size):
    for count in range(size + 1):
        yield from (list(s) for s in itertools.combinations(range(size), count))


def errors_by_support(weight, importance=None, dtype=None):
    """(support, squared error when it is kept and rounded), for every support."""
    rounded = Prune(keep=1.0, dtype=dtype).project(weight).dense().double()
    h = torch.ones_like(rounded) if importance is None else importance.double()
    lost, left = h * weight.double() ** 2, h * (weight.double() - rounded) ** 2
    for support in supports(len(weight)):
        kept = torch.zeros(len(weight), dtype=torch.bool)
        kept[support] = True
        yield support, float(torch.where(kept, left, lost).sum())


def close_to_or_below(value, optimum, weight):
    return value <= optimum + 1e-12 * float((weight.double() ** 2).sum())


@given(vectors, st.integers(0, 8), st.booleans(), st.sampled_from(DTYPES))
def test_count_is_optimal(weight, count, weighted, dtype):
    before, importance = weight.clone(), importances(weight) if weighted else None
    prune = Prune(count=count, dtype=dtype)
    form = prune.project(weight, importance=importance)
    form.validate()
    assert form.indices.numel() <= count and (form.values != 0).all()
    assert prune.is_feasible({"w": form}, {"w": weight})
    best = min(e for support, e in errors_by_support(weight, importance, dtype) if len(support) <= count)
    assert close_to_or_below(prune.objective(weight, form, importance=importance), best, weight)
    assert torch.equal(weight, before)


@given(vectors, st.sampled_from([0.0, 0.01, 0.125, 0.5, 3.0]), st.sampled_from([0.1, 1.0, 7.0]), st.booleans())
def test_penalty_is_optimal(weight, alpha, mu, weighted):
    importance = importances(weight) if weighted else None
    penalty = PrunePenalty(alpha)
    form = penalty.project(weight, mu=mu, importance=importance)
    best = min(e + 2 * alpha / mu * len(s) for s, e in errors_by_support(weight, importance))
    assert close_to_or_below(penalty.objective(weight, form, mu=mu, importance=importance), best, weight)


@given(vectors, st.sampled_from([0.0, 1e-4, 0.01, 0.05, 0.5]), st.booleans(), st.sampled_from(DTYPES))
def test_auto_is_optimal(weight, price, weighted, dtype):
    importance = importances(weight) if weighted else None
    prune, value_bits = Prune("auto", dtype=dtype), {None: 25, "float16": 12, "bfloat16": 9}[dtype]

    def bits(k):
        n = len(weight)
        entropy = sum(-n * p * math.log2(p) for p in (k / n, 1 - k / n) if p) if n else 0
        return entropy + value_bits * k

    form = prune.project(weight, price=price, importance=importance)
    best = min(e + price * bits(len(s)) for s, e in errors_by_support(weight, importance, dtype))
    found = squared_error(weight, form, importance) + price * bits(form.indices.numel())
    assert close_to_or_below(found, best + 1e-12, weight)
    assert prune.objective(weight, form, price=price, importance=importance) == pytest.approx(found)
    assert prune.is_feasible({"w": form}, {"w": weight})


def test_auto_keeps_less_at_a_higher_price():
    weight = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    kept = [Prune("auto").project(weight, price=10.0**p).indices.numel() for p in range(-9, 1)]
    assert kept == sorted(kept, reverse=True) and kept[0] == 2000 and kept[-1] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_limits(dtype):
    weight = torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, 6.0]], dtype=dtype)
    assert torch.equal(Prune(keep=1.0).project(weight).dense(), weight)
    assert torch.equal(Prune(count=99).project(weight).dense(), weight)
    assert not Prune(keep=0).project(weight).dense().any()
    assert Prune(count=2).project(weight).dense().dtype == dtype
    assert Prune(count=3).project(torch.zeros(5, dtype=dtype)).indices.numel() == 0
    assert Prune(keep=0.5).project(torch.empty(0, 4, dtype=dtype)).dense().shape == (0, 4)
    assert Prune("auto").project(torch.empty(0, 4, dtype=dtype), price=1.0).dense().shape == (0, 4)
    assert Prune(keep=1.0).project(torch.tensor(7.0, dtype=dtype)).dense() == 7
    assert torch.equal(PrunePenalty(1.0).project(weight, mu=math.inf).dense(), weight)
    assert not PrunePenalty(1.0).project(weight, mu=0.0).dense().any()
    assert torch.equal(PrunePenalty(0.0).project(weight, mu=0.0).dense(), weight)


def test_the_smallest_floats_are_told_apart():
    tiny = torch.finfo(torch.float32).smallest_normal * 2**-23
    assert Prune(count=1).project(torch.tensor([tiny, -2 * tiny, 0.0])).indices.tolist() == [1]


def test_ties_go_to_the_first():
    form = Prune(count=3).project(torch.tensor([1.0, -2.0, 1.0, -1.0, 1.0]))
    assert form.indices.tolist() == [0, 1, 2]


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(0, 31))
def test_largest_is_a_stable_sort_cut_off(scores, count):
    score = torch.tensor(scores, dtype=torch.float32)
    expected = score.sort(descending=True, stable=True).indices[:count].sort().values
    assert torch.equal(largest(score, count), expected)


def test_position_bits_of_the_ends_and_the_middle():
    assert position_bits(torch.tensor([0.0, 4.0, 8.0], dtype=torch.float64), 8).tolist() == pytest.approx([0, 8, 0])


def test_count_over_the_task():
    weights = {"a": torch.tensor([3.0, 0.1]), "b": torch.tensor([[2.0, 5.0]])}
    prune = Prune(count=2, per="task")
    forms = prune.project_task(weights)
    assert forms["a"].dense().tolist() == [3.0, 0.0] and forms["b"].dense().tolist() == [[0.0, 5.0]]
    assert prune.is_feasible(forms, weights)
    assert not Prune(count=1, per="task").is_feasible(forms, weights)


@pytest.mark.parametrize("arguments", [{}, {"keep": 0.1, "count": 1}, {"keep": 1.5}, {"keep": float("nan")},
                                       {"count": -1}, {"count": 1.0}, {"keep": True}, {"keep": 0.1, "per": "all"},
                                       {"keep": 0.1, "dtype": "int8"}, {"keep": "some"},
                                       {"keep": "auto", "per": "task"},
                                       {"keep": 0.1, "groups": "rows"}, {"keep": 0.1, "groups": "block(0, 1)"},
                                       {"keep": 0.1, "groups": "row", "per": "row"}])  # fmt: skip
def test_refuses(arguments):
    with pytest.raises(ArgumentError, match="must be"):
        Prune(**arguments)


def test_refuses_what_only_the_call_shows():
    weight = torch.ones(3)
    with pytest.raises(ArgumentError, match="price"):
        Prune("auto").project(weight)
    with pytest.raises(ArgumentError, match="mu"):
        PrunePenalty(1.0).project(weight)
    with pytest.raises(ArgumentError, match="mu"):
        PrunePenalty(1.0).project(weight, mu=-1.0)
    for alpha in (-1.0, math.nan, math.inf, "a", True):
        with pytest.raises(ArgumentError, match="alpha"):
            PrunePenalty(alpha)


def test_count_in_every_slice():
    weight = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]])
    rows, channels = Prune(count=2, per="row"), Prune(count=1, per="channel")
    assert rows.project(weight).dense().tolist() == [[3, 0, 2], [0, 5, 4]]
    assert channels.project(weight).dense().tolist() == [[3, 0, 0], [0, 5, 4]]
    assert rows.is_feasible({"w": rows.project(weight)}, {"w": weight})
    assert channels.is_feasible({"w": channels.project(weight)}, {"w": weight})
    assert not Prune(count=1, per="row").is_feasible({"w": rows.project(weight)}, {"w": weight})
