"""n of m against brute force over all patterns."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from summands.compressions import PruneNM
from summands.errors import ArgumentError

weights = st.tuples(st.sampled_from([(7,), (2, 3), (1, 2, 2, 2), (3, 2), (0, 4), ()]), st.integers(0, 999)).map(
    lambda case: torch.randn(case[0], generator=torch.Generator().manual_seed(case[1])).mul(2).round()
)


@given(weights, st.integers(1, 5), st.integers(0, 5), st.booleans())
def test_is_optimal(weight, m, n, weighted):
    prune = PruneNM(min(n, m), m)
    importance = torch.linspace(0, 2, weight.numel()).reshape(weight.shape) if weighted else None
    form = prune.project(weight, importance=importance)
    form.validate()
    assert prune.is_feasible({"w": form}, {"w": weight})
    h = torch.ones_like(weight) if importance is None else importance
    rows = (h * weight**2).reshape(weight.shape[0] if weight.ndim > 1 else 1, -1) if weight.numel() else []
    best = 0.0
    for row in rows:
        for start in range(0, len(row), m):
            run = row[start : start + m].tolist()
            kept = itertools.combinations(range(len(run)), min(prune.n, len(run)))
            best += min(sum(x for i, x in enumerate(run) if i not in k) for k in kept)
    assert prune.objective(weight, form, importance=importance) == pytest.approx(best)


def test_feasibility_sees_one_too_many():
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert not PruneNM(1, 4).is_feasible({"w": PruneNM(2, 4).project(weight)}, {"w": weight})


@pytest.mark.parametrize("arguments", [(3, 2), (-1, 2), (0, 0), (1.0, 2), (True, 2)])
def test_refuses(arguments):
    with pytest.raises(ArgumentError, match="must be"):
        PruneNM(*arguments)
