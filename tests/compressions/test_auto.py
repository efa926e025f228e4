"""The choice among candidates, and the codebook at a price, against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import summands as sm
from summands.coding import estimated_bits
from summands.compressions import Auto, Keep, LowRank, Prune, Quantize, squared_error
from summands.compressions.text import parse
from summands.errors import ArgumentError, PlanError

prices = st.sampled_from([1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    laplace = torch.distributions.Laplace(0.0, 1.0)
    uniform = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return laplace.icdf(uniform * 0.999 + 0.0005)


def entropy_objective(vector: np.ndarray, form, price: float, bits: float) -> float:
    """error + price * (entropy of the codes + bits of the values)."""
    counts = np.bincount(form.codes.reshape(-1).numpy(), minlength=len(form.values))
    held = counts[counts > 0]
    rate = float(held @ np.log2(held.sum() / held)) + bits * len(form.values)
    return float(((vector - form.dense().reshape(-1).numpy()) ** 2).sum()) + price * rate


def least_by_partitions(vector: np.ndarray, price: float, bits: float, zero: bool, least: int) -> float:
    """Over all cuts of the sorted entries into runs; with `zero`, also over which run, or an empty one, is at 0."""
    points = np.sort(vector)
    n = len(points)
    best = math.inf
    for k in range(n):
        for inner in itertools.combinations(range(1, n), k):
            runs = list(itertools.pairwise([0, *inner, n]))
            errors = [float(((points[a:b] - points[a:b].mean()) ** 2).sum()) for a, b in runs]
            rates = [(b - a) * math.log2(n / (b - a)) + bits for a, b in runs]
            total = sum(errors) + price * sum(rates)
            if not zero:
                best = min(best, total)
                continue
            if not least:
                best = min(best, total + price * bits)
            for (a, b), error in zip(runs, errors, strict=True):
                if b - a >= least:
                    best = min(best, total - error + float((points[a:b] ** 2).sum()))
    return best


entries = st.lists(st.integers(-40, 40), min_size=1, max_size=7, unique=True).map(lambda xs: np.array(xs) / 8)


@given(entries, prices, st.sampled_from([None, 0, 3]))
def test_the_codebook_at_a_price_is_the_best_of_all_partitions(vector: np.ndarray, price: float, least) -> None:
    n = len(vector)
    bits = 64 + 0.5 * math.log2(max(n, 2))
    zero = least is not None
    keep = None if not least else max(0, n - least) / n
    quantize = Quantize("auto", zero=zero, keep=keep)
    form = quantize.project(torch.from_numpy(vector), price=price)
    fewest = n - round(keep * n) if keep is not None else 0
    best = least_by_partitions(vector, price, bits, zero, fewest)
    assert entropy_objective(vector, form, price, bits) == pytest.approx(best, rel=1e-9, abs=1e-12)


def test_many_entries_come_near_the_theory_of_quantisers_at_high_rate() -> None:
    """At high rate the best quantiser is uniform: bits = h - log2(step), error = step^2 / 12."""
    weight = noise(300, 300)
    price = 1e-3
    form = Quantize("auto").project(weight, price=price)
    error = squared_error(weight, form) / weight.numel()
    step = math.sqrt(6 * price / math.log(2))
    assert error == pytest.approx(step**2 / 12, rel=0.05)
    entropy = math.log2(2 * math.e)  # of the Laplace density, in bits
    assert estimated_bits(form) / weight.numel() == pytest.approx(entropy - math.log2(step), abs=0.1)


def test_an_importance_is_seen() -> None:
    weight, importance = noise(60, 50), torch.rand(60, 50, generator=torch.Generator().manual_seed(1)) ** 4
    quantize = Quantize("auto")
    plain = quantize.project(weight, price=0.01)
    weighed = quantize.project(weight, price=0.01, importance=importance)
    assert quantize.objective(weight, weighed, price=0.01, importance=importance) < quantize.objective(
        weight, plain, price=0.01, importance=importance
    )


CANDIDATES = (Quantize("auto"), Prune("auto"), LowRank("auto"), LowRank("auto") + Prune("auto"), Keep())


@settings(max_examples=15)
@given(st.integers(0, 1000), prices)
def test_every_weight_gets_the_cheapest_candidate(seed: int, price: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    low = torch.outer(torch.randn(8, generator=generator), torch.randn(9, generator=generator))
    weights = {"noise": noise(6, 7, seed=seed), "low": low, "sparse": noise(10, 5, seed=seed) ** 5}
    auto = Auto(CANDIDATES)
    forms = auto.project_task(weights, price=price)
    assert auto.is_feasible(forms, weights)
    for name, weight in weights.items():
        made = [candidate.project(weight, price=price) for candidate in CANDIDATES]
        best = min(squared_error(weight, form) + price * estimated_bits(form) for form in made)
        assert auto.objective(weight, forms[name], price=price) == pytest.approx(best)
    settled = auto.settled(forms)
    assert [names for _, names in settled] == [("noise",), ("low",), ("sparse",)]
    for candidate, (name,) in settled:
        assert candidate.is_feasible({name: forms[name]}, {name: weights[name]})


def test_a_part_that_does_not_pay_vanishes() -> None:
    weight = noise(40, 30)
    sum_, alone = LowRank("auto") + Quantize("auto"), Quantize("auto")
    form, single = sum_.project(weight, price=0.1), alone.project(weight, price=0.1)
    assert form.terms[0].rank == 0
    assert estimated_bits(form) <= estimated_bits(single) + 16
    assert len(Auto([alone, sum_]).project(weight, price=0.1).parts()) == 1


def test_task_wide_candidates_take_all_weights_or_none() -> None:
    alike = {"a": noise(30, 20), "b": noise(20, 20, seed=1)}
    apart = {"a": noise(30, 20), "b": 1000 * noise(20, 20, seed=1)}
    auto = Auto([Quantize(4), Quantize(4, per="task")])
    for weights, shared in ((alike, True), (apart, False)):
        forms = auto.project_task(weights, price=0.05)
        assert (forms["a"].values is forms["b"].values) == shared
        assert auto.is_feasible(forms, weights)
        assert len(auto.settled(forms)) == (1 if shared else 2)


def test_texts_and_plans() -> None:
    auto = Auto(["Quantize('auto')", LowRank("auto", view=("out", "in")) + Prune("auto")])
    assert str(auto) == 'Auto([Quantize("auto"), LowRank("auto", view=("out", "in")) + Prune(keep="auto")])'
    assert parse(str(auto)) == auto and parse("Auto()") == Auto()
    plan = sm.Plan({"a": ["Quantize('auto')", Prune("auto")], "b": "Auto()"})
    assert plan.weights["a"] == Auto([Quantize("auto"), Prune("auto")])
    assert sm.Plan.from_yaml(plan.to_yaml()) == plan
    assert (
        sm.Plan.from_yaml("weights:\n  a: ['Quantize(\"auto\")', 'Prune(\"auto\")']\n").weights["a"]
        == plan.weights["a"]
    )


@pytest.mark.parametrize("bad", ["Auto('Keep()')", "Auto([1])", "Auto([Auto()])", "Auto() + Keep()"])
def test_refuses(bad: str) -> None:
    with pytest.raises((ArgumentError, PlanError), match="must be"):
        parse(bad)


def test_refuses_to_choose_without_a_price() -> None:
    with pytest.raises(ArgumentError, match="budget"):
        Auto().project(torch.ones(3, 3))


def test_a_network_under_a_budget_and_through_training(tmp_path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.ReLU(), torch.nn.Linear(40, 5))
    data = torch.randn(200, 30), torch.randint(0, 5, (200,))
    result = sm.compress(
        model,
        sm.Plan({"*.weight": "Auto()"}, ignore=["*.bias"]),
        budget=1200,
        train=sm.SGD(data, lr=0.05),
        evaluate=lambda m: float(torch.nn.functional.cross_entropy(m(data[0]), data[1])),
        schedule=sm.Schedule(steps=3, mu0=1e-2, growth=2.0, finetune=1),
        checkpoint=tmp_path / "c",
    )
    assert 0.97 * 1200 <= result.size_bytes <= 1200
    assert result.history[-1].phase == "finetune"
    direct = sm.compress(model, sm.Plan({"*.weight": "Auto()"}, ignore=["*.bias"]), budget=1200)
    assert 0.99 * 1200 <= direct.size_bytes <= 1200
