"""Every check of the suite fails on a planted fault, and so does every oracle on a wrong answer."""

import dataclasses
import random
from dataclasses import dataclass

import checks
import numpy as np
import pytest
import torch
from cases import Case
from devices import Transfers
from oracles import codebook, kept, levels, outside, pruned_codebook, scaled

from summands.compressions import Keep, Prune, Quantize, ScaledBinary
from summands.errors import WeightError
from summands.forms import Codebook, Dense

WEIGHT = torch.tensor([[3.0, -1.0, 0.5], [2.0, -2.5, 0.25]], dtype=torch.float64)


@dataclass(frozen=True)
class Faulty(Keep):
    """Keeps the weight, with one fault."""

    fault: str = ""

    def _project(self, weight, terms):
        values = weight.clone()
        shape, dtype = weight.shape, weight.dtype
        match self.fault:
            case "shape":
                values, shape = values.reshape(-1), torch.Size([weight.numel()])
            case "dtype":
                values = values.half()
                dtype = torch.float16
            case "infinite":
                values[..., 0] = torch.inf
            case "input":
                weight += 1
            case "seed":
                torch.rand(1)
            case "python seed":
                random.random()
            case "memory":
                values = weight
            case "random":
                values = values + torch.rand(weight.shape, generator=torch.Generator().manual_seed(_draws()))
            case "worse":
                values = values + 0.25
            case "drifts":
                values = values * 0.5
            case "ignores previous":
                values = torch.zeros_like(values) if terms.previous is not None else values
            case "device":
                weight.cpu()
                weight.cpu()
        return Dense(shape=shape, dtype=dtype, values=values)

    def _is_feasible(self, form):
        return self.fault != "infeasible"


def _draws(state=[0]):  # noqa: B006
    state[0] += 1
    return state[0]


def faulty(fault, oracle=None):
    return Case(Faulty(fault=fault), oracle)


@pytest.mark.parametrize("fault", ["shape", "dtype", "infinite", "input", "seed", "python seed", "infeasible"])
def test_a_form_that_is_none_is_seen(fault):
    with pytest.raises(AssertionError):
        checks.is_a_form_of(faulty(fault), WEIGHT.clone())


@pytest.mark.parametrize(
    ("check", "fault"),
    [
        (checks.shares_no_memory, "memory"),
        (checks.is_deterministic, "random"),
        (checks.returns_its_own_kind, "drifts"),
        (checks.moves_little, "device"),
    ],
)
def test_a_fault_is_seen(check, fault):
    check(faulty(""), WEIGHT.clone())
    with pytest.raises(AssertionError):
        check(faulty(fault), WEIGHT.clone())


def test_a_lost_previous_is_seen():
    checks.keeps_a_better_previous(faulty(""), WEIGHT, WEIGHT)
    with pytest.raises(AssertionError):
        checks.keeps_a_better_previous(faulty("ignores previous"), WEIGHT, WEIGHT)


def test_a_poor_sum_is_seen():
    class Poor(type(Keep() + Keep())):
        def project_task(self, weights, **known):
            return (Faulty(fault="worse") + Prune(count=0)).project_task(weights)

    poor = Poor(terms=(Keep(), Prune(count=0)))
    with pytest.raises(AssertionError):
        checks.beats_its_parts(Case(poor), WEIGHT)


def test_accepting_anything_is_seen():
    with pytest.raises(pytest.fail.Exception):
        checks.refuses(Case(Keep()), WEIGHT, "finite")
    with pytest.raises(AssertionError):
        checks.refuses(Case(Keep()), WEIGHT.long(), "finite")
    with pytest.raises(WeightError):
        Keep().project(WEIGHT.long())


def test_a_text_that_reads_differently_is_seen():
    class Mute(Prune):
        def __str__(self):
            return "Prune(count=2)"

    checks.reads_its_own_text(Case(Prune(count=2)))
    with pytest.raises(AssertionError):
        checks.reads_its_own_text(Case(Mute(count=3)))


def test_a_form_that_the_file_changes_is_seen(monkeypatch):
    checks.survives_the_file(Case(Keep()), WEIGHT)
    with monkeypatch.context() as patched:
        patched.setattr(checks, "estimated_bits", lambda form: 0.0)
        with pytest.raises(AssertionError):
            checks.survives_the_file(Case(Keep()), WEIGHT)
    changed = checks.to_bytes({"w": Keep("float16").project(WEIGHT)})
    monkeypatch.setattr(checks, "to_bytes", lambda forms: changed)
    with pytest.raises(AssertionError):
        checks.survives_the_file(Case(Keep()), WEIGHT)


@dataclass(frozen=True)
class Lloyd(Quantize):
    """k-means from a poor start: a local optimum."""

    def _project(self, weight, terms):
        flat = weight.reshape(-1)
        values = flat[: self.k].clone().sort().values
        for _ in range(20):
            codes = (flat[:, None] - values).abs().argmin(1)
            values = torch.stack([flat[codes == k].mean() if (codes == k).any() else values[k] for k in range(self.k)])
        return Codebook(shape=weight.shape, dtype=weight.dtype, values=values, codes=codes.reshape(weight.shape))


def test_a_local_optimum_is_seen():
    weight = torch.tensor([0.0, 1.0, 100.0, 101.0, 110.0, 111.0], dtype=torch.float64)
    checks.is_optimal(Case(Quantize(3), codebook(3)), weight)
    with pytest.raises(AssertionError, match="brute force"):
        checks.is_optimal(Case(Lloyd(3), codebook(3)), weight)
    with pytest.raises(AssertionError, match="the oracle is wrong"):
        checks.is_optimal(Case(Quantize(3), codebook(2)), weight)


def test_forgetting_the_importance_is_seen():
    @dataclass(frozen=True)
    class Deaf(Quantize):
        def _project(self, weight, terms):
            return super()._project(weight, dataclasses.replace(terms, importance=None))

    weight, importance = torch.tensor([0.0, 1.0, 5.0]).double(), torch.tensor([9.0, 1.0, 1.0]).double()
    checks.is_optimal(Case(Quantize(1), codebook(1)), weight, importance)
    with pytest.raises(AssertionError):
        checks.is_optimal(Case(Deaf(1), codebook(1)), weight, importance)


def test_a_task_fitted_weight_by_weight_is_seen():
    @dataclass(frozen=True)
    class Apart(Prune):
        def project_task(self, weights, **known):
            return {name: Prune(count=1).project(weight) for name, weight in weights.items()}

    weight = torch.tensor([3.0, 2.0, 0.0, 0.0], dtype=torch.float64)
    checks.is_optimal_over_the_task(Case(Prune(count=2, per="task"), kept(2)), weight)
    with pytest.raises(AssertionError, match="brute force"):
        checks.is_optimal_over_the_task(Case(Apart(count=2, per="task"), kept(2)), weight)


def test_oracles_by_hand():
    ones = np.ones(4)
    vector = np.array([0.0, 1.0, 4.0, 6.0])
    assert kept(2)(vector, ones) == 1
    assert codebook(2)(vector, ones) == 0.5 + 2
    assert codebook(2, zero=True)(vector, ones) == 1 + 2
    assert pruned_codebook(2, 0.25)(vector, ones) == 1 + 16
    assert levels(0, 5)(vector, ones) == 1 + 1 + 1
    assert levels(0, 5, unless_zero=3)(vector, ones) == 1 + (1 + 3) + (1 + 3)
    assert outside(1, codebook(1))(np.array([1.0, 1.0, 9.0]), np.ones(3)) == 0
    assert outside(1.0, codebook(1), price=5)(np.array([1.0, 1.0, 9.0]), np.ones(3)) == 5
    assert scaled(-1, 1)(np.array([-1.0, 3.0]), np.ones(2)) == 2


def test_transfers_are_counted():
    weight = torch.ones(3)
    with Transfers(weight) as transfers:
        host = (weight * 2).cpu()
        moved = torch.zeros(3).to(weight.device)
        total = float((moved + weight).sum())
        with pytest.raises(RuntimeError, match="mixes"):
            host + weight
    assert (transfers.down, transfers.up, transfers.reads, total) == (1, 1, 1, 3.0)


def test_a_wrong_scale_is_seen():
    @dataclass(frozen=True)
    class Median(ScaledBinary):
        def _project(self, weight, terms):
            form = super()._project(weight, terms)
            middle = weight.abs().median()
            return dataclasses.replace(form, values=torch.stack([-middle, middle]))

    checks.is_optimal(Case(ScaledBinary(), scaled(-1, 1)), WEIGHT)
    with pytest.raises(AssertionError):
        checks.is_optimal(Case(Median(), scaled(-1, 1)), WEIGHT)
