"""What is particular to sums and their joint solutions; the promises of all compressions are in tests/conformance."""

import numpy as np
import pytest
import torch

from summands.coding import estimated_bits
from summands.compressions import (
    Additive,
    Binary,
    FixedCodebook,
    Keep,
    LowRank,
    PowersOfTwo,
    Prune,
    PrunePenalty,
    Quantize,
    ScaledBinary,
    ScaledTernary,
    Ternary,
    outliers,
    squared_error,
)
from summands.compressions.joint import solve_jointly
from summands.errors import ArgumentError, WeightError


def laplace(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).laplace(size=shape)).float()


def plain_descent(compression, weight, rounds=30):
    """Part V as written: each part in turn onto the residual of the others, from zero."""
    forms = [None] * len(compression.terms)
    dense = [torch.zeros_like(weight) for _ in compression.terms]
    for _ in range(rounds):
        for k, term in enumerate(compression.terms):
            rest = weight - sum(d for j, d in enumerate(dense) if j != k)
            forms[k] = term.project(rest)
            dense[k] = forms[k].dense()
    return float(((weight - sum(dense)).double() ** 2).sum())


@pytest.mark.parametrize(
    "compression",
    [
        Quantize(2) + Prune(count=40),
        Quantize(4) + Prune(keep=0.02, dtype="float16"),
        LowRank(2) + Prune(count=30),
        Quantize(2) + Quantize(2) + Quantize(2),
        Quantize(3, per="row") + LowRank(1) + Prune(count=10),
        ScaledTernary() + Prune(count=25),
        LowRank(1, view="out") + LowRank(1, view="reshape(16)"),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_worse_than_plain_descent_nor_any_part(compression, seed):
    weight = laplace(32, 40, seed=seed)
    reached = compression.objective(weight, compression.project(weight))
    assert reached <= plain_descent(compression, weight) * (1 + 2e-3)
    for term in compression.terms:
        assert reached <= term.objective(weight, term.project(weight)) * (1 + 1e-6)


def test_order_of_the_parts_does_not_matter_where_the_optimum_is_known():
    weight = laplace(300)
    for quantiser in (Quantize(2), ScaledBinary(), Ternary()):
        one, other = quantiser + Prune(count=5), Prune(count=5) + quantiser
        forms = one.project(weight), other.project(weight)
        assert one.objective(weight, forms[0]) == pytest.approx(other.objective(weight, forms[1]), rel=1e-6)
        assert [type(f) for f in forms[1].parts()] == [type(f) for f in forms[0].parts()][::-1]


@pytest.mark.parametrize("quantiser", [Ternary(), Binary(), PowersOfTwo(2), FixedCodebook([-0.5, 0.5])])
@pytest.mark.parametrize("price", [1e-3, 0.05, 1.0])
def test_given_values_and_as_many_floats_as_a_price_allows(quantiser, price):
    """The best of all numbers of floats, each of which has a known optimum."""
    weight = 2 * laplace(40)
    compression = quantiser + Prune("auto")
    reached = compression.objective(weight, compression.project(weight, price=price), price=price)
    forms = [(quantiser + Prune(count=k)).project(weight) for k in range(41)]
    assert reached == pytest.approx(min(compression.objective(weight, form, price=price) for form in forms), rel=1e-6)


def test_a_joint_solution_applies_only_where_it_is_one():
    weights = {"a": laplace(100), "b": laplace(50, seed=1)}

    def is_solved(*terms, near=True):
        joint = solve_jointly(terms, weights, mu=1.0, price=None, near=near)
        return None if joint is None else joint.optimal

    assert is_solved(Quantize(2), Prune(count=3)) is True
    assert is_solved(Quantize(2, per="task"), Prune(count=3, per="task")) is True
    assert is_solved(Quantize(2), Prune(count=3, per="task")) is None
    assert is_solved(Quantize(2), PrunePenalty(0.1)) is True
    assert is_solved(Ternary(), Prune(count=3, per="task")) is True
    assert is_solved(Quantize(2), Prune(count=3, dtype="float16")) is False
    assert is_solved(Quantize(2, dtype="float16"), Prune(count=3)) is False
    assert is_solved(Quantize(2, zero=True), Prune(count=3)) is None
    assert is_solved(Quantize(2), Prune(count=10, groups="row")) is None
    assert is_solved(Quantize(2), Quantize(2)) is False
    assert is_solved(Quantize(2), Prune(count=3), Prune(count=3)) is None


def test_a_price_far_above_the_squares_of_the_weights_leaves_their_digits():
    weight = torch.tensor([0.0, 2.5e-85, 2.5e-85, 2.5e-85, 5e-297], dtype=torch.float64)
    compression = Quantize(2) + PrunePenalty(0.25)
    assert compression.objective(weight, compression.project(weight, mu=1.0), mu=1.0) < 1e-180


def test_the_hull_is_near_the_counted_optimum(monkeypatch):
    entries = np.random.default_rng(3).laplace(size=2000)
    weight = torch.from_numpy(entries)
    compression = Quantize(3) + Prune(count=20)
    exact = compression.objective(weight, compression.project(weight))
    monkeypatch.setattr(outliers, "_TABLE", 0)
    assert solve_jointly(compression.terms, {"w": weight}, mu=None, price=None, near=False) is None
    near = compression.objective(weight, compression.project(weight))
    assert exact <= near <= exact * 1.001


@pytest.mark.parametrize("counts", [(2, 2), (2, 2, 2), (4, 3)])
def test_residual_planes_move_together(counts):
    """Close to the one codebook of all their sums, which has more freedom; block descent alone is far off."""
    weight = laplace(1000)
    planes = sum((Quantize(k) for k in counts[1:]), start=Quantize(counts[0]))
    reached = planes.objective(weight, planes.project(weight))
    free = Quantize(int(np.prod(counts)))
    least = free.objective(weight, free.project(weight))
    assert least * (1 - 1e-6) <= reached <= 2 * least
    assert reached <= plain_descent(planes, weight) * (1 + 1e-6)


def test_one_window_is_the_best():
    entries = np.random.default_rng(4).standard_cauchy(50)
    ordered = np.sort(entries)
    for count in (0, 1, 7, 49):
        windows = [ordered[i : i + 50 - count] for i in range(count + 1)]
        assert outliers.best_window(entries, count) == pytest.approx(min(windows, key=np.var).mean())


def test_a_warm_start_goes_on_from_the_last_forms():
    weight = laplace(50, 60)
    compression = Quantize(2) + Prune(keep=0.05, dtype="bfloat16")
    form = compression.project(weight)
    for step in range(5):
        weight = weight + 0.02 * laplace(50, 60, seed=step + 1)
        before = compression.objective(weight, form)
        form = compression.project(weight, previous=form)
        assert compression.objective(weight, form) <= before


def test_an_unfit_previous_is_not_used():
    weight = laplace(40)
    other = (Quantize(8) + Prune(count=30)).project(weight)
    compression = Quantize(2) + Prune(count=1)
    assert compression.project(weight, previous=other).same(compression.project(weight))
    assert compression.project(weight, previous=Keep().project(weight)).same(compression.project(weight))
    assert not compression.is_feasible({"w": compression.project(weight)}, {"w": laplace(41)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_parts_are_added_in_wide_dtype(dtype):
    weight = laplace(20, 30).to(dtype)
    compression = Quantize(2) + Prune(keep=0.5, dtype="float16") + Prune(keep=0.2)
    form = compression.project(weight)
    form.validate()
    assert form.dtype == dtype and all(f.dtype != torch.float16 for f in form.parts())
    assert float(((weight - form.dense()).double() ** 2).mean()) < 0.5


def test_scopes_mix_in_one_task():
    weights = {"a": laplace(20, 30), "b": 5 * laplace(400, seed=1)}
    compression = Quantize(2) + Prune(count=50, per="task")
    forms = compression.project_task(weights)
    counts = {name: form.parts()[1].indices.numel() for name, form in forms.items()}
    assert sum(counts.values()) == 50 and counts["b"] > 40
    assert compression.is_feasible(forms, weights)
    codebooks = {name: form.parts()[0].values for name, form in forms.items()}
    assert codebooks["a"] is not codebooks["b"]
    apart = Quantize(2) + Prune(count=25)
    each = {name: apart.project(w) for name, w in weights.items()}
    together = sum(compression.objective(w, forms[name]) for name, w in weights.items())
    assert together < sum(apart.objective(w, each[name]) for name, w in weights.items())


def test_importance_reaches_every_part():
    weight, importance = laplace(200), torch.ones(200)
    importance[:5] = 1e6
    compression = Quantize(2) + Prune(count=5)
    form = compression.project(weight, importance=importance)
    assert torch.allclose(form.dense()[:5], weight[:5], atol=1e-5)


def test_refuses():
    with pytest.raises(ArgumentError, match="at least two"):
        Additive(terms=(Keep(),))
    with pytest.raises(WeightError, match=r"got '2 NaN or infinite of 4 entries' .weight 'b'."):
        (Keep() + Keep()).project_task({"a": torch.ones(2), "b": torch.tensor([1, torch.nan, torch.inf, 2])})
    with pytest.raises(WeightError, match="floating"):
        (Keep() + Keep()).project(torch.ones(3, dtype=torch.int32))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("terms", [2, 3])
def test_what_jumps_is_held_and_the_others_are_fitted(dtype, terms):
    weights = {"w": laplace(20, 30).to(dtype)}
    rule = sum((LowRank("auto"), Prune("auto"))[: terms - 1], start=Quantize("auto"))
    now, beyond = (rule.project_task(weights, price=price) for price in (0.05, 0.001))
    jump = estimated_bits(beyond["w"].parts()[0]) - estimated_bits(now["w"].parts()[0])
    rest = rule.without_jumps(now, beyond, jump - 1)
    assert rest is not rule and rest.is_free()
    assert rule.without_jumps(now, beyond, 1e9) is rule
    for previous in (None, now):
        form = rest.project_task(weights, price=0.001, previous=previous)["w"]
        form.validate()
        assert (form.shape, form.dtype, len(form.parts())) == (weights["w"].shape, dtype, terms)
        assert form.parts()[0].same(now["w"].parts()[0])
        assert squared_error(weights["w"], form) <= squared_error(weights["w"], now["w"])
