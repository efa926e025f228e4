"""Mistakes in task files and folders: one line each, whatever was to come after."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.given import assert_refused

TASK = """
import torch, summands as sm
def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 2))
def train(model, penalty, step):
    (model(torch.ones(4, 8)).square().mean() + penalty()).backward()
def evaluate(model):
    return float(model(torch.ones(4, 8)).sum())
plan = sm.Plan({"*": "Quantize(2)"})
schedule = sm.Schedule(steps=1)
"""


@pytest.fixture
def task(tmp_path: Path) -> Path:
    path = tmp_path / "task.py"
    path.write_text(TASK)
    return path


@pytest.mark.parametrize(
    ("command", "more", "words"),
    [
        ("compress", "inputs = 5", ["inputs", "5"]),
        ("prune", "def plan_at(sparsity):\n    return {}", ["plan(level)", "a Plan"]),
        ("prune", "plan_at = 5", ["plan"]),
    ],
)
def test_a_task_file_with_a_mistake(task, run, tmp_path, command, more, words):
    task.write_text(TASK + more)
    assert_refused(run(command, task, "-o", tmp_path / "out", "-q"), *words)


def test_an_evaluate_that_says_nothing(task, run, tmp_path):
    assert run("compress", task, "-o", tmp_path / "model.sums", "-q")[0] == 0
    task.write_text(TASK + "def evaluate(model):\n    pass")
    assert_refused(run("evaluate", tmp_path / "model.sums", task), "evaluate", "None")


@pytest.mark.parametrize("below", ["", "runs"])
def test_a_search_into_a_file(task, run, tmp_path, below):
    (tmp_path / "a file").write_text("mine")
    assert_refused(run("search", task, "-b", "5x", "-c", "Q", "-o", tmp_path / "a file" / below), "folder")
    assert (tmp_path / "a file").read_text() == "mine"


def test_a_strange_file_among_the_checkpoints_stays(task, run, tmp_path):
    task.write_text(TASK + "def plan_at(sparsity):\n    return sm.Plan({'*': sm.PruneBy('lamp', keep=1 - sparsity)})")
    kept = tmp_path / "out" / "checkpoint"
    kept.mkdir(parents=True)
    for name in (".level-00.checkpoint.0123", "mine"):
        (kept / name).write_text("")
    code, _, err = run("prune", task, "-o", tmp_path / "out", "--levels", "0.5,0.50000001", "-q")
    assert code == 0, err
    assert len(list((tmp_path / "out").glob("*.sums"))) == 2
    assert [path.name for path in kept.iterdir()] == ["mine"]


@pytest.mark.parametrize("budget", ["1e400 kB", "1e400 MFLOPs"])
def test_a_budget_without_end(task, run, budget):
    assert_refused(run("compress", task, "--budget", budget), "budget", "1e400")
