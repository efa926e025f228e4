"""Which entries are kept: they add up, and each rule is the one that its paper defines."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from successive_direct import pick_directly

from summands.compressions import Prune, PruneBy
from summands.compressions.scores import RULES, keep_counts, kept_positions
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


@pytest.mark.parametrize("rule", [rule for rule in RULES if not rule.startswith("surp")])
def test_each_weight_keeps_its_largest(rule):
    for name, positions in kept_positions(WEIGHTS, 0.2, rule).items():
        sizes = WEIGHTS[name].flatten().abs()
        lost = torch.ones(len(sizes), dtype=torch.bool).index_fill(0, positions, False)
        assert sizes[positions].min() >= sizes[lost].max()
        assert (positions[1:] > positions[:-1]).all()


@pytest.mark.parametrize("mode", ["paper", "authors"])
def test_surp_keeps_what_is_picked_first_of_all_weights_normalised(mode):
    norms = {name: float(w.double().abs().pow(power := 1 + (mode == "authors")).sum() ** (1 / power))
             for name, w in WEIGHTS.items()}  # fmt: skip
    joined = torch.cat([w.double().flatten().abs() / norms[name] for name, w in WEIGHTS.items()])
    units = (joined / joined.mean() * 2**32).to(torch.int64).numpy()
    alpha = round(math.log(1288 / math.log(1288)) * 2**16)
    events, _, _ = pick_directly(units, int(mode == "authors"), alpha, 0, round(0.1 * 1288), -1)
    expected = sorted({int(event) - 1 for event in events if event})
    positions = kept_positions(WEIGHTS, 0.1, f"surp-{mode}")
    assert positions["conv"].tolist() + (positions["fc"] + 288).tolist() == expected


def test_surp_fills_up_where_there_is_too_little_to_pick():
    weights = {"a": torch.tensor([0.0, 5.0, 0.0]), "b": torch.tensor([0.0, 0.0, -1.0])}
    positions = kept_positions(weights, 0.5, "surp-paper")
    assert {1} <= set(positions["a"].tolist()) and {2} <= set(positions["b"].tolist())
    assert sum(map(len, positions.values())) == 3


def test_prune_by_a_rule():
    assert all(
        form.same(other)
        for form, other in zip(
            PruneBy("global", keep=0.1, dtype="float16").project_task(WEIGHTS).values(),
            Prune(keep=0.1, per="task", dtype="float16").project_task(WEIGHTS).values(),
            strict=True,
        )
    )
    for rule in RULES:
        forms = PruneBy(rule, keep=0.1).project_task(WEIGHTS)
        for name, positions in kept_positions(WEIGHTS, 0.1, rule).items():
            assert torch.equal(forms[name].indices, positions)
            assert torch.equal(forms[name].values, WEIGHTS[name].flatten()[positions])
        assert PruneBy(rule, keep=0.1).is_feasible(forms, WEIGHTS)
        assert not PruneBy(rule, keep=0.09).is_feasible(forms, WEIGHTS)
        alone = PruneBy(rule, keep=0.1).project(WEIGHTS["fc"])
        assert alone.indices.numel() == 100


@pytest.mark.parametrize("arguments", [("best", 0.5), ("lamp", 1.5), ("lamp", "auto"), ("lamp", True)])
def test_prune_by_refuses(arguments):
    with pytest.raises(ArgumentError, match="must be"):
        PruneBy(*arguments)
    with pytest.raises(ArgumentError, match="importance"):
        PruneBy("lamp", 0.5).project(WEIGHTS["fc"], importance=torch.ones(50, 20))


def test_refuses():
    with pytest.raises(ArgumentError, match="keep"):
        keep_counts(WEIGHTS, 1.5)
    with pytest.raises(ArgumentError, match="rule"):
        keep_counts(WEIGHTS, 0.5, "best")
