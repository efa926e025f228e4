"""The smallest file that is good enough: the bisection, and the budget `max_drop` in the door."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import summands as sm
from summands.errors import ArgumentError, BudgetError, TrainingError
from summands.selection import Tried, smallest

PLAN = sm.Plan({"*.weight": "Quantize('auto')"}, ignore=["*.bias"])


@given(st.floats(1e-6, 1e6), st.floats(1e-3, 1e3), st.integers(2, 40))
def test_the_bisection_ends_beside_the_border(border: float, start: float, tries: int) -> None:
    """Sizes 1e6 / knob, good up to the border."""
    calls = []

    def run(knob: float) -> Tried:
        calls.append(knob)
        return Tried(int(1e9 / knob), 0.0 if knob <= border else 1.0, knob)

    best, tried = smallest(run, 0.5, start, tries=tries, close=0.01)
    assert len(calls) == len(tried) <= tries and len(set(calls)) == len(calls)
    assert best is None or (best.made <= border and best.size == min(t.size for t in tried if t.error == 0))
    if tries == 40:
        assert best is not None and best.made >= 0.985 * border


def problem() -> tuple[nn.Module, object, tuple]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 60), nn.ReLU(), nn.Linear(60, 5))
    x = torch.randn(500, 20)
    with torch.no_grad():
        y = model(x).argmax(1)

    def evaluate(m: nn.Module) -> float:
        return float((m(x).argmax(1) != y).double().mean())

    return model, evaluate, (x, y)


def test_the_smallest_file_within_the_drop() -> None:
    model, evaluate, _ = problem()
    result = sm.compress(model, PLAN, budget="0.02 drop", evaluate=evaluate)
    assert evaluate(result.apply_(nn.Sequential(nn.Linear(20, 60), nn.ReLU(), nn.Linear(60, 5)))) <= 0.02
    tried = result.metadata["tried"]
    assert (result.size_bytes, result.error) in tried
    assert result.size_bytes == min(size for size, error in tried if error <= 0.02)
    assert max(size for size, error in tried if error > 0.02 and size < result.size_bytes) >= 0.97 * result.size_bytes
    looser = sm.compress(model, PLAN, budget=sm.Budget(max_drop=0.1), evaluate=evaluate)
    assert looser.size_bytes < result.size_bytes


def test_training_makes_it_smaller_in_a_bounded_number_of_runs(tmp_path) -> None:
    model, evaluate, data = problem()
    direct = sm.compress(model, PLAN, budget="0.02 drop", evaluate=evaluate)
    options = {
        "budget": "0.02 drop",
        "evaluate": evaluate,
        "train": sm.SGD(data, lr=0.1, decay=0.98, batch_size=50),
        "schedule": sm.Schedule(steps=6, mu0=0.02, growth=2.0, epochs=3),
        "drop_runs": 2,
        "checkpoint": tmp_path / "run",
    }
    trained = sm.compress(model, PLAN, **options)
    assert trained.error <= 0.02 and trained.size_bytes < direct.size_bytes
    checkpoints = sorted(path.name for path in tmp_path.iterdir())
    assert len(checkpoints) == 2 and all(name.startswith("run.") for name in checkpoints)

    def fails(*arguments: object) -> float:
        raise AssertionError("a finished run is not run again")

    again = sm.compress(model, PLAN, resume=True, **{**options, "train": fails})
    assert again.size_bytes == trained.size_bytes and again.metadata["tried"] == trained.metadata["tried"]


def test_no_trained_run_is_larger_than_what_is_good_already() -> None:
    model, evaluate, _ = problem()
    direct = sm.compress(model, PLAN, budget="0.02 drop", evaluate=evaluate)
    options = {"schedule": sm.Schedule(steps=1), "train": lambda model, penalty, step: 0 * float(penalty().detach())}
    found = sm.compress(model, PLAN, budget="0.02 drop", evaluate=evaluate, drop_runs=4, **options)
    trained = found.metadata["tried"][len(direct.metadata["tried"]) :]
    assert len(trained) > 1 and all(size < direct.size_bytes for size, _ in trained)


def test_an_impossible_drop_names_the_nearest() -> None:
    model, evaluate, _ = problem()
    plan = sm.Plan({"0.weight": "Prune(keep=0.0)", "2.weight": "Prune('auto')"}, ignore=["*.bias"])
    with pytest.raises(
        BudgetError, match=r"at most 0\.01, but the least that the plan reached is 0\.\d+, in [\d,]+ bytes"
    ):
        sm.compress(model, plan, budget="0.01 drop", evaluate=evaluate)


def test_clear_errors() -> None:
    model, evaluate, _ = problem()
    with pytest.raises(BudgetError, match="evaluate must be given"):
        sm.compress(model, PLAN, budget="0.01 drop")
    with pytest.raises(BudgetError, match=r"max_drop=0.01\) and the plan, in which nothing"):
        sm.compress(model, sm.Plan({"*": "Keep()"}), budget="0.01 drop", evaluate=evaluate)
    with pytest.raises(ArgumentError, match="a module"):
        sm.compress(dict(model.state_dict()), PLAN, budget="0.01 drop")


def test_an_evaluate_that_raises_is_named_and_nothing_is_lost(tmp_path) -> None:
    model, evaluate, data = problem()

    def broken(m: nn.Module) -> float:
        raise KeyError("no such metric")

    with pytest.raises(TrainingError, match=r"evaluate\(model\) raised KeyError on the network that came in: 'no such"):
        sm.compress(model, PLAN, budget="0.01 drop", evaluate=broken)
    calls = iter(range(100))

    def breaks_later(m: nn.Module) -> float:
        if next(calls) == 4:
            raise OSError("the disk is gone")
        return evaluate(m)

    options = {
        "budget": 2500,
        "train": sm.SGD(data, lr=0.1),
        "schedule": sm.Schedule(steps=6, mu0=0.05),
        "checkpoint": tmp_path / "run",
    }
    with pytest.raises(TrainingError, match=r"raised OSError .*the disk is gone; all steps before are in .*run"):
        sm.compress(model, PLAN, evaluate=breaks_later, **options)
    whole = sm.compress(model, PLAN, evaluate=evaluate, **{**options, "checkpoint": None})
    resumed = sm.compress(model, PLAN, evaluate=evaluate, resume=True, **options)
    assert resumed.size_bytes == whole.size_bytes and resumed.error == whole.error
    assert [r.error for r in resumed.history] == [r.error for r in whole.history]
    assert math.isfinite(whole.error)
