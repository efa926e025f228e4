"""Real candidates under a real budget: the allocation against every combination of what they make."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from summands.coding import estimated_bits
from summands.compressions import (
    Auto,
    Binary,
    Compression,
    Keep,
    LowRank,
    Prune,
    Quantize,
    Terms,
    squared_error,
)
from summands.errors import BudgetError
from summands.forms import Form
from summands.lc.passes import c_step
from summands.plan import Task
from summands.selection import Limit, allocate

MAKERS = (Prune(count=0), Prune(count=4), Quantize(2), LowRank(1) + Prune(count=2), Binary(), Keep())
SHAPES = {"a": (6, 5), "b": (4, 8), "c": (9, 3)}


@dataclass(frozen=True)
class Given(Compression):
    """A candidate that was projected beforehand, so that a hundred prices cost nothing."""

    forms: Mapping[tuple[int, ...], Form]

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        return self.forms[tuple(weight.shape)]

    def _is_feasible(self, form: Form) -> bool:
        return form is self.forms[tuple(form.shape)]


@pytest.fixture(autouse=True)
def counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coder's estimate of a form, which never changes, is made once."""
    known: dict[int, tuple[Form, float]] = {}  # the form is held, so that its id stays its own

    def cached(form: Form) -> float:
        if id(form) not in known:
            known[id(form)] = (form, estimated_bits(form))
        return known[id(form)][1]

    monkeypatch.setattr("summands.compressions.auto.estimated_bits", cached)
    monkeypatch.setattr(sys.modules[__name__], "bits_of", lambda forms: int(sum(map(cached, forms.values()))))


def bits_of(forms: Mapping[str, Form]) -> int:
    return int(sum(map(estimated_bits, forms.values())))


def problem(seed: int):
    generator = torch.Generator().manual_seed(seed)
    scales = {"a": 1.0, "b": 0.2, "c": 3.0}
    weights = {n: scales[n] * torch.randn(shape, generator=generator) for n, shape in SHAPES.items()}
    candidates = [Given({tuple(w.shape): maker.project(w) for w in weights.values()}) for maker in MAKERS]
    tasks = [Task(name, (name,), Auto(candidates)) for name in weights]
    choices = {
        n: [(estimated_bits(c.forms[shape]), squared_error(weights[n], c.forms[shape])) for c in candidates]
        for n, shape in SHAPES.items()
    }
    return tasks, weights, choices


def allocated(tasks, weights, limit: int, **options):
    measure = lambda forms: bits_of(forms)  # noqa: E731 - looked up when called
    return allocate(tasks, weights, lambda p: c_step(tasks, weights, price=p), Limit(limit, "bits", measure), **options)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.floats(0.02, 1.1))
def test_the_allocation_is_the_best_of_all_choices_on_the_hull(seed: int, share: float) -> None:
    tasks, weights, choices = problem(seed)
    every = [
        (sum(bits for bits, _ in picked), sum(error for _, error in picked))
        for picked in itertools.product(*choices.values())
    ]
    limit = int(share * max(bits for bits, _ in every)) + 1
    if limit < int(min(bits for bits, _ in every)):
        with pytest.raises(BudgetError, match=f"{limit:,} bits, but the smallest"):
            allocated(tasks, weights, limit)
        return
    found = allocated(tasks, weights, limit, slack=0.0)
    assert found.size == bits_of(found.forms) <= limit
    reached = sum(squared_error(w, found.forms[n]) for n, w in weights.items())
    at_price = c_step(tasks, weights, price=found.price)
    if all(at_price[n].same(found.forms[n]) for n in weights):  # nothing was filled: a point of the hull
        assert reached == pytest.approx(min(error for bits, error in every if int(bits) <= found.size), rel=1e-6)
    # On the hull or filled, never above the hull's next point towards fewer bits.
    assert reached <= sum(squared_error(w, at_price[n]) for n, w in weights.items()) * (1 + 1e-9)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.floats(0.1, 0.9), st.floats(0.1, 0.9))
def test_a_larger_budget_never_has_a_higher_price_nor_error(seed: int, first: float, second: float) -> None:
    tasks, weights, choices = problem(seed)
    most = sum(max(bits for bits, _ in own) for own in choices.values())
    limits = sorted(int(share * most) for share in (first, second))
    if limits[0] < sum(min(bits for bits, _ in own) for own in choices.values()) + 1:
        return
    small, large = (allocated(tasks, weights, limit, slack=0.0) for limit in limits)
    assert large.price <= small.price * (1 + 1e-3)
