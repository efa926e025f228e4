"""How few bytes do LeNet-300-100 and LeNet-5 need on MNIST? Whole files, against the records of the literature.

Each is compressed by its task file and plan within one budget, as `summands compress` does it: all weights and biases
on entropy-priced grids, learned by LC from a trained reference; LeNet-5 in 1.5 kB with `--budget-start 5 --steps 60
--growth 1.072`. The iterate is chosen by the validation error (5,000 images that were not trained on), the test error
measured once a run. The records are those of EPR (Oktay et al. 2020), which chose its trade-off by a price and not by a
budget, and of MIRACLE (Havasi et al. 2019).

    python -m benchmarks.records                 # or the names of some jobs, such as "lenet5 2.8kB 0"

Runs are kept in the cache folder with checkpoints, and not made again; --gather writes the result of those there are.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

import summands as sm
from benchmarks.jobs import checkpoint, run_jobs
from summands.report.tables import render
from summands.taskfile import load_task
from summands.zoo.data import load
from summands.zoo.train import channels_last, error, reference

ROOT = Path(__file__).parent.parent
_EPR = "EPR: 8.56 kB at 1.9 %"
RECORDS = {
    "lenet300 8kB": _EPR,
    "lenet300 5kB": _EPR,
    "lenet300 4kB": _EPR,
    "lenet5 2.8kB": "EPR: 2.84 kB at 0.9-1.0 %",
    "lenet5 1.5kB": "MIRACLE: 1.52 kB at 0.96 %",
}
"""A network and a budget, and what is to beat."""
SLOWLY: Mapping[str, Mapping[str, Any]] = {"1.5kB": {"steps": 60, "growth": 1.072, "budget_start": 5.0}}
"""Budgets that are reached in more steps, from a multiple: what differs from the task file's schedule."""
JOBS = [f"{budget} {seed}" for budget in RECORDS for seed in (0, 1, 2)]


def run(job: str) -> dict[str, Any]:
    """One file from the reference of this seed."""
    name, budget, seed = job.split()
    task = load_task(ROOT / "benchmarks" / "tasks" / f"{name}_record.py")
    assert task.train is not None and task.evaluate is not None and task.schedule is not None
    trained, test = reference(f"{name}-mnist", int(seed)), load("mnist").test
    result = sm.compress(
        channels_last(trained.model),
        sm.Plan.from_file(ROOT / "plans" / f"{name}-record.yaml"),
        budget=budget,
        train=task.train,
        evaluate=task.evaluate,
        schedule=replace(task.schedule, **SLOWLY.get(budget, {})),
        seed=int(seed),
        checkpoint=checkpoint("records", job),
        resume=True,
        report=lambda row: print(job, row.phase, row.index, row.error, row.size_bytes, flush=True),
    )
    compressed = result.apply_(copy.deepcopy(trained.model)).eval()
    return {
        "network": name,
        "budget": budget,
        "seed": int(seed),
        "reference_test_error": trained.test_error,
        "test_error": error(compressed, test.images, test.labels),
        "validation_error": result.error,
        "file_bytes": result.size_bytes,
        "ratio": result.ratio,
        "nonzero": {name: int(form.dense().count_nonzero()) for name, form in result.forms.items()},
        "epochs": sum(row.phase != "direct" for row in result.history),
        "verdict": result.verdict.name,
        "learn_seconds": sum(row.learn_seconds for row in result.history),
        "compress_seconds": sum(row.compress_seconds for row in result.history),
        "measure_seconds": sum(row.measure_seconds for row in result.history),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A row a network and budget: mean and spread over the seeds, and the best file by its validation error."""
    out = Table("network", "record to beat", "file bytes", "test error", "reference", box=None, pad_edge=False)
    for heading in ("seeds", "best file", "weights left", "epochs", "C steps / all"):
        out.add_column(heading, justify="right")
    for name, budget in dict.fromkeys((row["network"], row["budget"]) for row in rows):
        own = [row for row in rows if (row["network"], row["budget"]) == (name, budget)]
        best = min(own, key=lambda row: row["validation_error"])
        spent = [row["compress_seconds"] / sum(row[f"{k}_seconds"] for k in _SECONDS) for row in own]
        out.add_row(
            name,
            RECORDS[f"{name} {budget}"],
            f"{statistics.mean(row['file_bytes'] for row in own):,.0f}",
            _spread([row["test_error"] for row in own]),
            f"{statistics.mean(row['reference_test_error'] for row in own):.2f} %",
            str(len(own)),
            f"{best['file_bytes']:,} B, {best['test_error']:.2f} %",
            f"{sum(best['nonzero'].values()):,}",
            str(best["epochs"]),
            f"{100 * statistics.mean(spent):.0f} %",
        )
    return render(out, 160)


_SECONDS = ("learn", "compress", "measure")


def _spread(values: list[float]) -> str:
    around = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{around} %"


if __name__ == "__main__":
    run_jobs("records", __doc__, JOBS, run, table)
