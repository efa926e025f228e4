"""The limits against closed forms and each other."""

import math

import numpy as np
import pytest
import torch

from summands.coding import limits
from summands.errors import ArgumentError
from summands.report.charts import limit_at

LAPLACE = np.random.default_rng(0).laplace(size=200_000)
# algorithms section 5: mean squared error over variance -> bits.
TABLE = [(0.803, 0.1077), (0.349, 0.662), (0.0625, 1.896)]


def test_entropy():
    assert limits.entropy(torch.tensor([[0, 1], [2, 3]])) == 2
    assert limits.entropy(np.zeros(5, dtype=int)) == 0
    assert limits.entropy(np.zeros(0, dtype=int)) == 0


@pytest.mark.parametrize(("share", "bits"), TABLE)
def test_blahut_arimoto_meets_the_table(share, bits):
    assert limits.rate_distortion(LAPLACE, share * LAPLACE.var(), cells=250) == pytest.approx(bits, rel=0.04, abs=0.01)


@pytest.mark.parametrize("distortion", [0.7, 0.3])
def test_blahut_arimoto_meets_the_closed_form_for_absolute_errors(distortion):
    exact = limits.laplace_rate_l1(distortion, np.abs(LAPLACE).mean())
    assert limits.rate_distortion(LAPLACE, distortion, squared=False, cells=250) == pytest.approx(
        exact, rel=0.03, abs=0.01
    )


def test_bounds_are_ordered():
    for share in (0.9, 0.1):
        distortion = share * LAPLACE.var()
        rate = limits.rate_distortion(LAPLACE, distortion, cells=100)
        assert limits.laplace_rate_mse_bound(distortion, LAPLACE.var()) <= rate + 0.01
        assert rate <= limits.gaussian_rate(distortion, LAPLACE.var()) + 0.01
    assert limits.laplace_rate_mse_bound(0.01, 1) == pytest.approx(0.5 * np.log2(100) - 0.1044, abs=1e-3)


def test_nothing_to_say_costs_nothing():
    assert limits.rate_distortion(np.zeros(10), 0.1) == 0
    assert limits.rate_distortion(LAPLACE, 10.0) == 0
    assert limits.laplace_rate_l1(2.0, 1.0) == 0
    assert limits.gaussian_rate(2.0, 1.0) == 0
    assert limits.gaussian_rate(1.0, 0.0) == 0


@pytest.mark.parametrize("function", [limits.laplace_rate_l1, limits.gaussian_rate, limits.laplace_rate_mse_bound])
def test_distortion_must_be_positive(function):
    with pytest.raises(ArgumentError):
        function(0.0, 1.0)


def test_points_of_the_curve_lie_on_it() -> None:
    generator = torch.Generator().manual_seed(0)
    points = limits.rate_distortion_points(3 * torch.randn(100_000, generator=generator))
    assert points[0] == (1.0, 0.0) and len(points) >= 10
    assert points == sorted(points, key=lambda point: (-point[0], point[1]))
    for distortion, rate in points:
        assert rate == pytest.approx(limits.gaussian_rate(distortion, 1.0), abs=0.02)
    assert limits.rate_distortion_points(np.zeros(3)) == limits.rate_distortion_points(np.zeros(0)) == [(1.0, 0.0)]
    assert limits.rate_distortion_points(np.ones(3)) == [(1.0, 0.0)]


def test_the_limits_of_known_sources():
    """R(D) = log2(1 / D) / 2 of a Gaussian of variance 1, and Shannon's bound the same; of Laplace values their own."""
    random = np.random.default_rng(0)
    for distortion in (0.3, 0.03, 1e-6):  # the last one finer than the histogram: Shannon's bound stands in
        rate, shannon, laplace = limits.limits_of(torch.from_numpy(random.normal(size=200_000)), distortion)
        assert rate == pytest.approx(-0.5 * math.log2(distortion), abs=0.02)
        assert shannon == pytest.approx(-0.5 * math.log2(distortion), abs=0.02)
        assert laplace == pytest.approx(shannon - 0.1044, abs=0.02)
    rate, shannon, laplace = limits.limits_of(torch.from_numpy(random.laplace(size=200_000)), 2 * 0.0625)
    assert rate == pytest.approx(1.896, abs=0.02) and shannon == pytest.approx(laplace, abs=0.02)


def test_a_single_value_has_no_density():
    assert limits.differential_entropy(np.ones(300)) == -math.inf


@pytest.mark.parametrize("zeros", [0.0, 0.9, 0.98])
def test_the_curve_is_drawn_near_no_bits_too(zeros: float) -> None:
    """Between its points it lies on the function, also where nearly all entries are zero and D is near 1."""
    generator = np.random.default_rng(0)
    values = generator.laplace(size=20_000) * (generator.random(20_000) >= zeros)
    points = limits.rate_distortion_points(values)
    for share in (0.95, 0.8, 0.5):
        least = limits.rate_distortion(values, share * float((values**2).mean()), cells=128)
        assert limit_at(points, share) == pytest.approx(least, rel=0.05, abs=2e-4)
