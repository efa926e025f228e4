"""The allocation against brute force, and the budget in every door."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import summands as sm
from summands.errors import BudgetError
from summands.forms import Dense
from summands.plan import Task
from summands.selection import Limit, allocate


@dataclass(frozen=True)
class Choice:
    """Stands for a compression with a handful of candidates: (bytes, error) each."""

    candidates: tuple[tuple[int, float], ...]
    per: str = "weight"

    def reach(self):
        return (self,)

    def pick(self, price: float) -> int:
        costs = [error + price * 8 * size for size, error in self.candidates]
        return costs.index(min(costs))


def problem(choices: list[Choice]):
    """An allocation over these choices; a form's error is stored in it, its size in its shape."""
    weights = {str(i): torch.zeros(1) for i in range(len(choices))}
    tasks = [Task(str(i), (str(i),), choice) for i, choice in enumerate(choices)]

    def form(i: int, k: int) -> Dense:
        error = choices[i].candidates[k][1]
        made = Dense(shape=torch.Size([1]), dtype=torch.float32, values=torch.tensor([math.sqrt(error)]))
        made.values.candidate = k
        return made

    def project(price: float):
        return {str(i): form(i, choice.pick(price)) for i, choice in enumerate(choices)}

    def measure(forms) -> int:
        return 10 + sum(choices[int(n)].candidates[f.values.candidate][0] for n, f in forms.items())

    return tasks, weights, project, measure


def error_of(choices: list[Choice], forms) -> float:
    return sum(choices[int(n)].candidates[f.values.candidate][1] for n, f in forms.items())


@st.composite
def choices(draw) -> list[Choice]:
    made = []
    for _ in range(3):
        sizes = draw(st.lists(st.integers(0, 60), min_size=2, max_size=4, unique=True))
        errors = draw(st.lists(st.integers(1, 1000), min_size=len(sizes), max_size=len(sizes), unique=True))
        pairs = zip(sorted(sizes), sorted(errors, reverse=True), strict=True)
        made.append(Choice(tuple((size, error / 16) for size, error in pairs)))
    return made


@given(choices(), st.integers(10, 200))
def test_the_budget_holds_and_the_hull_is_exact(made: list[Choice], limit: int) -> None:
    tasks, weights, project, measure = problem(made)
    smallest = 10 + sum(choice.candidates[0][0] for choice in made)
    if limit < smallest:
        with pytest.raises(BudgetError, match=f"{limit:,} bytes.*{smallest:,}"):
            allocate(tasks, weights, project, Limit(limit, measure=measure), price=1.0)
        return
    found = allocate(tasks, weights, project, Limit(limit, measure=measure), price=1.0)
    assert found.size == measure(found.forms) <= limit
    # Every choice by brute force: none of at most this size has a lower error where the price alone decided.
    every = itertools.product(*(range(len(choice.candidates)) for choice in made))
    best = min(
        sum(choice.candidates[k][1] for choice, k in zip(made, ks, strict=True))
        for ks in every
        if 10 + sum(choice.candidates[k][0] for choice, k in zip(made, ks, strict=True)) <= found.size
    )
    error = error_of(made, found.forms)
    at_price = project(found.price)
    if {n: f.values.candidate for n, f in at_price.items()} == {n: f.values.candidate for n, f in found.forms.items()}:
        assert error == pytest.approx(best)
    else:
        assert error <= error_of(made, at_price)


@given(choices(), st.lists(st.integers(10, 200), min_size=2, max_size=2, unique=True))
def test_a_larger_budget_never_has_a_higher_price(made: list[Choice], limits: list[int]) -> None:
    tasks, weights, project, measure = problem(made)
    small, large = sorted(limits)
    if small < 10 + sum(choice.candidates[0][0] for choice in made):
        return
    low = allocate(tasks, weights, project, Limit(small, measure=measure), price=1.0, slack=0.0)
    high = allocate(tasks, weights, project, Limit(large, measure=measure), price=1.0, slack=0.0)
    assert high.price <= low.price * (1 + 1e-3)


def network() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    laplace = torch.distributions.Laplace(0.0, 1.0)
    make = lambda *shape: laplace.icdf(torch.rand(shape, generator=generator) * 0.999 + 0.0005)  # noqa: E731
    return {"a.weight": make(120, 100), "b.weight": make(80, 60) * 3, "a.bias": make(60)}


@pytest.mark.parametrize("budget", ["6 kB", "8x", "2 bits"])
@pytest.mark.parametrize("rule", ["Prune('auto')", "LowRank('auto') + Prune('auto')"])
def test_the_file_is_within_one_percent_below_the_budget(tmp_path, budget: str, rule: str) -> None:
    weights = network()
    result = sm.compress(weights, sm.Plan({"*.weight": rule}, ignore=["*.bias"]), budget=budget)
    entries = sum(w.numel() for w in weights.values())
    limit = sm.Budget.of(budget).limit(4 * entries, entries)
    size = result.save(tmp_path / "x.sums")
    assert size == (tmp_path / "x.sums").stat().st_size
    assert 0.99 * limit <= size <= limit
    assert result.verdict is sm.Verdict.DIRECT


Q, P = "Quantize('auto', dtype='float16')", "Prune('auto', dtype='float16')"


@pytest.mark.parametrize("rule", [f"{Q} + {P}", [Q, P]], ids=str)
@pytest.mark.parametrize("budget", [400, 600])
def test_a_jump_that_does_not_fit_leaves_the_rest_to_the_other_parts(rule, budget: int) -> None:
    """From nothing to about a bit for each weight of one large layer with light tails, a part of that to spend."""
    generator = torch.Generator().manual_seed(0)
    light = torch.rand(100, 80, generator=generator) + torch.rand(100, 80, generator=generator) - 1
    weights = {"large.weight": light, "small.weight": light[:10, :10] * 2}

    def compressed(rule) -> sm.Result:
        return sm.compress(weights, sm.Plan({"*": rule}), budget=budget)

    def error(result: sm.Result) -> float:
        return sum(float((w - result.forms[n].dense()).square().sum()) for n, w in weights.items())

    other, single, result = compressed(Q), compressed(P), compressed(rule)
    assert other.size_bytes < 150  # there is a jump
    assert 0.98 * budget < result.size_bytes <= budget
    assert error(result) < error(single) < error(other)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("budget", [600, 800])
def test_grids_that_jump_over_a_budget_share_it(several: bool, budget: int) -> None:
    """Weights with no tails at all go from no level other than 0 to more than a bit each, at one price."""
    generator = torch.Generator().manual_seed(0)
    light = lambda *shape: torch.rand(shape, generator=generator) - 0.5  # noqa: E731
    weights = {"a": light(100, 80)} | ({"b": light(90, 80), "c": light(20, 20) * 2} if several else {})
    result = sm.compress(weights, sm.Plan({"*": "Grid('auto')"}), budget=budget)
    assert 0.98 * budget < result.size_bytes <= budget
    error = sum(float((w - result.forms[n].dense()).square().sum()) for n, w in weights.items())
    assert error < 0.85 * sum(float(w.square().sum()) for w in weights.values())
    assert all(sm.compressions.Grid("auto").is_feasible({n: result.forms[n]}, {n: w}) for n, w in weights.items())


def test_a_budget_with_nothing_free_or_too_small_states_both_sizes() -> None:
    plan = sm.Plan({"*.weight": "Prune(keep=0.1)"}, ignore=["*.bias"])
    size = sm.compress(network(), plan).size_bytes
    with pytest.raises(BudgetError, match=rf"3,000 bytes.*{size:,}"):
        sm.compress(network(), plan, budget="3 kB")
    with pytest.raises(BudgetError, match="100 bytes, but the smallest"):
        sm.compress(network(), sm.Plan({"*.weight": "Prune('auto')"}, ignore=["*.bias"]), budget=100)


def test_more_budget_less_error() -> None:
    plan = sm.Plan({"*.weight": "Prune('auto')"}, ignore=["*.bias"])
    errors = [sum(sm.compress(network(), plan, budget=b).relative_errors.values()) for b in (1500, 3000, 6000, 12000)]
    assert errors == sorted(errors, reverse=True)


def test_importance_moves_the_bytes_to_where_errors_matter() -> None:
    weights = network()
    plan = sm.Plan({"*.weight": "Prune('auto')"}, ignore=["*.bias"])
    plain = sm.compress(weights, plan, budget="6 kB")
    weighed = sm.compress(weights, plan, budget="6 kB", importance={"b.weight": 100.0})
    assert abs(weighed.size_bytes - plain.size_bytes) < 60
    assert weighed.relative_errors["b.weight"] < 0.8 * plain.relative_errors["b.weight"]
    assert weighed.relative_errors["a.weight"] > plain.relative_errors["a.weight"]
    entries = {"b.weight": torch.full((80, 60), 100.0)}
    assert sm.compress(weights, plan, budget="6 kB", importance=entries).size_bytes == weighed.size_bytes
    with pytest.raises(sm.SummandsError, match="compressed weights alone"):
        sm.compress(weights, plan, budget="6 kB", importance={"a.bias": 1.0})


def test_a_task_wide_part_is_allocated_with_the_rest() -> None:
    plan = sm.Plan({"*.weight": "Quantize('auto', per='task') + Prune('auto')"}, ignore=["*.bias"])
    result = sm.compress(network(), plan, budget="6 kB")
    assert result.size_bytes <= 6000
    assert (result.verdict is sm.Verdict.BUDGET_NOT_FILLED) == (result.size_bytes < 5940)


def test_the_weights_of_one_task_are_filled_one_by_one() -> None:
    made = [Choice(((0, 10.0), (50, 1.0))), Choice(((0, 10.0), (50, 1.0)))]
    _, weights, project, measure = problem(made)
    one = [Task("both", ("0", "1"), made[0])]
    assert allocate(one, weights, project, Limit(70, measure=measure)).size == 60
    whole = [Task("both", ("0", "1"), Choice(made[0].candidates, per="task"))]
    assert allocate(whole, weights, project, Limit(70, measure=measure)).size == 10


def test_a_tiny_grid_with_room_for_more_than_its_most_bits() -> None:
    weights = {"w": torch.randn(2, generator=torch.Generator().manual_seed(2))}
    assert sm.compress(weights, sm.Plan({"w": "Grid('auto')"}), budget=41).size_bytes <= 41
