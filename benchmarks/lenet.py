"""Issue: does a sum learned by LC keep the error at 25x? LeNet-300-100 on MNIST, whole files, several seeds.

Structures: 1 bit a weight + 1 % floats (directly; directly and fine-tuned; by LC), 1 bit a weight alone, and pruning
alone at similar bytes; equal epochs of training for all three ways of learning. The iterate is chosen on validation
data; the test error is measured once a run.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from dataclasses import replace
from typing import Any

import torch
from rich.table import Table

import summands as sm
from benchmarks.record import write_result
from summands.report.tables import render
from summands.zoo.data import load
from summands.zoo.train import error, reference

BIASES = {"*.bias": "Keep('float16')"}
SUM = sm.Plan({"*.weight": "Quantize(2) + Prune(keep=0.01, dtype='float16')", **BIASES})
QUANTISED = sm.Plan({"*.weight": "Quantize(2)", **BIASES})
# One budget of kept weights over the whole net; as many as make a file of about the sum's length.
PRUNED = sm.Plan({"*.weight": "Prune(keep=0.065, dtype='float16', per='task')", **BIASES})
SCHEDULE = sm.Schedule(steps=30, mu0=1e-3, growth=1.15, epochs=1, finetune=10)
EPOCHS = SCHEDULE.steps * SCHEDULE.epochs + SCHEDULE.finetune
WAYS: dict[str, tuple[sm.Plan, sm.Schedule | None]] = {
    "Q(2) + P(1 %), direct": (SUM, None),
    "Q(2) + P(1 %), direct + fine-tuning": (SUM, replace(SCHEDULE, steps=0, finetune=EPOCHS)),
    "Q(2) + P(1 %), LC": (SUM, SCHEDULE),
    "Q(2), LC": (QUANTISED, SCHEDULE),
    "P(6.5 %), LC": (PRUNED, SCHEDULE),
}


def run(way: str, seed: int) -> dict[str, Any]:
    """One row: a way of compressing the reference of this seed."""
    data = load("mnist")
    trained = reference("lenet300-mnist", seed)
    plan, schedule = WAYS[way]
    learning: dict[str, Any] = {}
    if schedule is not None:
        learning = {
            "train": sm.SGD((data.train.images, data.train.labels), decay=0.98, weight_decay=5e-4),
            "evaluate": lambda model: error(model, data.validation.images, data.validation.labels),
            "schedule": schedule,
            "seed": seed,
        }
    began = time.process_time()
    result = sm.compress(trained.model, plan, **learning)
    seconds = time.process_time() - began
    compressed = result.apply_(copy.deepcopy(trained.model))
    return {
        "way": way,
        "seed": seed,
        "reference_test_error": trained.test_error,
        "test_error": error(compressed, data.test.images, data.test.labels),
        "validation_error": result.error,
        "file_bytes": result.size_bytes,
        "ratio": result.ratio,
        "paper_ratio": result.paper_ratio,
        "epochs": 0 if schedule is None else EPOCHS,
        "seconds": seconds,
        "verdict": result.verdict.name,
        "learn_seconds": sum(row.learn_seconds for row in result.history),
        "compress_seconds": sum(row.compress_seconds for row in result.history),
        "measure_seconds": sum(row.measure_seconds for row in result.history),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and spread over the seeds."""
    out = Table("LeNet-300-100, MNIST", box=None, pad_edge=False)
    for heading in ("test error", "- reference", "file bytes", "ratio", "LC-accounting", "epochs"):
        out.add_column(heading, justify="right")
    for way in dict.fromkeys(row["way"] for row in rows):
        own = [row for row in rows if row["way"] == way]
        errors = [row["test_error"] for row in own]
        spread = f" +- {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
        rise = statistics.mean(row["test_error"] - row["reference_test_error"] for row in own)
        out.add_row(
            way,
            f"{statistics.mean(errors):.2f}{spread} %",
            f"{rise:+.2f}",
            f"{statistics.mean(row['file_bytes'] for row in own):,.0f}",
            f"{statistics.mean(row['ratio'] for row in own):.2f}x",
            f"{statistics.mean(row['paper_ratio'] for row in own):.1f}x",
            str(own[0]["epochs"]),
        )
    return render(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_flush_denormal(True)
    rows = []
    for seed in arguments.seeds:
        for way in WAYS:
            rows.append(run(way, seed))
            last = rows[-1]
            print(f"seed {seed}  {way}: {last['test_error']:.2f} %, {last['file_bytes']:,} bytes", flush=True)
    print("\n" + table(rows))
    print(f"\nwrote {write_result('lenet', rows, seeds=arguments.seeds)}")


if __name__ == "__main__":
    main()
