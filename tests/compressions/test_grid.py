"""Grids: levels priced by the coder's adaptive models, paths through a trellis, and the best point at a rate."""

import math

import numpy as np
import pytest
import torch

from summands.coding import decode_section, encode_section, estimated_bits, layout_of, node_after
from summands.compressions import Grid
from summands.container import to_bytes
from summands.errors import ArgumentError, WeightError
from summands.forms import Grid as GridForm
from summands.forms import Trellis
from summands.zoo.train import reference


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> list[torch.Tensor]:
    """The first layer of a network that was trained on real images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUMMANDS_CACHE", str(tmp_path_factory.mktemp("zoo")))
        model = reference("lenet300-digits").model
    return [w.detach() for w in model.parameters() if w.ndim > 1 and w.numel() > 10_000][:1]


def error(weight: torch.Tensor, form) -> float:
    return float((weight.double() - form.dense().double()).square().sum())


def bits_at_equal_error(compression: Grid, weight: torch.Tensor, noise: float) -> float:
    """Bits an entry at this error, by a straight line through two rates: the error falls by 6.02 dB a bit."""
    points = []
    for price in (2 * math.log(2) * noise / weight.numel() * factor for factor in (0.6, 1.0, 1.6)):
        form = compression.project(weight, price=price)
        points.append((math.log(error(weight, form)), estimated_bits(form) / weight.numel()))
    points.sort()
    return float(np.interp(math.log(noise), *zip(*points, strict=True)))


@pytest.mark.parametrize(("share", "saved"), [(0.2, 0.06), (0.05, 0.1), (0.005, 0.14)])
def test_a_trellis_saves_bits_at_equal_error_on_real_weights(trained, share, saved):
    """At about 1.2, 2 and 4 bits an entry, over the best scalar levels that a price finds."""
    for weight in trained:
        noise = share * float(weight.double().square().sum())
        scalar = bits_at_equal_error(Grid("auto"), weight, noise)
        path = bits_at_equal_error(Grid("auto", trellis=True), weight, noise)
        assert scalar - path >= saved, (scalar, path)


def static_levels(weight: torch.Tensor, step: float, price: float) -> torch.Tensor:
    """Levels priced by the entropy of their own histogram, each in turn fixed (Chou, Lookabaugh, Gray 1989)."""
    values = weight.double().reshape(-1, 1)
    levels = (values / step).round()
    for _ in range(30):
        found, counts = levels.unique(return_counts=True)
        costs = (values - step * found) ** 2 + price * torch.log2(values.numel() / counts)
        levels = found[costs.argmin(1)].reshape(-1, 1)
    return levels.reshape(weight.shape).to(torch.int32)


@pytest.mark.parametrize("share", [0.5, 0.2, 0.05])
def test_the_adaptive_models_price_better_than_a_histogram(trained, share):
    for weight in trained:
        price = 2 * math.log(2) * share * float(weight.double().square().mean())
        adaptive = Grid("auto").project(weight, price=price)
        reached = error(weight, adaptive) + price * estimated_bits(adaptive)
        others = []
        for factor in (0.7, 0.84, 1.0, 1.19, 1.41):
            step = math.sqrt(6 * price / math.log(2)) * factor
            levels = static_levels(weight, step, price)
            form = GridForm(shape=weight.shape, dtype=weight.dtype, levels=levels, step=torch.tensor(step))
            others.append(error(weight, form) + price * estimated_bits(form))
        assert reached < min(others)


@pytest.mark.parametrize("trellis", [False, True])
@pytest.mark.parametrize("rate", [0.5, 2.5])
def test_bits_per_weight_are_met_at_the_best_error(trained, rate, trellis):
    weight = trained[0]
    form = Grid(bits_per_weight=rate, trellis=trellis).project(weight)
    reached = len(encode_section([form]).payload) * 8 / weight.numel()
    assert 0.97 * rate <= reached <= rate + 32 / weight.numel() + 0.01 * rate
    # No other pair of step and price at this rate or below is better by much.
    for octaves in (-0.5, 0.5):
        step = float(form.step) * 2**octaves
        for price in np.geomspace(0.1, 10, 5) * step**2 / 6:
            other = Grid(step, trellis=trellis).project(weight, price=float(price))
            if estimated_bits(other) <= estimated_bits(form):
                assert error(weight, form) <= 1.03 * error(weight, other)


@pytest.mark.parametrize("trellis", [False, True])
@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_from_the_last_step_it_is_as_good_as_from_none(trained, trellis, factor):
    """The price and the weights have moved since, as they do from C step to C step."""
    weight, grid = trained[0], Grid("auto", trellis=trellis)
    price = 0.3 * float(weight.double().square().mean())
    last = grid.project(weight * 1.02, price=factor * price)
    warm, cold = grid.project(weight, price=price, previous=last), grid.project(weight, price=price)
    assert grid.objective(weight, warm, price=price) <= 1.003 * grid.objective(weight, cold, price=price)


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.8])
def test_bits_per_weight_are_met_where_a_price_leads_to_none_or_many(rate):
    """Entries without tails: at one price, none is kept, or more than a bit for each."""
    weight = torch.rand(100, 80, generator=torch.Generator().manual_seed(0)) - 0.5
    form = Grid(bits_per_weight=rate).project(weight)
    assert 0.97 * rate <= estimated_bits(form) / weight.numel() <= rate + 32 / weight.numel()
    # Within a tenth of time sharing between none, and what is had at twice the rate.
    doubled = error(weight, Grid(bits_per_weight=2 * rate).project(weight))
    assert error(weight, form) < 1.1 * (float(weight.double().square().sum()) + doubled) / 2


def test_a_rate_that_no_level_fits_leaves_zeros():
    form = Grid(bits_per_weight=0.001).project(torch.randn(50, generator=torch.Generator().manual_seed(0)))
    assert not form.dense().any()


def test_the_step_that_is_free_fits_the_levels(trained):
    weight = trained[0].double()
    form = Grid("auto").project(weight, price=1e-3)
    levels = form.levels.double()
    assert float(form.step) == pytest.approx(float((weight * levels).sum() / levels.square().sum()), rel=1e-6)


def test_a_path_without_a_price_is_nearer_than_its_first_quantiser():
    weight = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    path = Grid(0.1, trellis=True).project(weight)
    assert node_after(path.levels.numpy(), 0) in range(8)
    # Half of the levels are open to each entry, and yet the error is far below that of those levels alone.
    assert error(weight, path) < 0.8 * error(weight, Grid(0.2).project(weight))


def test_levels_off_the_path_are_refused():
    levels = torch.ones(5, dtype=torch.int32)
    form = Trellis(shape=levels.shape, dtype=torch.float32, levels=levels, step=torch.tensor(0.5))
    for code in (estimated_bits, lambda f: encode_section([f]), lambda f: to_bytes({"w": f})):
        with pytest.raises((ValueError, ArgumentError), match="leave the path"):
            code(form)


def test_a_path_from_another_node_decodes_to_other_levels():
    """The node is what the decoder needs, and the file has it."""
    form = Grid(0.1, trellis=True).project(torch.randn(200, generator=torch.Generator().manual_seed(0)))
    payload = encode_section([form]).payload
    layout = layout_of(form)
    assert decode_section(payload, [layout])[0].same(form)
    moved = layout_of(Trellis(shape=form.shape, dtype=form.dtype, levels=form.levels, step=form.step, node=1))
    try:
        (found,) = decode_section(payload, [moved])
    except ValueError:
        return
    assert not found.same(form)


@pytest.mark.parametrize("arguments", [
    {}, {"step": 0.1, "bits_per_weight": 2}, {"step": 0}, {"step": math.nan}, {"step": "free"}, {"step": True},
    {"bits_per_weight": 0}, {"bits_per_weight": 17}, {"bits_per_weight": "2"}, {"step": 0.1, "trellis": 8},
    {"step": 0.1, "dead_zone": 2}, {"step": 0.1, "per": "row"}, {"step": 0.1, "trellis": True, "per": "task"},
])  # fmt: skip
def test_refuses(arguments):
    with pytest.raises(ArgumentError, match="must be"):
        Grid(**arguments)


@pytest.mark.parametrize("grid", [Grid("auto"), Grid("auto", trellis=True), Grid(bits_per_weight=1.0)])
@pytest.mark.parametrize("largest", [1e160, 1.79e308])
def test_squares_beyond_float64_are_refused(grid, largest):
    weight = largest * torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).clamp(-1, 1)
    with pytest.raises(WeightError, match="entries up to 1e"):
        grid.project(weight, price=None if grid.bits_per_weight else 1e-3)
