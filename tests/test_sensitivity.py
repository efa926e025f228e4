"""Importances: against gradients and rises worked out by hand, and what they do for the loss."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import summands as sm
from summands.errors import ArgumentError
from summands.sensitivity import fisher_importance, measured_importance


def trained() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A small network whose inputs have very different sizes, so that its first weights matter very differently."""
    torch.manual_seed(0)
    scales = 10.0 ** -torch.arange(12.0).div(4)
    x = torch.randn(400, 12) * scales
    y = (x @ torch.randn(12, 4) / 0.3).argmax(1)
    model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.zero_grad(set_to_none=True)
    return model, x, y


def loss_of(model: nn.Module, batch: tuple) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def test_the_fisher_diagonal_is_the_mean_of_squared_gradients() -> None:
    model, x, y = trained()
    batches = list(zip(x[:5].split(1), y[:5].split(1), strict=True))
    found = fisher_importance(model, loss_of, batches, floor=0.0)
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for batch in batches:
        grads = torch.autograd.grad(loss_of(model, batch), list(model.parameters()))
        for name, grad in zip(total, grads, strict=True):
            total[name] += grad**2
    mean = sum(t.sum() for t in total.values()) / sum(t.numel() for t in total.values())
    assert all(torch.allclose(found[name], total[name] / mean, atol=1e-5) for name in total)
    assert all(p.grad is None for p in model.parameters())


def test_the_same_bytes_lose_less_where_the_loss_is_known() -> None:
    model, x, y = trained()
    plan = sm.Plan({"*.weight": "Prune('auto', dtype='float16')"}, ignore=["*.bias"])
    fisher = fisher_importance(model, loss_of, list(zip(x.split(1), y.split(1), strict=True)))
    weights = {name: h for name, h in fisher.items() if name.endswith("weight")}
    losses = {}
    for way, importance in (("none", None), ("fisher", weights)):
        result = sm.compress(model, plan, budget=400, importance=importance)
        assert result.size_bytes <= 400
        with torch.no_grad():
            losses[way] = float(loss_of(result.apply_(copy.deepcopy(model)), (x, y)))
    assert losses["fisher"] < 0.5 * losses["none"], losses


def test_a_measured_rise_finds_the_layer_that_matters() -> None:
    model, x, y = trained()
    before = copy.deepcopy(model.state_dict())
    names = ["0.weight", "2.weight"]
    found = measured_importance(model, lambda m: float(loss_of(m, (x, y)).detach()), names)
    assert sum(found.values()) == pytest.approx(2, abs=0.02)
    again = measured_importance(model, lambda m: float(loss_of(m, (x, y)).detach()), names)
    assert found == again
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in before.items())


@pytest.mark.parametrize("rule", ["Prune('auto')", "LowRank('auto')", "Quantize('auto') + Prune('auto')"])
def test_relative_importance_sees_no_scale(rule: str) -> None:
    """A weight that is scaled by a power of two is compressed to the same bits, scaled."""
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(30, 20, generator=generator) for name in ("a", "b", "c")}
    plan = sm.Plan({"*": rule})
    scaled = {**weights, "b": weights["b"] / 64}
    found, small = (sm.compress(w, plan, budget=1200, importance="relative") for w in (weights, scaled))
    assert small.size_bytes == pytest.approx(found.size_bytes, rel=0.02)
    for name, error in found.relative_errors.items():
        assert small.relative_errors[name] == pytest.approx(error, rel=0.25)
    plain = sm.compress(scaled, plan, budget=1200)
    assert plain.relative_errors["b"] > 0.9 > 1.2 * small.relative_errors["b"]


def test_a_measured_rise_is_by_squared_error_and_leaves_nothing_behind() -> None:
    """Of sum c e^2 the rise is c times the squared noise, whatever a weight's size, and for each weight alone."""
    model = nn.ParameterDict({"a": torch.ones(4), "b": 3 * torch.ones(5), "c": torch.ones(2)})
    start = {name: p.detach().clone() for name, p in model.items()}
    factors = {"a": 1.0, "b": 2.0, "c": 5.0}
    rise = lambda m: float(sum(f * (m[n] - start[n]).square().sum() for n, f in factors.items()).detach())  # noqa: E731
    found = measured_importance(model, rise, factors)
    assert found == pytest.approx({name: f / (8 / 3) for name, f in factors.items()}, rel=1e-4)


def test_refuses() -> None:
    model, x, y = trained()
    with pytest.raises(ArgumentError, match="at least one batch"):
        fisher_importance(model, loss_of, [])
    with pytest.raises(ArgumentError, match="names of the model"):
        measured_importance(model, lambda m: 0.0, ["nothing"])
    plan = sm.Plan({"*.weight": "Prune('auto')"}, ignore=["*.bias"])
    for importance, train, message in (
        ({"0.weight": torch.ones(6, 3)}, None, "of the weight's shape"),
        ({"0.weight": -1.0}, None, "finite and not negative"),
        ({"0.weight": 0.0}, sm.SGD((x, y)), "above 0 with `train`"),
        ({"0.weight": torch.ones(model[0].weight.shape)}, sm.SGD((x, y)), "its mean, say"),
        ("relativ", None, "'relative', or by weight"),
    ):
        with pytest.raises(ArgumentError, match=message):
            sm.compress(model, plan, budget=700, importance=importance, train=train)


def test_half_precision_holds_no_importance() -> None:
    layer = nn.Linear(4, 4).half()
    plan = sm.Plan({"weight": "Quantize(2)"}, ignore=["bias"])
    errors = [sm.compress(layer, plan, importance={"weight": c}).relative_errors["weight"] for c in (1e-8, 1.0, 1e5)]
    assert errors[0] == errors[1] == errors[2] < 0.6


def test_a_loss_that_is_no_number_is_refused_and_an_empty_weight_is_not() -> None:
    model = nn.ParameterDict({"a": torch.ones(3), "b": torch.ones(0)})
    assert measured_importance(model, lambda m: float((m["a"] - 1).square().sum()), ["a", "b"])["a"] > 0
    with pytest.raises(ArgumentError, match="evaluate"):
        measured_importance(model, lambda m: float("nan"), ["a"])
