"""Benchmarks of many long runs: every job is made once, goes on where it was ended, and is gathered into one result.

What another machine made of a job stays in the result until it is made here.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import RESULTS, piece, place, read_result, write_result
from summands.zoo.train import flushed_denormals

Row = dict[str, Any]


def checkpoint(benchmark: str, job: str) -> Path:
    """Where a job keeps the state of its run."""
    path = place(benchmark, job).with_suffix(".checkpoint")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def run_jobs(
    benchmark: str,
    doc: str | None,
    jobs: Sequence[str],
    run: Callable[[str], Row],
    table: Callable[[list[Row]], str],
    *,
    default: Sequence[str] | None = None,
    others: Callable[[], list[Row]] = list,
    picture: Callable[[list[Row]], None] | None = None,
) -> None:
    """The command line of such a benchmark.

    Args:
        jobs: all there are; `default` are those that run when none is named.
        run: makes the row of a job; "seed" is in it.
        table: of the rows, for reading.
        others: rows of other results, put before these.
        picture: draws the rows of the result that is written.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"of {len(jobs)}, such as {jobs[0]!r}; --list shows all")
    parser.add_argument("--gather", action="store_true", help="make no runs; write the results of those there are")
    parser.add_argument("--list", action="store_true", help="print the jobs, those that are done with a star")
    arguments = parser.parse_args()
    if unknown := [job for job in arguments.jobs if job not in jobs]:
        parser.error(f"no such job: {', '.join(map(repr, unknown))}; --list shows all")
    if arguments.list:
        print(*(f"{'*' if place(benchmark, job).is_file() else ' '} {job}" for job in jobs), sep="\n")
        return
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with flushed_denormals():
        for job in [] if arguments.gather else arguments.jobs or default or jobs:
            print(piece(benchmark, job, partial(run, job)), flush=True)
    made = {row["job"]: row for row in _result(benchmark) if "job" in row}
    made |= {job: {"job": job, **piece(benchmark, job, dict)} for job in jobs if place(benchmark, job).is_file()}
    rows = [*others(), *(made[job] for job in jobs if job in made)]
    print("\n" + table(rows))
    if arguments.gather or not arguments.jobs:
        print(f"\nwrote {write_result(benchmark, rows, seeds=sorted({row['seed'] for row in rows}))}")
        if picture is not None:
            picture(rows)


def _result(benchmark: str) -> list[Row]:
    return read_result(benchmark)["figures"] if (RESULTS / f"{benchmark}.json").is_file() else []
