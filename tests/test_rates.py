"""Rate-distortion theory beside the coders: on Laplacian weights all are where theory and tables say."""

import math

import numpy as np
import pytest
import torch

from summands.coding.limits import rate_distortion, rate_distortion_curve
from summands.errors import ArgumentError, WeightError
from summands.rates import laplace_fits, rate_table, relative_l1
from summands.report.plots import plot_rates
from summands.report.tables import fit_table, rates_table


def laplace(size, seed=0, scale=1.0):
    return torch.from_numpy(np.random.default_rng(seed).laplace(size=size) * scale).float()


def test_fits_tell_a_laplacian_from_others():
    random = np.random.default_rng(0)
    fits = laplace_fits(
        {
            "laplace": laplace(50_000, scale=0.1),
            "normal": torch.from_numpy(random.normal(size=50_000)),
            "uniform": torch.from_numpy(random.uniform(-1, 1, size=50_000)),
        }
    )
    assert fits[0].mean == pytest.approx(0.1, rel=0.02)
    assert [fit.kurtosis for fit in fits] == pytest.approx([6, 3, 1.8], rel=0.1)
    assert fits[0].distance < 0.01 < 0.04 < fits[1].distance < fits[2].distance
    assert "laplace" in fit_table(fits) and "50,000" in fit_table(fits)


def test_the_curve_of_a_histogram_is_that_of_its_points():
    entries = laplace(20_000).numpy()
    for distortion, rate in rate_distortion_curve(entries, [1.3, 2.0, 5.0], squared=False):
        assert rate == pytest.approx(rate_distortion(entries, distortion, squared=False), abs=2e-3)
        assert rate == pytest.approx(-math.log2(distortion / np.abs(entries).mean()), rel=0.05, abs=0.01)
    assert rate_distortion_curve(np.ones(9), [1.0]) == [(0.0, 0.0)]


def test_a_laplacian_weight_is_where_the_tables_say():
    rows = rate_table({"w": laplace(40_000)}, (0.9, 0.8))
    assert [row.name for row in rows] == ["w"] * 2
    for row, surp, embedded in zip(rows, (0.258, 0.575), (0.194, 0.416), strict=True):
        assert row.laplace == pytest.approx(math.log2(1 / row.distortion), rel=1e-3)
        assert row.histogram == pytest.approx(row.laplace, rel=0.08)
        assert row.paper == pytest.approx(surp, rel=0.06)
        assert row.authors == pytest.approx(surp, rel=0.1)
        assert row.embedded == pytest.approx(embedded, rel=0.04)


def test_a_net_is_at_its_best_allocation(tmp_path):
    """Of two equal halves all is as of one."""
    halves = {"a": laplace(8000), "b": laplace(8000, 1, scale=7.0)}
    rows = rate_table(halves, (0.8,))
    assert [row.name for row in rows] == ["a", "b", "all"]
    one, _, net = rows
    for field in ("laplace", "histogram", "paper", "embedded"):
        assert getattr(net, field) == pytest.approx(getattr(one, field), rel=0.06)
    plot_rates(rows, tmp_path / "rates.png")
    assert (tmp_path / "rates.png").stat().st_size > 10_000
    with pytest.raises(ArgumentError, match=r"must be one of .*png.*svg.*rates\.doc"):
        plot_rates(rows, tmp_path / "rates.doc")
    assert [file.name for file in tmp_path.iterdir()] == ["rates.png"]
    assert "all" in rates_table(rows)


@pytest.mark.thorough
def test_a_small_weight_gets_the_lower_distortion_as_it_costs_less():
    small = rate_table({"a": laplace(8000), "b": laplace(500, 1)}, (0.6,))[-1]
    assert small.laplace < math.log2(1 / 0.6) * 0.8
    assert small.laplace < small.embedded < small.paper


def test_what_is_wrong_is_refused():
    for wrong in (torch.zeros(4), torch.tensor([1.0, math.nan])):
        with pytest.raises(WeightError, match="not all zero"):
            laplace_fits({"w": wrong})
    for distortions in ((), (0.5, 1.0)):
        with pytest.raises(ArgumentError, match="distortions must be"):
            rate_table({"w": torch.ones(4)}, distortions)
    assert relative_l1({"w": torch.ones(4)}, {"w": _Half()}) == 0.5


class _Half:
    def dense(self):
        return torch.full((4,), 0.5)


def test_no_coder_is_below_the_histogram_of_a_sparse_weight():
    generator = torch.Generator().manual_seed(0)
    weight = torch.distributions.Laplace(0.0, 1.0).icdf(torch.rand(4000, generator=generator) * 0.9998 + 1e-4)
    weight[torch.rand(4000, generator=generator) < 0.98] = 0
    rows = rate_table({"sparse": weight, "dense": weight.roll(7) + 0.1}, (0.99, 0.9, 0.5))
    assert len(rows) == 9
    for row in rows:
        assert 0 < row.histogram < min(row.embedded, row.paper, row.authors)
