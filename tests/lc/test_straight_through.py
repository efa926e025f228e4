"""Codes and levels follow latent weights: values against brute force, gradients against autograd, whole runs."""

import pytest
import torch
from torch import nn

import summands as sm
from summands import Schedule
from summands.forms import Codebook, Form, Grid
from summands.lc.finetune import Trainable
from tests.container import samples


def noisy(form: Form, size: float) -> torch.Tensor:
    dense = form.dense()
    return dense + size * torch.randn(dense.shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_every_entry_takes_the_nearest_value_of_its_codebook(axis: int | None) -> None:
    form = samples.codebook((5, 4, 3), axis=axis)
    wanted = noisy(form, 1.0)
    found = form.reassigned(wanted)
    found.validate()
    assert found.values is form.values and found.codes.dtype == form.codes.dtype
    for place in torch.cartesian_prod(*map(torch.arange, form.shape)):
        own = form.values if axis is None else form.values[place[axis]]
        entry = wanted[tuple(place)]
        assert (found.dense()[tuple(place)] - entry).abs() == (own - entry).abs().min()


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("dead_zone", [0.5, 0.9, 1.5])
def test_levels_are_rounded_and_zeros_stay(axis: int | None, dead_zone: float) -> None:
    form = samples.grid((6, 7), axis=axis)
    wanted = noisy(form, 1.0)
    found = form.reassigned(wanted, dead_zone)
    found.validate()
    assert found.step is form.step and found.levels.dtype == form.levels.dtype
    moved = 0
    for i, j in torch.cartesian_prod(*map(torch.arange, form.shape)):
        step = float(form.step if axis is None else form.step[(i, j)[axis]])
        ratio = float(wanted[i, j]) / step
        level = 0 if abs(ratio) < dead_zone or not form.levels[i, j] else round(ratio)
        assert int(found.levels[i, j]) == level
        moved += level != int(form.levels[i, j])
    assert moved > 3


@pytest.mark.parametrize(
    "form",
    [
        samples.codebook((6, 5)),
        samples.codebook((6, 5), axis=0),
        samples.grid((6, 5)),
        samples.total(samples.codebook((6, 5)), samples.low_rank((6, 5)), samples.grid((6, 5))),
    ],
    ids=["codebook", "codebooks", "grid", "sum"],
)
def test_latents_get_the_gradient_of_the_weight_and_decide_the_form(form: Form) -> None:
    model = nn.Linear(5, 6)
    trainable = Trainable({"weight": form}, straight_through=True)
    (latents,) = trainable.latents.values()
    assert len(latents) == sum(isinstance(part, Codebook | Grid) for part in form.parts())
    for k, latent in latents.items():
        torch.testing.assert_close(latent.detach(), form.parts()[k].dense(), rtol=0, atol=0)
        latent.data += 0.7 * torch.randn(latent.shape, generator=torch.Generator().manual_seed(k))
    inputs = torch.randn(9, 5, generator=torch.Generator().manual_seed(8))
    with trainable.installed(model):
        used = model.weight.detach().clone()
        model(inputs).square().sum().backward()
    plain = used.clone().requires_grad_()
    (nn.functional.linear(inputs, plain, model.bias)).square().sum().backward()
    for latent in latents.values():
        torch.testing.assert_close(latent.grad, plain.grad)
    (current,) = trainable.current().values()
    torch.testing.assert_close(current.dense(), used)
    assert not current.same(form)


def signs() -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A layer whose data want +1 and -1, begun with a third of the signs wrong."""
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(4, 30, generator=generator).sign()
    inputs = torch.randn(400, 30, generator=generator)
    model = nn.Linear(30, 4, bias=False)
    wrong = torch.rand(wanted.shape, generator=generator) < 1 / 3
    with torch.no_grad():
        model.weight.copy_(torch.where(wrong, -wanted, wanted))
    return model, (inputs, inputs @ wanted.T), wanted


@pytest.mark.parametrize("straight_through", [True, False])
def test_it_mends_signs_that_fine_tuning_of_values_cannot(straight_through: bool) -> None:
    model, data, wanted = signs()
    train = sm.SGD(data, batch_size=40, finetune_lr=0.02, loss=nn.functional.mse_loss)
    schedule = Schedule(steps=0, finetune=12, straight_through=straight_through)
    result = sm.compress(model, sm.Plan({"*": "Quantize(2)"}), train=train, schedule=schedule)
    agreement = (result.forms["weight"].dense().sign() == wanted).float().mean()
    assert agreement == 1.0 if straight_through else agreement < 0.8


@pytest.mark.parametrize("budget", [110, 140])
def test_a_grid_stays_within_its_budget_and_is_better_than_by_values_alone(budget: int) -> None:
    generator = torch.Generator().manual_seed(1)
    wanted = torch.randn(20, 30, generator=generator) * (torch.rand(20, 30, generator=generator) < 0.15)
    inputs = torch.randn(500, 30, generator=generator) @ torch.randn(30, 30, generator=generator) / 5
    model = nn.Linear(30, 20, bias=False)
    with torch.no_grad():
        model.weight.copy_(wanted + 0.05 * torch.randn(20, 30, generator=generator))
    data = (inputs, inputs @ wanted.T)

    def run(straight_through: bool) -> sm.Result:
        return sm.compress(
            model,
            sm.Plan({"*": "Grid('auto')"}),
            budget=budget,
            train=sm.SGD(data, batch_size=50, finetune_lr=0.05, loss=nn.functional.mse_loss),
            evaluate=lambda m: float(nn.functional.mse_loss(m(data[0]), data[1])),
            schedule=Schedule(steps=0, finetune=20, straight_through=straight_through),
        )

    moved, values = run(True), run(False)
    assert max(row.size_bytes for row in moved.history) <= budget
    assert moved.error < 0.9 * values.error
    zeros = values.forms["weight"].dense() == 0
    assert bool((moved.forms["weight"].dense()[zeros] == 0).all())


def test_without_fine_tuning_it_would_have_no_effect() -> None:
    with pytest.raises(sm.SummandsError, match=r"finetune=.*above 0 where straight_through is True"):
        Schedule(straight_through=True)
