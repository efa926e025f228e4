"""The steps that parts take under tr(E H E'), against brute force, least squares and direct formulas."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from summands.compressions import Binary, Compression, Grid, LowRank, Prune, Quantize, ScaledTernary
from summands.compressions.metric import Metric
from summands.compressions.refit import Problem, refit
from summands.compressions.sweep import Sweep, settle
from summands.errors import ArgumentError
from summands.forms import Codebook, Form, Sparse


def metric(n: int, groups: int = 1, seed: int = 0, samples: int = 40) -> Metric:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, samples, n, dtype=torch.float64, generator=generator)
    x = x @ torch.randn(groups, n, n, dtype=torch.float64, generator=generator)
    return Metric.of(x.mT @ x / samples)


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def step(part: Compression, form: Form, weight: Tensor, h: Metric, price: float | None = None) -> tuple[Form, Problem]:
    problem = Problem(part, h.rows(weight), h, price)
    return refit({"": problem}, {"": form})[""], problem


@pytest.mark.parametrize("groups", [1, 3])
def test_solve_and_error_are_what_they_say(groups: int) -> None:
    h, rows = metric(4, groups), random(groups, 2, 4)
    shifted = h.gram + 0.7 * torch.eye(4, dtype=torch.float64)
    assert torch.allclose(h.solve(rows @ shifted, 0.7), rows)
    assert h.error(rows) == pytest.approx(
        sum(float(torch.trace(e @ g @ e.T)) for e, g in zip(rows, h.gram, strict=True))
    )


@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 2, 2)])
def test_whitened_low_rank_is_the_best_of_its_rank(shape: tuple[int, ...]) -> None:
    weight = random(*shape)
    h = metric(math.prod(shape[1:]))
    form, problem = step(LowRank(2), LowRank(2).project(weight), weight, h)
    assert isinstance(form, type(LowRank(2).project(weight)))
    root = torch.linalg.cholesky(h.gram[0])
    tail = torch.linalg.svdvals(h.rows(weight)[0] @ root)[2:].square().sum()
    assert problem.error(form) == pytest.approx(float(tail))
    for seed in range(20):
        other = form.replace_tensors({"left": form.left + 0.1 * random(*form.left.shape, seed=seed)})
        assert problem.error(other) > problem.error(form)


def test_the_rank_that_pays_is_the_best_of_all_ranks() -> None:
    weight, h, price = random(8, 6), metric(6), 0.2
    part = LowRank("auto")
    start = LowRank(3).project(weight)
    form, problem = step(part, start, weight, h, price)
    totals = []
    for rank in range(6):
        fixed, _ = step(LowRank(rank), LowRank(rank).project(weight), weight, h)
        totals.append(problem.error(fixed) + part.cost(fixed, price=price))
    assert 0 < int(np.argmin(totals)) < 5
    assert form.rank == int(np.argmin(totals))


def test_whitening_an_embedding_weighs_its_tokens() -> None:
    weight, h = random(7, 4), Metric.of(torch.arange(1.0, 8.0))
    form, problem = step(LowRank(2), LowRank(2).project(weight), weight, h)
    tail = torch.linalg.svdvals(weight * h.gram.sqrt()[:, None])[2:].square().sum()
    assert problem.error(form) == pytest.approx(float(tail))


@pytest.mark.parametrize(("shape", "groups"), [((5, 6), 1), ((6, 2, 2), 3)])
def test_the_support_refit_is_least_squares_row_by_row(shape: tuple[int, ...], groups: int) -> None:
    weight, n = random(*shape), math.prod(shape[1:])
    h = metric(n, groups)
    form = Prune(count=9).project(weight)
    fitted, problem = step(Prune(count=9), form, weight, h)
    assert isinstance(fitted, Sparse) and fitted.indices.numel() == 9
    roots = torch.linalg.cholesky(h.gram)
    for i, row in enumerate(problem.rest.reshape(-1, n)):
        root, kept = roots[i // (shape[0] // groups)], fitted.dense().reshape(-1, n)[i] != 0
        design, wanted = root[kept].T, row @ root
        expected = torch.linalg.lstsq(design, wanted[:, None]).solution[:, 0]
        assert torch.allclose(fitted.dense().reshape(-1, n)[i][kept], expected)


def test_a_support_moves_where_that_is_better() -> None:
    weight, h = random(5, 6), metric(6)
    part = Prune(count=9)
    fitted, problem = step(part, part.project(weight), weight, h)
    rows, kept = problem.rest[0], part.project(weight).dense() != 0
    frozen = torch.zeros_like(rows)
    for i, row in enumerate(rows):
        at = kept[i].nonzero().reshape(-1)
        frozen[i, at] = torch.linalg.solve(h.gram[0][at][:, at], (row @ h.gram[0])[at])
    assert problem.error(fitted) < problem.metric.error(rows[None] - frozen[None])
    per_row = Prune(count=2, per="row")
    within, _ = step(per_row, per_row.project(weight), weight, h)
    assert per_row.is_feasible({"": within}, {"": weight})


def test_codebook_values_are_least_squares_given_the_codes() -> None:
    weight, h = random(6, 5), metric(5)
    form, _ = step(Quantize(3), Quantize(3).project(weight), weight, h)
    assert isinstance(form, Codebook)
    root = torch.linalg.cholesky(h.gram[0])
    design = torch.stack([((form.codes == a).double() @ root).reshape(-1) for a in range(3)], dim=1)
    expected = torch.linalg.lstsq(design, (weight @ root).reshape(-1, 1)).solution[:, 0]
    assert torch.allclose(form.values, expected)


def test_a_shared_codebook_is_fitted_to_all_its_layers() -> None:
    part = Quantize(2, per="task")
    weights = {"a": random(4, 3), "b": random(5, 4, seed=2)}
    metrics = {"a": metric(3), "b": metric(4, seed=3)}
    problems = {n: Problem(part, metrics[n].rows(w), metrics[n]) for n, w in weights.items()}
    before = part.project_task(weights)
    after = refit(problems, before)
    assert after["a"].tensors()["values"] is after["b"].tensors()["values"]
    total = sum(problems[n].error(after[n]) for n in weights)
    assert total < sum(problems[n].error(before[n]) for n in weights)
    values = after["a"].tensors()["values"]
    for k in range(2):
        for change in (-1e-3, 1e-3):
            moved = values.clone()
            moved[k] += change
            other = {n: form.replace_tensors({"values": moved}) for n, form in after.items()}
            assert sum(problems[n].error(other[n]) for n in weights) > total


def test_of_a_scaled_codebook_only_the_scale_moves() -> None:
    weight, h = random(6, 5), metric(5)
    part = ScaledTernary()
    before = part.project(weight)
    form, problem = step(part, before, weight, h)
    assert part.is_feasible({"w": form}, {"w": weight})
    assert problem.error(form) < problem.error(before)


def test_a_fixed_codebook_keeps_its_values() -> None:
    weight, h = random(6, 5), metric(5)
    form, problem = step(Binary(), Binary().project(weight), weight, h)
    assert Binary().is_feasible({"w": form}, {"w": weight})
    assert problem.error(form) < problem.error(Binary().project(weight))


def test_settled_codes_are_those_that_no_single_change_improves() -> None:
    h, rows, values = metric(3), random(1, 2, 3), torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    scales, costs = torch.ones(1, 1, 1, dtype=torch.float64), torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64)

    def objective(codes: Tensor) -> float:
        return h.error(rows - values[codes]) + float(costs[codes].sum())

    found = settle(rows, h, torch.ones(1, 2, 3, dtype=torch.int64), values, scales, costs, passes=50)
    for i, j, code in itertools.product(range(2), range(3), range(3)):
        other = found.clone()
        other[0, i, j] = code
        assert objective(other) >= objective(found) - 1e-9


def gptq(rows: Tensor, h: Tensor, step: float) -> Tensor:
    """The published recursion, one column at a time in the order of falling H_jj."""
    order = torch.argsort(h.diagonal(), descending=True, stable=True)
    upper = torch.linalg.cholesky(torch.linalg.inv(h[order][:, order]), upper=True)
    left, levels = rows[:, order].clone(), torch.empty_like(rows)
    for j in range(len(order)):
        levels[:, order[j]] = (left[:, j] / step).round()
        error = (left[:, j] - step * levels[:, order[j]]) / upper[j, j]
        left[:, j + 1 :] -= error[:, None] * upper[j, j + 1 :]
    return levels


@pytest.mark.parametrize("n", [3, 130])
def test_the_sweep_without_a_price_is_gptq(n: int) -> None:
    h, rows = metric(n, 2, samples=3 * n), random(2, 4, n)
    levels = Sweep(rows, h).levels(torch.tensor(0.3, dtype=torch.float64))
    for g in range(2):
        assert torch.equal(levels[g].double(), gptq(rows[g], h.gram[g], 0.3))


def test_two_columns_are_rounded_nearly_as_well_as_can_be() -> None:
    # With two columns the sweep decides one and then takes the best of the other: the loss is that of one decision.
    h, rows = metric(2), random(1, 200, 2)
    levels = Sweep(rows, h).levels(torch.tensor(0.5, dtype=torch.float64)).double()
    best = 0.0
    for row, found in zip(rows[0], levels[0], strict=True):
        around = itertools.product(*[range(math.floor(w / 0.5) - 4, math.floor(w / 0.5) + 6) for w in row.tolist()])
        errors = [h.error((row - 0.5 * torch.tensor(q, dtype=torch.float64))[None, None]) for q in around]
        assert h.error((row - 0.5 * found)[None, None]) >= min(errors) - 1e-12
        best += min(errors)
    assert h.error(rows - 0.5 * levels) < 1.1 * best


def test_a_price_buys_fewer_bits_for_more_error() -> None:
    weight, h = random(64, 48), metric(48, samples=100)
    errors, bits = [], []
    for price in (1e-3, 1e-2, 1e-1):
        price *= h.mean
        part = Grid("auto")
        form, problem = step(part, part.project(weight, price=price / h.mean), weight, h, price)
        errors.append(problem.error(form))
        bits.append(part.cost(form, price=1.0))
    assert errors == sorted(errors) and bits == sorted(bits, reverse=True)


def test_the_grid_under_a_metric_needs_far_fewer_bits() -> None:
    weight, h = random(64, 48).float(), metric(48, samples=60)
    part, price = Grid("auto"), 0.01 * h.mean
    plain = part.project(weight, price=price / h.mean)
    form, problem = step(part, plain, weight, h, price)
    assert part.is_feasible({"w": form}, {"w": weight})

    def objective(f: Form) -> float:
        return problem.error(f) + price * part.cost(f, price=1.0)

    assert objective(form) < 0.9 * objective(plain)


def test_damping_grows_until_few_samples_suffice() -> None:
    x = random(1, 3, 20)
    h = Metric.of(x.mT @ x / 3, damping=0.0)
    assert "raised from 0 to" in h.note
    assert float(torch.linalg.eigvalsh(h.gram)[0, 0]) > 0


def test_a_dead_input_keeps_the_damping() -> None:
    gram = torch.diag(torch.tensor([2.0, 0.0, 1.0]))[None]
    assert torch.allclose(
        Metric.of(gram, 0.01).gram.diagonal(dim1=1, dim2=2), torch.tensor([[2.01, 0.01, 1.01]]).double()
    )


def test_bad_moments_are_refused() -> None:
    for gram in (torch.full((1, 2, 2), torch.nan), -torch.eye(2)[None], torch.ones(2, 3), -torch.ones(3)):
        with pytest.raises(ArgumentError, match="moments"):
            Metric.of(gram)
    with pytest.raises(ArgumentError, match=r"damping.*-1"):
        Metric.of(torch.eye(2)[None], -1)
