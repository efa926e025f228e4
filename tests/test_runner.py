"""Searches as processes: killed, resumed, with runs that fail, and what they leave behind."""

from __future__ import annotations

import fcntl
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

import summands as sm
from summands.errors import ArgumentError, FileError, MismatchError
from summands.journal import Journal, read_runs
from summands.plan import Plan
from summands.records import RunRecord
from summands.runner import describe, options_of, run_search, run_trial
from summands.selection.search import Patience, Trial, trials
from summands.taskfile import load_task

TASK = """
import time
import torch
from torch import nn
import summands as sm

generator = torch.Generator().manual_seed(0)
inputs_, targets = torch.randn(60, 8, generator=generator), torch.arange(60) % 5
schedule = sm.Schedule(steps=4, mu0=0.1, growth=1.3, finetune=1)
sgd = sm.SGD((inputs_, targets), lr=0.05, batch_size=20)
SLEEP = 0.0

def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 5))

def train(model, penalty, step):
    time.sleep(SLEEP)
    return sgd(model, penalty, step)

def evaluate(model):
    return 100 * float((model(inputs_).argmax(1) != targets).float().mean())
"""
P, L = {"P": 'Prune("auto")'}, {"L": 'LowRank("auto")'}


def task_file(folder: Path, text: str = TASK) -> Path:
    path = folder / "task.py"
    path.write_text(text)
    return path


def wanted(path: Path, combinations: dict[str, str], budget: str = "3x") -> list[Trial]:
    task = load_task(path)
    options = options_of(task, task.schedule or sm.Schedule(), 0)
    return trials(task.network(), [budget], combinations, options=options)


def search(path: Path, combinations: dict[str, str], folder: Path, **options) -> list[RunRecord]:
    task = load_task(path)
    return run_search(path, lambda: describe(task, path, task.network()), wanted(path, combinations), folder, **options)


def in_this_process(path: Path, trial: Trial, folder: Path, patience: Patience | None = None) -> RunRecord:
    """One run as its process would make it, without the process."""
    (folder / trial.id).mkdir(exist_ok=True)
    facts = {"combination": trial.combination, "budget": trial.budget, "limit": trial.limit, "total": 5}
    resumed = (folder / trial.id / "checkpoint").exists()
    Journal(folder).append("started", run=trial.id, resumed=resumed, **facts)
    run_trial(path, trial, folder, patience)
    return next(run for run in read_runs(folder)[1] if run.id == trial.id)


def events(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def wait_until(true, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_search_that_is_killed_goes_on_and_repeats_nothing_finished(tmp_path: Path) -> None:
    path, runs = task_file(tmp_path, TASK.replace("SLEEP = 0.0", "SLEEP = 0.2")), tmp_path / "runs"
    assert search(path, {}, runs) == []
    first, second = wanted(path, {**P, **L})
    assert in_this_process(path, first, runs).status == "finished"

    def steps_of_second() -> int:
        return next((len(run.history) for run in read_runs(runs)[1] if run.id == second.id), 0)

    command = [sys.executable, "-m", "summands", "search", path, "-b", "3x", "-o", runs, "--jobs", "1", "--no-stop"]
    command += ["-c", 'P=Prune("auto")', "-c", 'L=LowRank("auto")']
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: steps_of_second() >= 2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    # The run that it had started sees after its step that the search is gone, and ends.
    with (runs / second.id / "lock").open("a") as lock:
        wait_until(lambda: is_free(lock))
        fcntl.flock(lock, fcntl.LOCK_UN)
    assert 2 <= steps_of_second() < 6 and not (runs / second.id / "model.sums").exists()

    assert [run.status for run in search(path, {**P, **L}, runs)] == ["finished", "finished"]
    started = Counter(event["run"] for event in events(runs) if event["event"] == "started")
    assert started == {first.id: 1, second.id: 2}
    steps = [(event["run"], event["phase"], event["index"]) for event in events(runs) if event["event"] == "step"]
    assert len(set(steps)) == 2 * 6 and len(steps) <= 2 * 6 + 1, "only the step that was cut short was taken twice"

    # The bytes are those of a compression that nobody disturbed.
    task = load_task(path)
    whole = sm.compress(
        task.network(),
        Plan.from_dict(second.plan),
        budget=second.limit,
        train=runpy.run_path(str(path))["sgd"],
        evaluate=task.evaluate,
        schedule=task.schedule,
    )
    loaded = sm.load(runs / second.id / "model.sums")
    assert all(form.dense().equal(loaded[name]) for name, form in whole.forms.items())


def is_free(file) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


DIRECT = TASK.split("def train")[0]
"""The task without `train`: a run is a direct compression."""


def test_runs_that_fail_are_recorded_and_lose_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = """
import os, signal
def evaluate(model):
    if (model[0].weight == 0).any() and os.environ["FAIL"] == "raise":
        raise RuntimeError("out of <cheese>")
    if (model[0].weight == 0).any() and os.environ["FAIL"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0
"""
    monkeypatch.setenv("FAIL", "raise")
    path, runs = task_file(tmp_path, DIRECT + judged), tmp_path / "runs"
    assert search(path, {}, runs) == []
    raised, other = (in_this_process(path, trial, runs) for trial in wanted(path, {**P, **L}))
    assert (raised.status, other.status) == ("failed", "finished")
    assert "RuntimeError" in raised.message and "out of <cheese>" in raised.message
    monkeypatch.setenv("FAIL", "die")
    died, _ = search(path, {**P, **L}, runs)
    assert died.status == "failed" and died.message.startswith("its process was ended by SIGKILL")
    monkeypatch.setenv("FAIL", "no")
    assert in_this_process(path, wanted(path, P)[0], runs).status == "finished"
    started = Counter(event["run"] for event in events(runs) if event["event"] == "started")
    assert started == {raised.id: 3, other.id: 1}, "what failed is tried again, what is finished is not"


def test_a_folder_belongs_to_one_task_and_one_search_at_a_time(tmp_path: Path) -> None:
    path, runs = (
        task_file(tmp_path, DIRECT + "def evaluate(model): return 1.0\n"),
        tmp_path / "runs",
    )
    assert search(path, {}, runs) == []
    path.write_text(path.read_text() + "# changed\n")
    with pytest.raises(MismatchError, match=r"holds runs of another task\.py"):
        search(path, {}, runs)
    with (runs / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(FileError, match="another search is at work"):
            search(path, {}, runs)


def test_an_evaluate_that_fails_on_the_network_itself_is_an_error_at_once(tmp_path: Path) -> None:
    path = task_file(tmp_path, DIRECT + "def evaluate(model): return 1 / 0\n")
    with pytest.raises(ArgumentError, match="ZeroDivisionError"):
        search(path, P, tmp_path / "runs")


class Impatient(Patience):
    """Gives a run up after three steps, whatever the errors."""

    def overtaken_by(self, run: RunRecord, others: Iterable[RunRecord]) -> RunRecord | None:
        return run if sum(row.phase == "lc" for row in run.history) == 3 else None


def test_a_run_that_is_stopped_says_so_and_goes_on_without_patience(tmp_path: Path) -> None:
    path, runs = task_file(tmp_path), tmp_path / "runs"
    assert search(path, {}, runs) == []
    (trial,) = wanted(path, P)
    run = in_this_process(path, trial, runs, Impatient())
    assert run.status == "stopped" and run.message.startswith("after 3 of 5 steps")
    assert run.error is not None and run.size_bytes is not None and run.is_done
    assert search(path, P, runs, patience=Patience())[0].status == "stopped", "a stopped run is not repeated"
    whole = in_this_process(path, trial, runs)
    assert whole.status == "finished" and len(whole.history) == 6
    steps = Counter((event["phase"], event["index"]) for event in events(runs) if event["event"] == "step")
    assert steps["lc", 0] == steps["lc", 1] == 1, "it went on from its checkpoint"
