"""Group pruning against brute force over all sets of groups."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from summands.compressions import Prune, PrunePenalty
from summands.compressions.choose import _by_ratio, _by_table
from summands.compressions.groups import Units
from summands.errors import ArgumentError

SHAPES = [(3, 2), (2, 3, 2, 1), (1, 4), (5, 3)]
GROUPS = ["row", "channel", "kernel", "block(2, 2)", "block(1,3)"]
cases = st.tuples(st.sampled_from(SHAPES), st.sampled_from(GROUPS), st.integers(0, 2**31)).map(
    lambda case: (
        torch.randn(case[0], generator=torch.Generator().manual_seed(case[2])).mul(2).round().div(2),
        case[1],
    )
)


def all_choices(weight, groups):
    """(entries kept, groups kept, squared error) for every set of groups."""
    units = Units.of(groups, [weight.shape], weight.device)
    square = weight.double().reshape(-1) ** 2
    for bits in itertools.product([False, True], repeat=min(units.count, 10)):
        kept = torch.tensor(bits + (False,) * (units.count - len(bits)))[units.numbers]
        yield int(kept.sum()), sum(bits), float(square[~kept].sum())


@given(cases, st.floats(0, 1))
def test_constraint_is_optimal(case, keep):
    weight, groups = case
    if Units.of(groups, [weight.shape], weight.device).count > 10:
        return
    prune = Prune(keep, groups=groups)
    form = prune.project(weight)
    form.validate()
    limit = round(keep * weight.numel())
    assert prune.is_feasible({"w": form}, {"w": weight})
    best = min(error for entries, _, error in all_choices(weight, groups) if entries <= limit)
    assert prune.objective(weight, form) <= best + 1e-9


@given(cases, st.sampled_from([0.0, 0.1, 0.5, 2.0]), st.sampled_from([0.5, 2.0]))
def test_penalty_is_optimal(case, alpha, mu):
    weight, groups = case
    if Units.of(groups, [weight.shape], weight.device).count > 10:
        return
    penalty = PrunePenalty(alpha, groups=groups)
    form = penalty.project(weight, mu=mu)
    best = min(error + 2 * alpha / mu * entries for entries, _, error in all_choices(weight, groups))
    assert penalty.objective(weight, form, mu=mu) <= best + 1e-9


@given(cases, st.sampled_from([1e-3, 0.02, 0.1]))
def test_auto_is_no_worse_than_any_choice_of_groups(case, price):
    weight, groups = case
    units = Units.of(groups, [weight.shape], weight.device)
    prune = Prune("auto", groups=groups)
    best = prune.objective(weight, prune.project(weight, price=price), price=price)
    for bits in itertools.product([0.0, 1.0], repeat=min(units.count, 8)):
        chosen = torch.tensor(bits + (0.0,) * (units.count - len(bits)))[units.numbers]
        other = Prune(keep=1.0).project(weight * chosen.reshape(weight.shape))
        assert best <= prune.objective(weight, other, price=price) + 1e-9


def test_one_budget_for_the_filters_of_two_layers():
    weights = {"a": torch.full((2, 3), 2.0), "b": torch.full((2, 2, 1, 1), 3.0)}
    prune = Prune(count=5, per="task", groups="row")
    forms = prune.project_task(weights)
    # Two filters of 2 entries and norm 18 each leave room for one entry; one of each takes all five: 18 + 12 < 36.
    assert forms["b"].indices.tolist() == [0, 1, 2, 3] and forms["a"].indices.numel() == 0
    assert prune.is_feasible(forms, weights)
    assert not Prune(count=3, per="task", groups="row").is_feasible(forms, weights)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 20)), max_size=8), st.integers(0, 20))
def test_knapsack_table(items, capacity):
    import numpy as np

    weight = np.array([w for w, _ in items], dtype=np.int64)
    value = np.array([v for _, v in items], dtype=float)
    sets = itertools.product([False, True], repeat=len(items))
    best = max(value[list(s)].sum() for s in sets if weight[list(s)].sum() <= capacity)
    for solver, exact in ((_by_table, True), (_by_ratio, False)):
        chosen = solver(value, weight, capacity)
        assert weight[chosen].sum() <= capacity and (np.diff(chosen) > 0).all()
        assert value[chosen].sum() == best if exact else value[chosen].sum() <= best


def test_blocks_cover_the_edges():
    units = Units.of("block(2, 2)", [torch.Size((3, 3))], torch.device("cpu"))
    assert units.numbers.reshape(3, 3).tolist() == [[0, 0, 1], [0, 0, 1], [2, 2, 3]]
    assert units.sizes(torch.device("cpu")).tolist() == [4, 2, 2, 1]


@pytest.mark.parametrize(("groups", "shape"), [("channel", (3,)), ("kernel", (3,)), ("row", ()), ("block(2, 2)", ())])
def test_refuses_weights_without_such_groups(groups, shape):
    with pytest.raises(ArgumentError, match="dimensions"):
        Prune(keep=0.5, groups=groups).project(torch.ones(shape))
