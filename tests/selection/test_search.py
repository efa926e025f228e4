"""The runs of a search, the front of what they found, and when a run is hopeless."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from summands.errors import ArgumentError, BudgetError, PlanError
from summands.records import RunRecord, StepRecord
from summands.selection.search import (
    COMBINATIONS,
    Patience,
    chosen_combinations,
    default_budgets,
    front,
    plan_of,
    trials,
)


def run(name: str, size: int | None, error: float | None, status: str = "finished") -> RunRecord:
    return RunRecord(name, "Q", "20x", 10_000, status, error=error, size_bytes=size)


def running(errors: list[float], size: int = 1000, total: int = 8) -> RunRecord:
    """A run after as many steps as there are errors."""
    history = tuple(StepRecord("lc", i, 1.0, None, 0.1, e, size, 1.0, 1.0, 1.0) for i, e in enumerate(errors))
    best = min(errors, default=None)
    return RunRecord("r", "P", "20x", 1000, "started", error=best, size_bytes=size, total=total, history=history)


POINT = st.tuples(st.none() | st.integers(1, 6), st.none() | st.sampled_from([0.0, 0.5, 1.0, 2.0]))


@given(st.lists(POINT, max_size=12))
def test_the_front_is_what_brute_force_finds(points) -> None:
    runs = [run(str(i), size, error) for i, (size, error) in enumerate(points)]
    measured = [r for r in runs if r.size_bytes is not None and r.error is not None]

    def beats(a: RunRecord, b: RunRecord) -> bool:
        better = a.size_bytes < b.size_bytes or a.error < b.error
        return a.size_bytes <= b.size_bytes and a.error <= b.error and better

    kept = {(r.size_bytes, r.error) for r in measured if not any(beats(other, r) for other in measured)}
    found = front([*runs, run("x", 0, -1.0, "failed"), run("y", 0, -1.0, "stopped")])
    assert [(r.size_bytes, r.error) for r in found] == sorted(kept)
    # Of equals the first stands for all.
    assert all(next(r for r in measured if (r.size_bytes, r.error) == (f.size_bytes, f.error)) is f for f in found)


@pytest.mark.parametrize(
    ("errors", "rival", "stops"),
    [
        ([9, 5, 5, 5], run("x", 1000, 3.9), True),
        ([9, 5, 5, 5], run("x", 1000, 4.0), False),  # 25 % worse, but not more
        ([9, 5, 5, 5], run("x", 1001, 1.0), False),  # a larger file proves nothing
        ([9, 8, 7, 5], run("x", 1000, 1.0), False),  # it still improves
        ([9, 5, 5], run("x", 1000, 1.0), False),  # before half of its steps
        ([9, 5, 5, 5], run("x", 1000, 1.0, "stopped"), False),  # only a finished file counts
        ([9, 5, 5, 5], run("x", 1000, 0.0), True),
        ([9, 5, 5, 5], run("x", 1000, None), False),
    ],
)
def test_a_run_is_stopped_when_it_is_overtaken_and_no_longer_improves(errors, rival, stops) -> None:
    assert (Patience().overtaken_by(running(errors), [rival]) is rival) == stops


def test_patience_counts_steps_and_not_the_direct_iterate() -> None:
    late = running([9, 5, 5, 5])
    early = replace(late, history=(replace(late.history[0], phase="direct"), *late.history[1:]))
    rival = run("x", 1000, 1.0)
    assert Patience().overtaken_by(late, [rival]) and not Patience().overtaken_by(early, [rival])
    assert not Patience(share=0.75).overtaken_by(late, [rival])
    assert not Patience().overtaken_by(replace(late, error=None), [rival])


def test_a_run_whose_budget_still_tightens_is_not_stopped() -> None:
    """Its best within the budget is the direct iterate; what it learned is in larger files, until it is not."""
    plain = running([9, 5, 5, 5, 5, 5, 5, 5])
    sizes = [1000, 1900, 1600, 1400, 1200, 1000, 1000, 1000]
    rows = [replace(row, size_bytes=size) for row, size in zip(plain.history, sizes, strict=True)]
    rival = run("x", 1000, 1.0)
    for taken, stops in ((5, False), (6, False), (8, True)):
        tightening = replace(plain, error=9 if taken == 5 else 5, history=tuple(rows[:taken]))
        assert (Patience().overtaken_by(tightening, [rival]) is rival) == stops, taken


@pytest.mark.parametrize("arguments", [{"share": 0}, {"share": 1.1}, {"margin": -0.1}])
def test_patience_has_bounds(arguments) -> None:
    with pytest.raises(ArgumentError, match=rf"Patience\({next(iter(arguments))}"):
        Patience(**arguments)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(12, 30)
        self.tied = nn.Linear(12, 30)
        self.tied.weight = self.fc.weight


def test_every_matrix_gets_the_combination_and_the_rest_what_is_safe() -> None:
    net = Net()
    plan = plan_of(net, COMBINATIONS["Q + P"])
    matched = plan.match(net)
    rules = {name: str(task.compression) for task in matched.tasks for name in task.weights}
    assert [name for name, rule in rules.items() if "Prune" in rule] == ["conv.weight", "fc.weight"]
    assert all("Keep" in rule for name, rule in rules.items() if not name.endswith("weight") or "norm" in name)
    ignoring = plan_of(net, COMBINATIONS["P"], ignore=["fc.*"]).match(net)
    assert "fc.weight" in ignoring.ignored and any("conv.weight" in task.weights for task in ignoring.tasks)


def test_there_is_a_trial_for_every_combination_at_every_budget() -> None:
    net = nn.Linear(30, 20)
    made = trials(net, ["4x", "900 B"], chosen_combinations([]), options={"seed": 0})
    assert [(t.budget, t.combination) for t in made] == [(b, c) for b in ("4x", "900 B") for c in COMBINATIONS]
    assert {t.limit for t in made} == {620, 900} and len({t.id for t in made}) == len(made)
    other = trials(net, ["4x", "900 B"], chosen_combinations([]), options={"seed": 1})
    assert not {t.id for t in made} & {t.id for t in other}, "another seed is another run"
    with pytest.raises(BudgetError, match="unit of a budget"):
        trials(net, ["4 parsecs"], chosen_combinations([]))
    with pytest.raises(PlanError, match="Prnue"):
        trials(net, ["4x"], {"mine": "Prnue(1)"})


def test_the_name_of_a_run_is_fit_for_a_folder() -> None:
    (trial,) = trials(nn.Linear(30, 20), ["4x"], {"../../etc/passwd <b>": "Prune('auto')"})
    assert "/" not in trial.id and "<" not in trial.id and trial.id[0] != "-"


def test_combinations_are_chosen_by_name_or_written_out() -> None:
    assert chosen_combinations([]) == COMBINATIONS
    chosen = chosen_combinations(["q+p", "L", "mine = Prune(keep=0.1)", "Quantize(k=2)"])
    assert list(chosen) == ["Q + P", "L", "mine", "Quantize(k=2)"]
    assert chosen["mine"].strip() == "Prune(keep=0.1)" and chosen["Quantize(k=2)"] == "Quantize(k=2)"
    with pytest.raises(ArgumentError, match="a combination must be one of 'Q'"):
        chosen_combinations(["Z"])
    for twice in (["a=Quantize(2)", "a=Quantize(4)"], ["=Quantize(2)"]):
        with pytest.raises(ArgumentError, match="combination"):
            chosen_combinations(twice)
    assert chosen_combinations(["Q", "q"]) == {"Q": COMBINATIONS["Q"]}


def test_default_budgets_leave_room_for_what_no_combination_touches() -> None:
    assert default_budgets({"w": torch.zeros(100, 100)}) == ["8x", "16x", "32x", "64x", "128x"]
    assert default_budgets({"w": torch.zeros(100, 100).half()})[0] == "4x"
    assert default_budgets({"w": torch.zeros(20, 20), "b": torch.zeros(20)}) == ["8x"]
    assert default_budgets({"b": torch.zeros(20)}) == ["4x"]
