"""L1 projections against their optimality conditions, and against a solver that knows nothing of them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from summands.compressions import L1Ball, SoftThreshold
from summands.compressions.groups import Units
from summands.compressions.shrink import l1_norm
from summands.errors import ArgumentError

vectors = st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.5]) | st.floats(-4, 4, width=32), min_size=1, max_size=8).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


@given(vectors, st.floats(0, 12), st.booleans(), st.sampled_from([None, "float16", "bfloat16", "float32"]))
def test_ball(weight, radius, weighted, dtype):
    importance = torch.linspace(0.0, 2.0, len(weight), dtype=torch.float64) if weighted else None
    ball = L1Ball(radius, dtype=dtype)
    form = ball.project(weight, importance=importance)
    form.validate()
    assert form.values.double().abs().sum() <= radius * (1 + 1e-12)
    assert ball.is_feasible({"w": form}, {"w": weight})
    if dtype is None:
        assert is_projection(weight, form.dense(), radius, importance)


def is_projection(weight, x, radius, importance):
    """The conditions of optimality: x = sgn(v) max(|v| - theta/h, 0) with theta > 0 only on the boundary."""
    h = torch.ones_like(weight) if importance is None else importance
    if weight.abs().sum() <= radius:
        return torch.equal(x, weight)
    moved = h * (weight.abs() - x.abs())
    kept = x != 0
    theta = float(moved[kept].mean()) if kept.any() else float(moved.max())
    on_boundary = math.isclose(float(x.abs().sum()), radius, abs_tol=1e-9) or theta < 1e-9
    equal = bool((moved[kept] - theta).abs().lt(1e-9).all()) and bool((moved <= theta + 1e-9).all())
    return on_boundary and equal and bool((x * weight >= 0).all())


def test_the_check_of_the_conditions_can_fail():
    weight = torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64)
    assert is_projection(weight, torch.tensor([2.0, -1.0, 0.0]).double(), 3.0, None)
    assert not is_projection(weight, torch.tensor([1.5, -1.5, 0.0]).double(), 3.0, None)
    assert not is_projection(weight, torch.tensor([2.0, -0.9, 0.0]).double(), 3.0, None)


@given(vectors, st.floats(0.01, 12), st.sampled_from(["row", "channel", "block(1, 2)"]))
def test_group_ball_stays_inside_and_beats_scaling(weight, radius, groups):
    weight = weight.repeat(2).reshape(2, -1)
    form = L1Ball(radius, groups=groups).project(weight)
    assert l1_norm(form, groups) <= radius * (1 + 1e-12)
    whole = L1Ball(1e9).project(weight)
    scale = min(1.0, radius / max(l1_norm(whole, groups), 1e-30))
    ball = L1Ball(radius, groups=groups)
    assert ball.objective(weight, form) <= float(((1 - scale) * weight).pow(2).sum()) + 1e-9
    units = Units.of(groups, [weight.shape], weight.device)
    x, v = (units.sum(t.reshape(-1) ** 2).sqrt() for t in (form.dense(), weight))
    theta = (v - x) / units.sizes(weight.device).sqrt()
    if scale < 1 and (x > 0).any():
        assert theta.tolist() == pytest.approx([min(float(theta[x > 0].min()), t) for t in theta.tolist()])


@given(vectors, st.sampled_from([0.0, 0.3, 1.0, 5.0]), st.sampled_from([None, "row"]), st.floats(0.1, 10))
def test_soft_threshold_is_a_minimum(weight, alpha, groups, mu):
    weight = weight.reshape(1, -1)
    soft = SoftThreshold(alpha, groups=groups)
    form = soft.project(weight, mu=mu)
    best = soft.objective(weight, form, mu=mu)
    noise = torch.Generator().manual_seed(0)
    whole = L1Ball(1e9)
    for step in (1.0, 0.1, 1e-2, 1e-3):
        other = form.dense() + step * torch.randn(weight.shape, generator=noise, dtype=torch.float64)
        assert best <= soft.objective(weight, whole.project(other), mu=mu) + 1e-9
    assert best <= soft.objective(weight, whole.project(weight), mu=mu) + 1e-9
    assert best <= soft.objective(weight, whole.project(0 * weight), mu=mu) + 1e-9


def test_soft_threshold_with_importance_matches_the_closed_form():
    weight, importance = torch.tensor([3.0, -2.0, 1.0, 1.0]), torch.tensor([1.0, 2.0, 0.0, 4.0])
    form = SoftThreshold(2.0).project(weight, mu=1.0, importance=importance)
    assert form.dense().tolist() == [1.0, -1.0, 0.0, 0.5]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_limits(dtype):
    weight = torch.tensor([[1.0, -2.5], [0.0, 5.0]], dtype=dtype)
    assert torch.equal(L1Ball(8.5).project(weight).dense(), weight)
    assert not L1Ball(0.0).project(weight).dense().any()
    assert L1Ball(1.0).project(torch.empty(0, 2, dtype=dtype)).dense().shape == (0, 2)
    assert L1Ball(1.0).project(torch.zeros(3, dtype=dtype)).indices.numel() == 0
    assert L1Ball(1.0).project(torch.tensor(-7.0, dtype=dtype)).dense() == -1
    assert L1Ball(4.0, groups="row").project(weight).dense().dtype == dtype
    assert torch.equal(SoftThreshold(1.0).project(weight, mu=math.inf).dense(), weight)
    assert not SoftThreshold(1.0).project(weight, mu=0.0).dense().any()


def test_ball_over_the_task():
    weights = {"a": torch.tensor([3.0]), "b": torch.tensor([-2.0, 0.5])}
    forms = L1Ball(3.0, per="task").project_task(weights)
    assert forms["a"].dense().tolist() == [2.0] and forms["b"].dense().tolist() == [-1.0, 0.0]


def test_refuses():
    for radius in (-1.0, math.nan, math.inf, "a", True):
        with pytest.raises(ArgumentError, match="radius"):
            L1Ball(radius)
    with pytest.raises(ArgumentError, match="per"):
        L1Ball(1.0, per="task", groups="row")
    with pytest.raises(ArgumentError, match="importance"):
        L1Ball(1.0, groups="row").project(torch.ones(2, 2), importance=torch.ones(2, 2))
    with pytest.raises(ArgumentError, match="mu"):
        SoftThreshold(1.0).project(torch.ones(2))


def test_ball_in_every_slice():
    weight = torch.tensor([[3.0, -1.0], [0.5, 0.5]])
    ball = L1Ball(2.0, per="row")
    form = ball.project(weight)
    assert form.dense().tolist() == [[2.0, 0.0], [0.5, 0.5]]
    assert ball.is_feasible({"w": form}, {"w": weight})
    assert not L1Ball(1.5, per="row").is_feasible({"w": form}, {"w": weight})
