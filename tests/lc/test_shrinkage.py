"""What the output feels of a layer, and how far some inputs are believed on others."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import summands as sm
from summands.errors import ArgumentError
from summands.lc.calibrate import Calibration, Tally
from summands.lc.shrinkage import Shrinkage, at_equal_trace


def tally_of(layer: nn.Module, *batches: Tensor) -> Tally:
    return Calibration(layer, batches).tally(["weight"])["weight"]


@pytest.mark.parametrize(("inputs", "columns", "least", "most"), [(20_000, 6, 0.0, 0.0), (40, 48, 0.5, 1.0)])
def test_correlations_are_given_up_where_few_inputs_do_not_tell_them(
    inputs: int, columns: int, least: float, most: float
) -> None:
    generator = torch.Generator().manual_seed(7)
    mixing = torch.randn(columns, columns, generator=generator) if least == 0 else torch.eye(columns)
    x = torch.randn(2 * inputs, columns, generator=generator) @ mixing
    tally = tally_of(nn.Linear(columns, 2), x[:inputs], x[inputs:])
    found = tally.shrinkage(damping=0.001)
    assert least <= found.correlations <= most
    assert found.differences == 0 or inputs == 40
    assert (found.felt, found.elsewhere) == (0.0, 1.0)
    gram, plain = tally.moments(1.0, Shrinkage(found.correlations)).gram, tally.moments().gram
    assert torch.allclose(gram.diagonal(dim1=1, dim2=2), plain.diagonal(dim1=1, dim2=2))
    assert torch.allclose(gram[0, 0, 1], (1 - found.correlations) * plain[0, 0, 1])


def test_features_that_only_other_inputs_show_are_not_taken_as_free() -> None:
    generator = torch.Generator().manual_seed(7)
    first, second = torch.rand(2, 30, 40, generator=generator)
    first[:, 10:25], second[:, 25:] = 0.0, 0.0
    tally = tally_of(nn.Linear(40, 2), first, second)
    found = tally.shrinkage(damping=0.01)
    assert found.differences > 0
    gram, plain = tally.moments(1.0, found).gram, tally.moments().gram
    diagonal, flat = plain.diagonal(dim1=1, dim2=2), found.differences
    assert torch.allclose(gram.diagonal(dim1=1, dim2=2), (1 - flat) * diagonal + flat * diagonal.mean())
    assert torch.allclose(gram[0, 0, 1], found.kept * plain[0, 0, 1])


@pytest.mark.parametrize("distance", ["values", "softmax"])
def test_sensitivities_are_the_curvature_of_the_distance(distance: Any) -> None:
    generator = torch.Generator().manual_seed(5)
    model = nn.Linear(4, 3, bias=False)
    x = torch.randn(6, 4, generator=generator)
    nn.init.normal_(model.weight, std=0.3, generator=generator)
    found = Calibration(model, [x] * 400).sensitivities(["weight"], distance, 0, by_column=True)["weight"]
    jacobian = torch.einsum("bk,ij->bijk", x, torch.eye(3)).double()  # sample, output, row, column
    shares = model(x).detach().softmax(1).double()
    curvature = torch.eye(3).double().expand(6, 3, 3)
    if distance == "softmax":
        curvature = torch.diag_embed(shares) - shares[:, :, None] * shares[:, None, :]
    exact = torch.einsum("bijk,bil,bljk->j", jacobian, curvature, jacobian) / 6
    assert torch.allclose(found.rows.sum(0), exact, rtol=0.15)
    assert torch.allclose(found.rows[0], found.rows[1], rtol=0.3)
    assert found.columns is not None
    products = torch.einsum("bijk,bil,bljm->km", jacobian, curvature, jacobian) / 6
    assert torch.allclose(found.columns.sum(0)[0].double(), products, atol=0.15 * float(products.diagonal().mean()))
    assert float(found.columns.diagonal(dim1=2, dim2=3).sum()) == pytest.approx(found.total, rel=1e-4)


class Pooled(nn.Module):
    """A convolution of which the output feels the mean over all places alone."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(16, 32, 1, groups=groups, bias=False), nn.Linear(32, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).mean((2, 3)))


def pooled(groups: int = 1) -> Pooled:
    torch.manual_seed(1)
    return Pooled(groups)


def images(count: int, seed: int) -> Tensor:
    """Where the inputs of single places are large, their means are small, and the other way round."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 16, 4, 4, generator=generator) * torch.linspace(2, 0.2, 16)[:, None, None]
    level = torch.randn(count, 16, 1, 1, generator=generator) * torch.linspace(0.1, 2, 16)[:, None, None]
    mixing = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0))).Q
    return torch.einsum("ij,bjxy->bixy", mixing, noise - 0.95 * noise.mean((2, 3), keepdim=True) + level)


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_have_the_moments_of_what_the_output_feels(groups: int) -> None:
    """A convolution before a mean multiplies the mean of its inputs: whatever its gradients' sum is made of."""
    model = pooled(groups)
    x = images(2048, 2)
    found = Calibration(model, list(x.split(2))).sensitivities(["first.weight"], "values", 0, by_column=True)
    columns = found["first.weight"].columns
    assert columns is not None and columns.shape == (2, groups, 16 // groups, 16 // groups)
    means = x.mean((2, 3)).reshape(2048, groups, -1).transpose(0, 1)
    exact = at_equal_trace(means.mT @ means, columns.sum(0))
    scale = float(exact.diagonal(dim1=1, dim2=2).mean())
    assert torch.allclose(columns.sum(0), exact, atol=0.15 * scale)
    assert not torch.allclose(columns[0], columns[1])


def calibrated(by_column: bool, budget: int | None = None) -> tuple[sm.Result, float]:
    """The result, and the distance on other inputs."""
    model, other = pooled(), images(4000, 4)
    batches = list(images(512, 3).split(16))
    options = sm.PostTraining(by_column=by_column, drift=False)
    plan = sm.Plan({"*": "Grid('auto')" if budget else "Grid(0.2)"})
    result = sm.compress(model, plan, calibration=batches, posttraining=options, budget=budget)
    compressed = result.apply_(copy.deepcopy(model))
    with torch.no_grad():
        return result, float((compressed(other) - model(other)).square().sum(1).mean()) / 2


def test_rounding_for_what_the_output_feels_keeps_more_of_it() -> None:
    assert calibrated(by_column=True)[1] < 0.6 * calibrated(by_column=False)[1]


def test_one_price_for_what_the_output_feels_keeps_more_of_it_in_as_many_bytes() -> None:
    (ours, less), (plain, more) = calibrated(True, 500), calibrated(False, 500)
    assert ours.size_bytes <= 500 and plain.size_bytes <= 500
    assert less < 0.75 * more
    assert sum(row.distance for row in ours.layers) == pytest.approx(less, rel=0.2)  # it comes true on other inputs


def test_groups_whose_gradients_are_zero_keep_their_inputs_moments() -> None:
    gram, columns = (
        torch.eye(2).expand(2, 2, 2),
        torch.stack([torch.zeros(2, 2), torch.tensor([[3.0, 1.0], [1.0, 1.0]])]),
    )
    found = Shrinkage(felt=1.0)(gram, columns)
    assert torch.equal(found[0], torch.eye(2))
    assert torch.allclose(found[1], torch.tensor([[1.5, 0.5], [0.5, 0.5]]))


def test_one_batch_leaves_the_moments_as_they_are() -> None:
    model, x = pooled(), images(64, 5)
    data = Calibration(model, [x])
    columns = data.sensitivities(["first.weight"], "values", 0, by_column=True)["first.weight"].columns
    assert data.tally(["first.weight"])["first.weight"].shrinkage(0.01, columns) == Shrinkage()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": None}, r"distance=\.\.\..*'values' or 'softmax' where `by_column` is True"),
        ({"memory_bytes": 1 << 20}, "None where `by_column` is True"),
        ({"by_column": 1}, "by_column=.*True or False"),
    ],
)
def test_what_columns_need_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        sm.PostTraining(**{"by_column": True, **options})
