"""Successive pruning: the rule, the law of its picks, its prefixes, its stream, and a direct implementation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from successive_direct import pick_directly

from summands.coding import decode_section, encode_section, estimated_bits, layout_of
from summands.coding.sequence import new_sequence, next_place, position_at
from summands.compressions import Successive
from summands.compressions.successive_picks import index_bits, pick_all
from summands.container import measure, read, to_bytes
from summands.errors import ArgumentError
from summands.forms.successive import AUTHORS, PAPER, replay

MODES = ("paper", "authors")
modes = pytest.mark.parametrize("mode", MODES)


def laplace(size, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).laplace(size=size)).float()


def coded_again(form):
    payload = encode_section([form]).payload
    return decode_section(payload, [layout_of(form)])[0], len(payload)


@st.composite
def small_cases(draw):
    size = draw(st.integers(1, 40))
    entries = draw(
        st.lists(st.sampled_from([0.0, 1.0, -1.0]) | st.floats(-100, 100, width=32), min_size=size, max_size=size)
    )
    goal = draw(st.sampled_from(["sparsity", "distortion", "bits_per_weight"]))
    value = draw(st.floats(0.1, 0.9)) * (8 if goal == "bits_per_weight" else 1)
    alpha = draw(st.none() | st.sampled_from([0.5, 1.0, 3.0]))
    mode, seed = draw(st.sampled_from(MODES)), draw(st.integers(0, 2**63 - 1))
    return torch.tensor(entries), Successive(**{goal: value}, mode=mode, alpha=alpha, seed=seed)


@given(small_cases())
def test_every_prefix_decodes_to_what_the_encoder_rebuilt(case):
    weight, compression = case
    form = compression.project(weight)
    form.validate()
    assert coded_again(form)[0].same(form)
    assert (form.dense().abs() <= weight.abs()).all()
    count = form.events.numel()
    check_prefixes(form, {*range(min(count, 6)), count // 2})


@pytest.mark.thorough
@given(small_cases())
def test_all_prefixes_decode_to_what_the_encoder_rebuilt(case):
    weight, compression = case
    form = compression.project(weight)
    check_prefixes(form, range(form.events.numel()))


def check_prefixes(form, lengths):
    """Coded by itself, and as what follows its first half."""
    for length in lengths:
        prefix = form.prefix(length)
        again = coded_again(prefix)[0]
        assert again.same(prefix) and torch.equal(again.dense(), prefix.dense())
        half = form.prefix(length // 2)
        rest = form.replace_tensors({"events": prefix.events[length // 2 :].clone()})
        payload = encode_section([rest], earlier=[half]).payload
        later = decode_section(payload, [layout_of(rest)], earlier=lambda i, forms, half=half: half)[0]
        assert later.same(rest)


@modes
@given(st.data())
def test_the_direct_implementation_picks_the_same(mode, data):
    size, seed = data.draw(st.integers(1, 60)), data.draw(st.integers(0, 1000))
    units = np.random.default_rng(seed).exponential(size=size)
    units = np.floor(units / units.mean() * 2**32).astype(np.int64)
    alpha = data.draw(st.sampled_from([1 << 15, 1 << 16, 3 << 16]))
    limits = (max(size // 2, 1), -1, math.inf)
    descending = np.argsort(-units, kind="stable").astype(np.int32)
    events, sizes = pick_all(units.copy(), descending, MODES.index(mode), alpha, seed, *limits)
    expected, members, rebuilt = pick_directly(units, MODES.index(mode), alpha, seed, *limits[:2])
    np.testing.assert_array_equal(events, expected)
    np.testing.assert_array_equal(sizes, members)
    for length, encoders in enumerate(rebuilt):  # every prefix decodes to what the encoder had then
        moved = np.zeros(size, dtype=np.int64)
        replay(events[:length], moved, 0, size, MODES.index(mode), alpha)
        np.testing.assert_array_equal(moved, encoders)


@pytest.mark.parametrize("total", [1, 2, 7, 4096, 70_000])
def test_a_place_and_its_position_are_inverse(total):
    sequence = new_sequence(11, total)
    ends = {}
    for place in reversed(range(5000)):
        position = position_at(place, sequence)
        assert 0 <= position < total and next_place(position, place, sequence) == place
        ends[position] = place
    for position, place in list(ends.items())[:200]:
        assert next_place(position, 0, sequence) == place


def test_picks_are_uniform_and_their_indices_geometric():
    # S = 12 of 4,500: many picks of one sequence, S unchanged. Chi-square, 1e-4 two-sided, fixed seed.
    from scipy.stats import chi2

    total, members, sequence = 4500, [*range(0, 4500, 500), 1, 2, 3], new_sequence(3, 4500)
    counts, indices, place = np.zeros(len(members)), [], 0
    for _ in range(6000):
        places = [next_place(m, place, sequence) for m in members]
        first = int(np.argmin(places))
        counts[first] += 1
        indices.append(places[first] - place + 1)
        place = places[first] + 1
    expected = len(indices) / len(members)
    assert 1e-4 < chi2.sf(((counts - expected) ** 2 / expected).sum(), len(members) - 1) < 1 - 1e-4
    p = len(members) / total
    edges = np.log1p(-np.arange(0, 10) / 10) / np.log1p(-p)  # ten cells of equal mass, up to rounding
    cells = [(1 - p) ** np.floor(a) - (1 - p) ** np.floor(b) for a, b in zip(edges, [*edges[1:], np.inf], strict=True)]
    seen = np.histogram(indices, bins=[*(np.floor(edges) + 0.5), np.inf])[0]
    mass = np.array(cells) * len(indices)
    assert 1e-4 < chi2.sf(((seen - mass) ** 2 / mass).sum(), 9) < 1 - 1e-4


@modes
def test_rule_on_a_small_case(mode):
    # U = 8, 1, ..., 1: mean 15/8. alpha = 2: T = 3.75; only the first entry is above, twice or once more.
    weight = torch.tensor([8.0, -1, 1, 1, 1, 1, 1, 1])
    form = Successive(distortion=0.5, mode=mode, alpha=2.0).project(weight)
    assert form.events[:2].tolist() == [1, 1]
    mean = 15 / 8
    second = {"paper": 2 * (mean - 3.75 / 8), "authors": 3.75 * (1 - 1 / 8)}[mode]
    assert float(form.prefix(1).dense()[0]) == pytest.approx(3.75, rel=1e-6)
    assert float(form.prefix(2).dense()[0]) == pytest.approx(3.75 + second, rel=1e-6)


def test_alpha_falls_at_a_refresh():
    weight = torch.ones(5)  # nothing exceeds alpha = 3 means before alpha is below 1
    for mode, each in (("paper", 1), ("authors", 20)):
        form = Successive(sparsity=0.8, mode=mode, alpha=3.0).project(weight)
        refreshes = int((form.events == 0).sum())
        assert refreshes == each * math.ceil(math.log(1 / 3) / math.log(0.9))
        assert form.picks == 1


@modes
def test_goals_are_met(mode):
    weight = laplace(3000)
    assert Successive(sparsity=0.95, mode=mode).project(weight).kept == 150
    left = (weight - Successive(distortion=0.8, mode=mode).project(weight).dense()).abs().sum() / weight.abs().sum()
    assert 0.79 < left <= 0.8 + 1e-6
    form = Successive(bits_per_weight=0.3, mode=mode).project(weight)
    bits = estimated_bits(form) - estimated_bits(form.prefix(0))
    assert 0.29 * 3000 < bits <= 0.3 * 3000


@modes
def test_a_task_has_one_sequence_of_picks(mode):
    weights = {"a": laplace(900).reshape(30, 30), "b": 100 * laplace(600, 1), "c": torch.zeros(4)}
    compression = Successive(sparsity=0.9, mode=mode, per="task")
    forms = compression.project_task(weights)
    assert compression.is_feasible(forms, weights)
    assert forms["a"].events is forms["b"].events
    assert sum(form.kept for form in forms.values()) == round(0.1 * 1504)
    assert forms["a"].kept > 20 and forms["b"].kept > 20 and not forms["c"].dense().any()
    back = read(to_bytes(forms)).forms
    for name, form in forms.items():
        assert back[name].same(form) and torch.equal(back[name].dense(), form.dense())


@modes
@pytest.mark.parametrize("per", ["weight", "task"])
def test_a_task_meets_every_goal(mode, per):
    weights = {"a": laplace(900).reshape(30, 30), "b": 100 * laplace(600, 1)}
    for goal in ({"sparsity": 0.9}, {"distortion": 0.7}, {"bits_per_weight": 0.5}):
        compression = Successive(**goal, mode=mode, per=per)
        forms = compression.project_task(weights)
        assert compression.is_feasible(forms, weights)
        assert (forms["a"].events is forms["b"].events) == (per == "task")
        back = read(to_bytes(forms)).forms
        assert all(back[name].same(forms[name]) for name in weights)
        if "bits_per_weight" in goal:
            assert 0.45 * 1500 < measure(forms).payload_bytes * 8 + measure(forms).shared_bytes * 8 < 0.52 * 1500 + 64


def test_a_seed_changes_the_picks_and_nothing_else_does():
    weight = laplace(2000)
    a, b, c = (Successive(sparsity=0.9, seed=seed).project(weight) for seed in (0, 0, 1))
    assert a.same(b) and not torch.equal(a.events, c.events)


def test_what_is_wrong_is_refused():
    form = Successive(sparsity=0.9).project(laplace(200))
    signs = form.events.clone()
    for events, message in (
        (form.events.long(), "int32"),
        (form.events + 1000, "outside"),
    ):
        with pytest.raises(ValueError, match=message):
            form.replace_tensors({"events": events}).validate()
    with pytest.raises(ArgumentError, match=r"successive pruning cannot make.*'fc'"):
        to_bytes({"fc": form.replace_tensors({"events": torch.cat([signs, -signs[:1]])})})
    payload = encode_section([form]).payload
    with pytest.raises(ValueError, match=r"wrong state|after their end"):
        decode_section(payload + b"\1", [layout_of(form)])
    for arguments in (
        {},
        {"sparsity": 1.5},
        {"sparsity": 0.5, "distortion": 0.5},
        {"distortion": 0},
        {"sparsity": True},
    ):
        with pytest.raises(ArgumentError, match="must be"):
            Successive(**arguments)
    with pytest.raises(ArgumentError, match="importance"):
        Successive(sparsity=0.5).project(torch.ones(3), importance=torch.ones(3))


# Of algorithms 4: D -> ideal bits a weight, share of nonzeros in %, tolerance, most of coded / ideal.
TABLE = [
    (0.99, 0.0207, 0.14, 0.05, 1.20),
    (0.95, 0.118, 0.9, 0.03, 1.15),
    (0.90, 0.267, 2.1, 0.03, 1.10),
    (0.80, 0.598, 5.3, 0.03, 1.10),
    (0.50, 2.07, 19.7, 0.03, 1.10),
]


@pytest.mark.parametrize("distortion, ideal, nonzero, tolerance, most", TABLE)
def test_laplacian_weights_as_in_the_table(distortion, ideal, nonzero, tolerance, most):
    size, figures = 270_000, []
    for seed in range(4):
        weight = laplace(size, seed)
        goal = distortion / float(weight.abs().double().mean())
        form = Successive(distortion=goal, mode="authors", alpha=10.0, seed=seed).project(weight)
        payload = len(encode_section([form]).payload)
        figures.append((ideal_bits(form, weight, goal) / size, 100 * form.kept / size, 8 * payload / size))
    reached, kept, coded = np.mean(figures, axis=0)
    assert reached == pytest.approx(ideal, rel=tolerance)
    assert kept == pytest.approx(nonzero, rel=tolerance)
    assert coded <= most * reached


def ideal_bits(form, weight, goal):
    """The entropies of the indices given |S|, and the signs."""
    units = np.floor(weight.double().abs().numpy() / (float(form.scale) * 2.0**-32)).astype(np.int64)
    descending = np.argsort(-units, kind="stable").astype(np.int32)
    rule = {"paper": PAPER, "authors": AUTHORS}[form.rule]
    rest = int(goal * 2**32 * units.size)
    events, sizes = pick_all(units, descending, rule, form.alpha, form.seed, units.size, rest, math.inf)
    np.testing.assert_array_equal(events, form.events.abs().numpy())
    return sum(index_bits(int(s), units.size) for s in sizes[events > 0]) + form.kept
