"""Prune against brute force over all supports."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from summands.compressions import Prune
from summands.errors import ArgumentError

numbers = st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1.5, 3.0, -3.0, 1e-40, 1e30, -1e5]) | st.floats(
    -4, 4, width=32
)
vectors = st.lists(numbers, max_size=7).map(lambda values: torch.tensor(values, dtype=torch.float32))


def best_error(weight, count, importance=None):
    """The least squared error over all supports of at most `count` entries."""
    square = weight.double() ** 2 * (1 if importance is None else importance.double())
    supports = itertools.combinations(range(len(weight)), min(count, len(weight)))
    return min(float(square.sum()) - float(square[list(support)].sum()) for support in supports)


@given(vectors, st.integers(0, 8))
def test_count_is_optimal(weight, count):
    before = weight.clone()
    prune = Prune(count=count)
    form = prune.project(weight)
    form.validate()
    assert form.indices.numel() <= count
    assert prune.is_feasible({"w": form}, {"w": weight})
    scale = float((weight.double() ** 2).sum())
    assert prune.objective(weight, form) <= best_error(weight, count) + 1e-12 * scale
    assert torch.equal(weight, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_limits(dtype):
    weight = torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, 6.0]], dtype=dtype)
    assert torch.equal(Prune(keep=1.0).project(weight).dense(), weight)
    assert torch.equal(Prune(count=99).project(weight).dense(), weight)
    assert not Prune(keep=0).project(weight).dense().any()
    assert Prune(count=2).project(weight).dense().dtype == dtype
    assert Prune(count=3).project(torch.zeros(5, dtype=dtype)).indices.numel() == 0
    assert Prune(keep=0.5).project(torch.empty(0, 4, dtype=dtype)).dense().shape == (0, 4)
    assert Prune(keep=1.0).project(torch.tensor(7.0, dtype=dtype)).dense() == 7


def test_ties_go_to_the_first():
    form = Prune(count=3).project(torch.tensor([1.0, -2.0, 1.0, -1.0, 1.0]))
    assert form.indices.tolist() == [0, 1, 2]


def test_count_over_the_task():
    weights = {"a": torch.tensor([3.0, 0.1]), "b": torch.tensor([[2.0, 5.0]])}
    forms = Prune(count=2, per="task").project_task(weights)
    assert forms["a"].dense().tolist() == [3.0, 0.0] and forms["b"].dense().tolist() == [[0.0, 5.0]]


@pytest.mark.parametrize("arguments", [{}, {"keep": 0.1, "count": 1}, {"keep": 1.5}, {"keep": float("nan")},
                                       {"count": -1}, {"count": 1.0}, {"keep": True}, {"keep": 0.1, "per": "all"},
                                       {"keep": 0.1, "dtype": "int8"}])  # fmt: skip
def test_refuses(arguments):
    with pytest.raises(ArgumentError):
        Prune(**arguments)
