"""The penalty's value and gradient, seeds, and the ready-made learner."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from summands.errors import ArgumentError
from summands.lc import SGD, Penalty, Schedule, Step, recompute_batch_norm
from summands.lc.training import TrainingLearner


def test_penalty_equals_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(s, generator=generator, requires_grad=True) for s in ((3, 4), (5,), ())]
    targets = [torch.randn(w.shape, generator=generator) for w in weights]
    loss = 3 * Penalty(weights, targets, 0.7)()
    expected = 3 * 0.7 / 2 * sum(((w - t) ** 2).sum() for w, t in zip(weights, targets, strict=True))
    torch.testing.assert_close(loss, expected)
    got = torch.autograd.grad(loss, weights)
    for a, b in zip(got, torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(a, b)


def test_no_weights_no_penalty() -> None:
    penalty = Penalty([], [], 0.0)
    w = torch.ones(2, requires_grad=True)
    (w.sum() + penalty()).backward()
    assert float(penalty()) == 0.0 and w.grad is not None


def test_a_steps_learning_rate_is_at_most_one_over_mu() -> None:
    assert Step(0, 1, 4.0, 0, 1).max_lr == 0.25
    assert Step(0, 1, 0.0, 0, 1).max_lr == float("inf")


def test_sgd_stays_stable_at_a_large_mu() -> None:
    """Unclipped, lr = 0.1 at mu = 1,000 would multiply the gap by about 100 in every batch."""
    model = nn.Linear(4, 2)
    data = (torch.randn(64, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(64, dtype=torch.long))
    learner = TrainingLearner(model, SGD(data, lr=0.1, momentum=0.0, batch_size=8))
    targets = {"weight": torch.full((2, 4), 0.5)}
    learner.step(targets, Step(0, 1, 1000.0, 0, 2))
    torch.testing.assert_close(model.weight.data, targets["weight"], atol=0.01, rtol=0)


def moved(step: Step, **options: Any) -> float:
    """What `SGD` subtracts from a bias whose gradient is 1: without momentum, the sum of its learning rates."""
    model = nn.Linear(1, 1)
    nn.init.zeros_(model.bias)
    data = [(torch.zeros(1, 1), torch.ones(1, 1))]
    TrainingLearner(model, SGD(data, momentum=0.0, loss=lambda y, t: y.sum(), **options)).step({}, step)
    return -float(model.bias.detach())


@pytest.mark.parametrize(("decay", "last"), [(None, 0.05), (0.5, 0.5**9)])
def test_the_learning_rate_falls_from_step_to_step(decay: float | None, last: float) -> None:
    assert moved(Step(0, 10, 1e-9, 0, 1), lr=0.2, decay=decay) == pytest.approx(0.2)
    assert moved(Step(9, 10, 1e-9, 0, 1), lr=0.2, decay=decay) == pytest.approx(0.2 * last)


def test_fine_tuning_falls_by_one_cosine_however_it_is_cut_into_steps() -> None:
    whole = moved(Step(0, 1, 0.0, 0, 6), finetune_lr=0.2)
    steps = [moved(Step(index, 3, 0.0, 0, 2), finetune_lr=0.2) for index in range(3)]
    assert whole == pytest.approx(0.1 * sum(1 + math.cos(k * math.pi / 6) for k in range(6)))
    assert sum(steps) == pytest.approx(whole)
    assert steps == sorted(steps, reverse=True)


def test_a_step_is_a_function_of_its_seed() -> None:
    def trained(seed: int) -> torch.Tensor:
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
        for i, p in enumerate(model.parameters()):
            nn.init.constant_(p, 0.1 * (i + 1))
        data = torch.utils.data.TensorDataset(torch.arange(80.0).reshape(20, 4) / 80, torch.arange(20) % 2)
        loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
        TrainingLearner(model, SGD(loader)).step({}, Step(0, 1, 0.0, seed, 1))
        return model[0].weight.detach()

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))


def test_batch_norm_statistics_are_the_plain_average() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5))
    batches = [torch.randn(10, 3, generator=torch.Generator().manual_seed(i)) + i for i in range(3)]
    model.train()
    recompute_batch_norm(model, batches)
    torch.testing.assert_close(model[0].running_mean, torch.stack([b.mean(0) for b in batches]).mean(0))
    torch.testing.assert_close(model[0].running_var, torch.stack([b.var(0) for b in batches]).mean(0))
    assert model[0].momentum == 0.1 and model.training and model[1].training
    before = copy.deepcopy(model.state_dict())
    recompute_batch_norm(model, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.cat(batches)), 10))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    with pytest.raises(ArgumentError, match="no batch"):
        recompute_batch_norm(model, [])


@pytest.mark.parametrize(
    "options",
    [
        {"steps": -1},
        {"mu0": 0},
        {"growth": 0.5},
        {"epochs": 0},
        {"method": "x"},
        {"tolerance": -1},
        {"budget_start": 0.5},
    ],
)
def test_a_bad_schedule_is_refused(options) -> None:
    with pytest.raises(ArgumentError, match=next(iter(options))):
        Schedule(**options)


def test_bad_sgd_options_are_refused() -> None:
    with pytest.raises(ArgumentError, match="lr"):
        SGD((torch.zeros(1), torch.zeros(1)), lr=0)
