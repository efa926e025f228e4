"""The embedded quantiser: its cells, its goals, and what it takes beside the theory."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from summands.coding import encode_section
from summands.compressions import Embedded, Successive
from summands.errors import ArgumentError


def laplace(size, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).laplace(size=size)).float()


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30), st.sampled_from([0.125, 0.5, 3.0]))
def test_levels_round_towards_zero_and_half_of_them_is_the_doubled_step(entries, step):
    weight = torch.tensor(entries)
    form = Embedded(step).project(weight)
    form.validate()
    assert torch.equal(form.levels, torch.trunc(weight / step).int())
    rebuilt = form.dense()
    assert not rebuilt[form.levels == 0].any()
    assert torch.equal(torch.trunc(rebuilt / step).int(), form.levels)
    for missing in range(form.planes):
        assert form.coarser(missing).same(Embedded(step * 2**missing).project(weight))


def test_a_point_is_the_median_in_its_cell():
    inside = torch.tensor([0.1, 0.2, 0.3, 0.8, 0.9])
    form = Embedded(1.0).project(torch.cat([inside, inside + 1, -inside - 2]))
    assert form.planes == 2 and int(form.points[0]) == round(0.3 * 256)
    assert int(form.points[1]) == round(256 * 0.3 / 2)  # of the last five in [2, 4)


def test_goals_are_met():
    weight = laplace(20_000)
    norm = float(weight.abs().sum())
    for goal in (0.99, 0.7, 0.2):
        left = float((weight - Embedded(distortion=goal).project(weight).dense()).abs().sum()) / norm
        assert goal * 0.995 - 1e-4 < left <= goal * (1 + 1e-6)
    for goal in (0.05, 0.5, 4.0):
        coded = 8 * len(encode_section([Embedded(bits_per_weight=goal).project(weight)]).payload) / weight.numel()
        assert 0.97 * goal - 0.01 < coded <= goal + 0.01  # step and points take 0.005
    assert not Embedded(distortion=0.5).project(torch.zeros(5)).dense().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_rate_of_almost_nothing_is_met(dtype):
    for seed in range(10):
        weight = torch.randn(20, 20, generator=torch.Generator().manual_seed(seed)).to(dtype)
        compression = Embedded(bits_per_weight=0.01)
        form = compression.project(weight)
        assert not form.dense().any()
        assert compression.is_feasible({"": form}, {"": weight})


@pytest.mark.parametrize(
    "distortion, most", [(0.99, 0.0182), (0.95, 0.0950), (0.90, 0.198), (0.80, 0.424), (0.50, 1.30)]
)
def test_laplacian_weights_take_about_what_the_best_scalar_quantiser_does(distortion, most):
    """algorithms 4: ECSQ .0174, .0925, .194, .416, 1.26; 3 % and the step above them, and below successive pruning."""
    weight = laplace(270_000)
    goal = distortion / float(weight.abs().double().mean())
    coded, pruned = (
        8 * len(encode_section([compression.project(weight)]).payload) / weight.numel()
        for compression in (Embedded(distortion=goal), Successive(distortion=goal))
    )
    assert math.log2(1 / distortion) < coded < most
    assert coded < 0.85 * pruned


def test_what_is_wrong_is_refused():
    form = Embedded(0.25).project(laplace(200))
    for change, message in (
        ({"levels": form.levels.long()}, "int32"),
        ({"levels": form.levels * 2**10}, "planes"),
        ({"points": form.points.int()}, "uint8"),
        ({"points": form.points[:0]}, "points"),
        ({"step": form.step.reshape(1)}, "single"),
    ):
        with pytest.raises(ValueError, match=message):
            form.replace_tensors(change).validate()
    for arguments in ({}, {"step": 0.0}, {"step": 1.0, "distortion": 0.5}, {"distortion": 1.0}, {"step": True}):
        with pytest.raises(ArgumentError, match="must be"):
            Embedded(**arguments)
    with pytest.raises(ArgumentError, match="largest entry"):
        Embedded(1e-9).project(torch.ones(3))
    with pytest.raises(ArgumentError, match="importance"):
        Embedded(0.5).project(torch.ones(3), importance=torch.ones(3))
