"""Sweeps on the paths of a trellis: each column optimal, errors passed on, and fewer bits than levels one by one."""

import math

import pytest
import torch

from summands.coding import decode_section, encode_section, estimated_bits, layout_of
from summands.compressions import Grid, Prune, ScaledGrid
from summands.compressions.metric import Metric
from summands.compressions.sweep import Sweep
from summands.forms import Trellis
from summands.lc import Moments, fit_layer
from tests.conformance.oracles import path


def correlated(m: int, n: int, groups: int = 1) -> tuple[torch.Tensor, Moments]:
    """A layer whose inputs have a few strong directions."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(groups * m, n, generator=generator)
    spread = torch.arange(1.0, n + 1) ** -0.5
    x = torch.randn(groups, 4 * n, n, generator=generator) * spread @ torch.randn(groups, n, n, generator=generator)
    return weight, Moments(x.mT @ x / (4 * n), 4 * n)


@pytest.mark.parametrize("groups", [1, 3])
def test_every_column_alone_takes_its_best_path(groups):
    """With inputs that are not correlated and no price: the optimum, found otherwise, through all groups."""
    weight = 3 * torch.randn(groups, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    metric = Metric.of(torch.eye(4).expand(groups, 4, 4), damping=0.0)
    levels = Sweep(weight, metric, on_path=True).levels(torch.tensor(0.5, dtype=torch.float64))
    gaps = (weight - 0.5 * levels).square().sum((0, 1))
    for j in range(4):
        column = weight[:, :, j].reshape(-1)
        assert float(gaps[j]) == pytest.approx(path(0.5)(column.numpy(), torch.ones(len(column)).numpy()))


def test_a_long_column_is_decided_in_parts_at_no_loss_to_speak_of():
    weight = torch.randn(1, 2500, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    metric = Metric.of(torch.ones(1, 1, 1), damping=0.0)
    levels = Sweep(weight, metric, on_path=True).levels(torch.tensor(0.3, dtype=torch.float64))
    best = path(0.3)(weight.reshape(-1).numpy(), torch.ones(2500).numpy())
    assert float((weight - 0.3 * levels).square().sum()) == pytest.approx(best, rel=1e-6)


def test_an_embedding_takes_one_path_through_all_its_rows():
    """Its entries heed their row's weight."""
    weight = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    counts = torch.tensor([9.0, 0.1, 2.0, 1.0, 1.0, 0.5], dtype=torch.float64)
    metric = Metric.of(counts, damping=0.0)
    sweep = Sweep(metric.rows(weight), metric, on_path=True)
    levels = sweep.levels(torch.tensor(0.5, dtype=torch.float64)).reshape(6, 5)
    error = float((counts[:, None] * (weight - 0.5 * levels).square()).sum())
    importance = counts[:, None].expand(6, 5).reshape(-1).numpy()
    assert error == pytest.approx(path(0.5)(weight.reshape(-1).numpy(), importance))


def test_errors_are_passed_on():
    weight, moments = correlated(24, 60)
    part = Grid(0.6, trellis=True)
    metric = moments.metric(0.01)
    plain = metric.error(metric.rows(weight - part.project(weight).dense()))
    assert fit_layer(weight, moments, part).error < 0.6 * plain


@pytest.mark.parametrize("rate", [1.5, 2.5, 4.0])
@pytest.mark.parametrize(("scaled", "saved"), [(False, 0.04), (True, 0.1)])
def test_a_path_saves_bits_at_equal_error(rate, scaled, saved):
    """Against levels that are settled one by one; 6.02 dB are a bit. A single step suits few columns, path or not."""
    weight, moments = correlated(256, 64)
    price = 2 * math.log(2) * moments.metric(0.01).mean * 4.0**-rate / 20
    spent = []
    for trellis in (False, True):
        part = ScaledGrid("auto", trellis=trellis) if scaled else Grid("auto", trellis=trellis)
        fitted = fit_layer(weight, moments, part, price=price)
        spent.append(estimated_bits(fitted.form) / weight.numel() + math.log2(fitted.error) / 2)
    assert spent[0] - spent[1] > saved, spent


@pytest.mark.parametrize("part", [
    Grid("auto", trellis=True), ScaledGrid("auto", trellis=True), ScaledGrid("auto", per="row", trellis=True),
    Grid("auto", trellis=True) + Prune(keep=0.02),
])  # fmt: skip
@pytest.mark.parametrize("groups", [1, 4])
def test_the_coder_takes_the_paths_of_all_columns(part, groups):
    weight, moments = correlated(8, 54, groups)
    kernel = weight.reshape(8 * groups, 6, 3, 3)
    form = fit_layer(kernel, moments, part, price=0.02).form
    assert part.is_feasible({"w": form}, {"w": kernel})
    first = form.parts()[0]
    assert isinstance(first, Trellis) and first.down
    (found,) = decode_section(encode_section([form]).payload, [layout_of(form)])
    assert found.same(form)
