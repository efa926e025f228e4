"""What is particular to learned codebooks; the promises common to all compressions are in tests/conformance."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from summands.coding import estimated_bits
from summands.compressions import Grid, Quantize, ScaledCodebook, codebook_fit, partition
from summands.compressions.partition import CELL, best_partition, points_of
from summands.errors import ArgumentError


def laplace(size, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).laplace(size=size))


@pytest.mark.parametrize("name", ["laplace", "standard_cauchy", "uniform", "two humps", "integers"])
@pytest.mark.parametrize("k", [2, 5, 16])
def test_buckets_lose_nothing(monkeypatch, name, k):
    """From few buckets, from many and from one a cut the partition costs the same."""
    draw = np.random.default_rng(1)
    values = {
        "two humps": lambda: np.concatenate([draw.normal(-3, 1, 2000), draw.normal(3, 0.1, 1000)]),
        "integers": lambda: draw.integers(0, 500, 3000).astype(float),
    }.get(name, lambda: getattr(draw, name)(size=3000))()
    points = points_of(values)
    costs = []
    for buckets in (7, 100, 10_000):
        monkeypatch.setattr(partition, "_BUCKETS", buckets)
        costs.append(best_partition(points, [CELL] * k).cost)
    assert costs[:2] == pytest.approx([costs[2]] * 2, rel=1e-12)


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=40), st.integers(1, 6), st.integers(2, 9))
def test_buckets_lose_nothing_on_ties(entries, k, buckets):
    points = points_of(np.array(entries, float))
    whole = best_partition(points, [CELL] * k).cost
    size, partition._BUCKETS = partition._BUCKETS, buckets
    try:
        assert best_partition(points, [CELL] * k).cost == pytest.approx(whole, rel=1e-12, abs=1e-9)
    finally:
        partition._BUCKETS = size


def test_a_far_entry_costs_the_others_no_digits():
    weight = torch.cat([laplace(1000), torch.tensor([-1e12])])
    alone = Quantize(4).project(weight[:-1])
    together = Quantize(5).project(weight)
    assert torch.allclose(together.values[1:], alone.values, rtol=1e-9)


def test_ties_between_codebooks_go_to_the_earliest_cut():
    form = Quantize(2).project(torch.tensor([0.0, 1.0, 2.0]))
    assert form.values.tolist() == [0.0, 1.5] and form.codes.tolist() == [0, 1, 1]


def test_an_entry_between_two_values_takes_the_lower():
    form = Quantize(2).project(torch.tensor([0.0, 0.0, 1.0, 2.0, 2.0]), importance=torch.tensor([1.0, 1, 0, 1, 1]))
    assert form.values.tolist() == [0.0, 2.0] and form.codes.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_codes_are_the_nearest_stored_values(dtype):
    weight = laplace(2000).to(dtype)
    form = Quantize(7, dtype="bfloat16").project(weight)
    distance = (weight.double()[:, None] - form.values.to(dtype).double()).abs()
    assert torch.equal(distance.gather(1, form.codes.long()[:, None])[:, 0], distance.min(1).values)


def test_rows_are_fitted_each_alone():
    weight = laplace(60).reshape(3, 5, 4)
    rows, channels = Quantize(3, per="row").project(weight), Quantize(3, per="channel").project(weight)
    for i in range(3):
        assert torch.equal(rows.dense()[i], Quantize(3).project(weight[i]).dense())
    for i in range(5):
        assert torch.equal(channels.dense()[:, i], Quantize(3).project(weight[:, i]).dense())
    weight[0] = 1.0
    short = Quantize(3, per="row").project(weight)
    short.validate()
    assert torch.equal(short.dense()[0], weight[0]) and int(short.codes[0].max()) == 0


def test_one_codebook_for_a_task_is_one_tensor():
    weights = {"a": laplace(30), "b": laplace(20, 1).reshape(4, 5)}
    forms = Quantize(3, per="task").project_task(weights)
    assert forms["a"].values is forms["b"].values
    joined = Quantize(3).project(torch.cat([weights["a"], weights["b"].reshape(-1)]))
    assert torch.equal(forms["b"].dense().reshape(-1), joined.dense()[30:])


def test_zero_is_a_value_and_keep_bounds_the_rest():
    weight = laplace(3000)
    form = Quantize(4, zero=True, keep=0.1).project(weight)
    assert 0.0 in form.values.tolist()
    assert int(form.dense().count_nonzero()) == 300
    free = Quantize(4, zero=True)
    assert free.objective(weight, free.project(weight)) <= free.objective(weight, form)
    rows = Quantize(3, zero=True, keep=0.25, per="row").project(weight.reshape(3, 1000))
    assert rows.dense().count_nonzero(1).tolist() == [250] * 3


@pytest.mark.parametrize("price", [1e-6, 0.05, 10.0])
def test_auto_is_no_worse_than_any_number(price):
    weight = laplace(400).float()
    auto = Quantize("auto")
    reached = auto.objective(weight, auto.project(weight, price=price), price=price)
    for k in (1, 2, 3, 4, 6, 8, 12, 20, 40):
        form = Quantize(k).project(weight)
        fixed = float(((weight - form.dense()).double() ** 2).sum()) + price * estimated_bits(form)
        assert reached <= fixed * 1.02, k


def test_likely_counts_see_few_distinct_values():
    points = points_of(np.repeat([0.0, 1.0, 5.0], 100))
    assert 3 in codebook_fit.likely_counts([points], 1e-9, 32)


@pytest.mark.parametrize("dead_zone", [0.5, 1.0, 1.5])
def test_the_dead_zone_is_what_it_says(dead_zone):
    weight = torch.linspace(-3, 3, 601, dtype=torch.float64)
    form = Grid(0.5, dead_zone=dead_zone).project(weight)
    assert torch.equal(form.dense() == 0, weight.abs() <= 0.5 * dead_zone + 1e-12)


def test_a_price_widens_the_dead_zone_and_saves_bits():
    weight = laplace(5000).float()
    grid = Grid(0.5)
    plain, priced = grid.project(weight), grid.project(weight, price=0.2)
    assert estimated_bits(priced) < 0.95 * estimated_bits(plain)
    assert (priced.levels == 0).sum() > (plain.levels == 0).sum()
    assert grid.objective(weight, priced, price=0.2) < grid.objective(weight, plain, price=0.2)


@pytest.mark.parametrize("price", [0.01, 1.0])
def test_the_free_step_is_near_the_best(price):
    weight = laplace(1000).float()
    auto = Grid("auto")
    reached = auto.objective(weight, auto.project(weight, price=price), price=price)
    best = min(
        Grid(step).objective(weight, Grid(step).project(weight, price=price), price=price)
        for step in np.geomspace(0.05, 8, 25).tolist()
    )
    assert reached <= best * 1.02


def test_scales_are_found_on_many_entries():
    weight = laplace(2000)
    levels = torch.tensor([-1.0, -0.25, 0.0, 0.5, 1.5], dtype=torch.float64)
    compression = ScaledCodebook(levels.tolist())
    reached = compression.objective(weight, compression.project(weight))
    tried = [
        float(((weight[:, None] - scale * levels) ** 2).min(1).values.sum()) for scale in np.linspace(0.01, 8, 2000)
    ]
    assert reached <= min(tried) + 1e-9


@pytest.mark.parametrize("arguments", [
    {"k": 0}, {"k": 2.0}, {"k": True}, {"k": "many"}, {"k": 2, "per": "all"}, {"k": 2, "dtype": "int8"},
    {"k": 2, "keep": 0.1}, {"k": 2, "zero": True, "keep": 1.5}, {"k": 2, "zero": 1},
])  # fmt: skip
def test_refuses(arguments):
    with pytest.raises(ArgumentError, match="must be"):
        Quantize(**arguments)


def test_free_needs_a_price():
    for free in (Quantize("auto"), Grid("auto")):
        with pytest.raises(ArgumentError, match="price"):
            free.project(torch.ones(3))


def test_slices_need_rows():
    with pytest.raises(ArgumentError, match="channel"):
        Quantize(2, per="channel").project(torch.ones(3))
    assert Quantize(2).project(torch.empty(0, 3)).dense().shape == (0, 3)
