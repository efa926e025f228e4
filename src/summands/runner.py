"""Runs a search: every trial in a process of its own, one thread each, so that none can take another down.

A run owns a folder: `checkpoint` while it lasts, `model.sums` when it is finished, `output.txt` with whatever the task
printed and the traceback of a failure. What happened stands in the journal. A search that is killed loses at most
the step that each of its runs was in: started again, it goes on from the checkpoints and repeats nothing finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import nn

from .api import compress
from .coding.limits import rate_distortion_points
from .domain import Domain
from .errors import ArgumentError, FileError, MismatchError, must
from .journal import Journal
from .lc import Schedule
from .network import state_tensors
from .plan import Plan
from .recipe import named
from .records import RunRecord, SearchRecord, StepRecord
from .result import Result
from .selection.search import Patience, Trial
from .taskfile import TaskFile, load_task

_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_POLL_SECONDS = 0.2

Progress = Callable[[Sequence[RunRecord]], None]
"""Called with all runs that are not waiting to be made, whenever the journal has grown."""


def describe(task: TaskFile, path: Path, network: nn.Module) -> SearchRecord:
    """What all runs of a search share: evaluates the network once and measures its weights' rate-distortion limits.

    Raises:
        ArgumentError: `evaluate` fails on the network as it comes, or returns no number.
    """
    state = state_tensors(network)
    weights = {e.name: e.tensor for e in Domain(network).entries if e.kept is None and e.tensor.ndim >= 2}
    return SearchRecord(
        name=path.stem,
        task=digest(path),
        reference_bytes=sum(t.nbytes for t in state.values()),
        reference_error=None if task.evaluate is None else _reference_error(task.evaluate, network),
        limits={
            name: tuple(rate_distortion_points(weight.detach().cpu().double())) for name, weight in weights.items()
        },
    )


def digest(path: Path) -> str:
    """Tells this task file's text from any other."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def run_search(
    task: Path,
    search: SearchRecord | Callable[[], SearchRecord],
    trials: Sequence[Trial],
    folder: Path,
    *,
    jobs: int = 1,
    patience: Patience | None = None,
    progress: Progress = lambda runs: None,
) -> list[RunRecord]:
    """Makes the runs that are still to be made, `jobs` at a time, and returns the records of all trials.

    Args:
        search: what the runs share, or how to measure it where the folder does not know it yet.
        folder: holds the journal and one folder a run; made if need be.
        patience: stops runs that were overtaken; None stops none, and goes on with those stopped before.

    Raises:
        MismatchError: the folder holds runs of another task file. FileError: another search works in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    journal = Journal(folder)
    with _alone(folder / "lock", wait=False):
        known, _ = journal.read()
        if known is not None and known.task != digest(task):
            raise MismatchError(
                f"{folder} holds runs of another {known.name}.py; give another folder, or the task as it was"
            )
        if known is None:
            journal.append("search", **asdict(search() if callable(search) else search))
        _run_all(task, trials, journal, jobs, patience, progress)
        return _records(journal, trials)


def _run_all(
    task: Path, trials: Sequence[Trial], journal: Journal, jobs: int, patience: Patience | None, progress: Progress
) -> None:
    done = {run.id for run in journal.read()[1] if run.status == "finished" or (run.is_done and patience)}
    queue = [trial for trial in trials if trial.id not in done]
    running: dict[str, tuple[subprocess.Popen[bytes], Trial]] = {}
    seen = -1
    try:
        while queue or running:
            while queue and len(running) < jobs:
                trial = queue.pop(0)
                running[trial.id] = _start(task, trial, journal, patience), trial
            for name, (process, _) in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    _account_for(name, process.returncode, journal)
            if journal.path.stat().st_size != seen:
                seen = journal.path.stat().st_size
                waiting = {trial.id for trial in queue}  # some failed before, and are to be tried again
                progress([run for run in _records(journal, trials) if run.id not in waiting])
            time.sleep(_POLL_SECONDS)
    finally:
        for process, _ in running.values():  # only after an exception: Ctrl-C, or a full disk
            process.terminate()


def _start(task: Path, trial: Trial, journal: Journal, patience: Patience | None) -> subprocess.Popen[bytes]:
    own = journal.folder / trial.id
    own.mkdir(exist_ok=True)
    total = _total(trial.options)
    facts = {"combination": trial.combination, "budget": trial.budget, "limit": trial.limit, "total": total}
    journal.append("started", run=trial.id, resumed=(own / "checkpoint").exists(), plan=dict(trial.plan), **facts)
    order = {
        "task": str(task.resolve()),
        "folder": str(journal.folder.resolve()),
        "trial": asdict(trial),
        "patience": asdict(patience) if patience else None,
    }
    with (own / "output.txt").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1")},
        )
    assert process.stdin is not None  # as asked for
    try:
        process.stdin.write(json.dumps(order).encode())
        process.stdin.close()
    except BrokenPipeError:
        pass  # it has ended already, and is accounted for
    return process


def _account_for(name: str, code: int, journal: Journal) -> None:
    """A run whose process ended without a word has failed."""
    status = next(run.status for run in journal.read()[1] if run.id == name)
    if status == "started":
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        journal.append("failed", run=name, message=f"its process {how}; see {name}/output.txt")


def _records(journal: Journal, trials: Sequence[Trial]) -> list[RunRecord]:
    """The records of these trials, in their order; none of a run that has not started."""
    known = {run.id: run for run in journal.read()[1]}
    return [known[trial.id] for trial in trials if trial.id in known]


class _Overtaken(Exception):
    """Ends a run that others have made hopeless."""


def run_trial(task_file: Path, trial: Trial, folder: Path, patience: Patience | None) -> None:
    """One run, in this process; its outcome, whatever it be, goes to the journal."""
    journal, own, parent = Journal(folder), folder / trial.id, os.getppid()

    def report(row: StepRecord) -> None:
        journal.append("step", run=trial.id, **row.row())
        if os.getppid() != parent:
            sys.exit("the search has ended")  # started again it goes on from the checkpoint
        runs = journal.read()[1] if patience else []
        for run in runs:
            rival = patience.overtaken_by(run, runs) if patience and run.id == trial.id else None
            if rival:
                done = sum(row.phase in ("lc", "finetune") for row in run.history)
                raise _Overtaken(
                    f"after {done} of {run.total} steps: {run.error:.4g} with {run.size_bytes:,} bytes, no longer "
                    f"improving; {rival.combination} at {rival.budget} has {rival.error:.4g} with {rival.size_bytes:,}"
                )

    # A run of a search that was killed may still be in its last step.
    with _alone(own / "lock", wait=True):
        if any(run.id == trial.id and run.status == "finished" for run in journal.read()[1]):
            return
        try:
            result = _compress(load_task(task_file), trial, own / "checkpoint", report)
            result.save(own / "model.sums", metadata=True)
        except _Overtaken as stop:
            journal.append("stopped", run=trial.id, message=str(stop))
        except Exception as error:
            traceback.print_exc()
            journal.append("failed", run=trial.id, message=f"{type(error).__name__}: {error}")
        else:
            rows = [asdict(row) for row in result.rows()]
            verdict = result.verdict.name
            journal.append("finished", run=trial.id, message=verdict, size_bytes=result.size_bytes, weights=rows)
            (own / "checkpoint").unlink(missing_ok=True)


def _compress(task: TaskFile, trial: Trial, checkpoint: Path, report: Callable[[StepRecord], None]) -> Result:
    learning: dict[str, Any] = {}
    if task.train is not None:
        learning = {
            "train": task.train,
            "schedule": Schedule(**trial.options["schedule"]),
            "checkpoint": checkpoint,
            "resume": True,
            "state": task.state,
            "load_state": task.load_state,
        }
    return compress(
        task.network(),
        Plan.from_dict(trial.plan),
        budget=trial.limit,
        evaluate=task.evaluate,
        inputs=task.inputs,
        importance=task.importance,
        seed=trial.options["seed"],
        report=report,
        **learning,
    )


def options_of(task: TaskFile, schedule: Schedule, seed: int) -> dict[str, Any]:
    """What decides the outcome of a run besides its plan and its limit, as plain values."""
    options = {"schedule": asdict(schedule) if task.train is not None else None, "seed": seed}
    return options if task.importance is None else {**options, "importance": named(task.importance)}


def _total(options: Mapping[str, Any]) -> int:
    schedule = options.get("schedule")
    return 0 if schedule is None else schedule["steps"] + -(-schedule["finetune"] // schedule["epochs"])


def _reference_error(evaluate: Callable[[nn.Module], float], network: nn.Module) -> float:
    try:
        with torch.no_grad():
            return float(evaluate(network.eval()))
    except Exception as error:
        raise ArgumentError(
            must("evaluate(model)", "a function that returns a number", f"{type(error).__name__}: {error}")
        ) from error


@contextmanager
def _alone(path: Path, *, wait: bool) -> Iterator[None]:
    """Holds a lock that the system gives back however this process ends; FileError if it is taken, unless `wait`."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        raise FileError(f"another search is at work in {path.parent}; wait for it, or give another folder") from None
    try:
        yield
    finally:
        lock.release()


def main() -> None:
    """The process of one run: its order comes on standard input, as JSON."""
    order = json.load(sys.stdin)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    patience = Patience(**order["patience"]) if order["patience"] else None
    run_trial(Path(order["task"]), Trial(**order["trial"]), Path(order["folder"]), patience)


if __name__ == "__main__":
    main()
