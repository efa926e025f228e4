"""Layerwise keep counts: they add up, and each rule is the one that its paper defines."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from summands.compressions.scores import RULES, keep_counts
from summands.errors import ArgumentError

shapes = st.lists(st.sampled_from([(3,), (4, 2), (2, 3, 2, 2), (5, 1), (0, 2), ()]), max_size=4)


@given(shapes, st.floats(0, 1), st.sampled_from(list(RULES)), st.booleans(), st.integers(0, 99))
def test_counts_add_up_and_fit(shapes, keep, rule, zeros, seed):
    noise = torch.Generator().manual_seed(seed)
    weights = {str(i): torch.randn(s, generator=noise) * (0 if zeros and i else 1) for i, s in enumerate(shapes)}
    counts = keep_counts(weights, keep, rule)
    assert list(counts) == list(weights)
    assert sum(counts.values()) == round(keep * sum(w.numel() for w in weights.values()))
    assert all(0 <= counts[name] <= w.numel() for name, w in weights.items())


WEIGHTS = {
    "conv": torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0)),
    "fc": 0.1 * torch.randn(50, 20, generator=torch.Generator().manual_seed(1)),
}


def test_uniform():
    assert keep_counts(WEIGHTS, 0.25, "uniform") == {"conv": 72, "fc": 250}


def test_erk_is_the_density_of_the_paper():
    counts = keep_counts(WEIGHTS, 0.05, "erk")
    densities = [(8 + 4 + 3 + 3) / 288, (50 + 20) / 1000]
    scale = 0.05 * 1288 / (densities[0] * 288 + densities[1] * 1000)
    assert counts["conv"] == pytest.approx(scale * densities[0] * 288, abs=1)


def test_global_and_lamp_by_their_definitions():
    total = round(0.1 * 1288)
    for rule in ("global", "lamp"):
        scored = []
        for name, w in WEIGHTS.items():
            for x in w.double().flatten():
                score = x.abs() if rule == "global" else x**2 / (w.double() ** 2)[w.double().abs() >= x.abs()].sum()
                scored.append((float(score), name))
        expected = [name for _, name in sorted(scored, reverse=True)[:total]]
        assert keep_counts(WEIGHTS, 0.1, rule) == {name: expected.count(name) for name in WEIGHTS}


def test_lq_gives_less_to_the_sparser():
    spiky = torch.zeros(100)
    spiky[:3] = 1.0
    assert keep_counts({"flat": torch.ones(97), "spiky": spiky}, 0.1, "lq") == {"flat": 19, "spiky": 1}


def test_refuses():
    with pytest.raises(ArgumentError, match="keep"):
        keep_counts(WEIGHTS, 1.5)
    with pytest.raises(ArgumentError, match="rule"):
        keep_counts(WEIGHTS, 0.5, "best")
