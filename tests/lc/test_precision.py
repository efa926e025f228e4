"""Values that moved freely are rounded to what a bit costs: against brute force, and in a budget."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import summands as sm
from summands.compressions.stored import STEP_BITS, leading
from summands.forms import Form, Grid, Sum
from summands.lc import Calibration
from summands.lc.precision import (
    MOST_BITS,
    Precision,
    coarsened,
    finer_bytes,
    precisions,
    worth_bits,
    worth_step,
)
from summands.lc.statistics import norm_parameters, statistics_of

BITS = range(3, MOST_BITS + 1)


@pytest.mark.parametrize(("count", "price"), [(1.0, 1e-3), (40.0, 2e-6), (3e-5, 1e-9)])
def test_the_step_costs_least(count: float, price: float) -> None:
    steps = torch.logspace(-8, 2, 20_001, dtype=torch.float64)
    cost = count * steps.square() / 12 - price * steps.log2()
    assert worth_step(count, price) == pytest.approx(float(steps[cost.argmin()]), rel=2e-3)


@pytest.mark.parametrize("price", [1e-2, 1e-3, 3e-4, 1e-5])
def test_the_leading_bits_cost_least(price: float) -> None:
    values = torch.exp(torch.linspace(-3, 3, 100_001, dtype=torch.float64))

    def cost(bits: int) -> float:
        return float((leading(values, bits) / values - 1).square().mean()) + price * bits

    best = min(BITS, key=cost)
    assert abs(worth_bits(1.0, price) - best) <= 1
    assert cost(worth_bits(1.0, price)) < 1.1 * cost(best)


def test_what_is_not_felt_keeps_few_bits_and_what_is_free_all() -> None:
    assert worth_bits(0.0, 1e-3) == 3
    assert worth_bits(1.0, 1e-30) == MOST_BITS


def normalised() -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        model[1].weight.uniform_(0.5, 2)
        model[1].running_mean.normal_()
        model[1].running_var.uniform_(0.2, 3)
    return model.eval(), torch.randn(400, 6, dtype=torch.float64)


def test_the_sensitivities_of_statistics_are_those_of_scale_and_shift() -> None:
    """Against the output's own distance when each statistic is moved alone."""
    model, x = normalised()
    names = norm_parameters(model)
    assert names == ["1.weight", "1.bias"]
    sensitivities = Calibration(model, list(x.split(100))).sensitivities(names, "values", seed=0)
    felt = {name: each.rows for name, each in sensitivities.items()}
    price, moved = 1e-5, 1e-3
    (found,) = precisions(model, felt, price)
    wanted = model(x).detach()

    def distance(statistic: int, channel: int) -> float:
        other = copy.deepcopy(model)
        values = statistics_of(other[1])[statistic]
        by = values[channel] if statistic else (statistics_of(other[1])[1][channel] + other[1].eps).sqrt()
        values[channel] += moved * float(by)
        return float((other(x).detach() - wanted).square().sum(1).mean() / 2)

    counts = [sum(distance(statistic, c) for c in range(8)) / 8 / moved**2 for statistic in (0, 1)]
    assert found.step == pytest.approx(worth_step(counts[0], price), rel=0.1)
    assert found.bits == worth_bits(counts[1], price)
    assert precisions(model, {}, price) == [Precision()]


def test_shifted_statistics_are_kept_so_exactly() -> None:
    model, x = normalised()
    current = copy.deepcopy(model)
    with torch.no_grad():
        current[0].weight += 0.05 * torch.randn(8, 6)
    fine, rough = copy.deepcopy(current), copy.deepcopy(current)
    Calibration(model, [x]).shift(fine, [Precision()])
    Calibration(model, [x]).shift(rough, [Precision(bits=4, step=1 / 16)])
    (mean, var), (coarse_mean, coarse_var) = statistics_of(fine[1]), statistics_of(rough[1])
    deviation = (var + 1e-5).sqrt()
    assert float(((mean - coarse_mean).abs() / deviation).max()) < math.sqrt(2) / 32 + 1e-3
    assert float((mean - coarse_mean).abs().max()) > 0
    assert torch.allclose(coarse_var, var, rtol=2.0**-4)
    assert torch.equal(leading(coarse_var, 4), coarse_var)


def scaled(rows: int) -> Form:
    generator = torch.Generator().manual_seed(2)
    levels = torch.randint(-3, 4, (rows, 5), generator=generator)
    step = torch.rand(rows, generator=generator) + 0.5
    return Grid(shape=levels.shape, dtype=torch.float32, levels=levels, step=step, axis=0)


def test_scales_of_slices_are_rounded_and_nothing_else() -> None:
    one = Grid(shape=torch.Size([5]), dtype=torch.float32, levels=torch.arange(5), step=torch.tensor(1 / 3))
    rows = scaled(40)
    both = Sum(shape=rows.shape, dtype=rows.dtype, terms=(rows, scaled(40)))
    forms = {"one": one, "rows": rows, "sum": both}
    price = 1e-2
    found = coarsened(forms, price, lambda name, change: float(change.square().sum()))
    assert found["one"].same(one)
    for before, after in zip([rows, *both.parts()], [found["rows"], *found["sum"].parts()], strict=True):
        assert isinstance(before, Grid) and isinstance(after, Grid)
        bits = max(worth_bits(float(before.dense().square().sum()) / 40, price), STEP_BITS)
        assert bits < MOST_BITS
        assert torch.equal(after.step, leading(before.step, bits))
        assert torch.equal(after.levels, before.levels)
    grown = (bits - STEP_BITS) * 40 / 8
    assert finer_bytes({"one": one, "rows": rows}, price, lambda _, c: float(c.square().sum())) == pytest.approx(
        grown, abs=1
    )


def test_tuned_rows_stay_within_the_budget_and_are_taken() -> None:
    """Steps that training moved are float32 at first: three bytes a row more than the coarse ones before it."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(24, 400), nn.ReLU(), nn.Linear(400, 6))
    x = torch.randn(256, 24)
    plan = sm.Plan({"*.weight": "ScaledGrid('auto', per='row')"}, ignore=["*.bias"])
    options = sm.PostTraining(tune=4, lr=1e-3)
    budget = 6_500
    result = sm.compress(model, plan, calibration=list(x.split(32)), budget=budget, posttraining=options)
    calibrated, tuned = result.history
    assert tuned.loss < 0.9 * calibrated.loss
    assert tuned.size_bytes <= budget
    assert result.size_bytes == tuned.size_bytes
    assert calibrated.size_bytes > 0.97 * budget
