"""Which combination for this network? Every combination at four or five budgets, by `summands search` itself.

LeNet-300-100 on Fashion-MNIST: 8 LC steps of an epoch each and 3 epochs of fine-tuning; on MNIST, for the picture of
`plane`, 20 and 4. LeNet-5 on MNIST: 8 and 3 with an eighth of the images in each step. One seed; no run is stopped
early. Of the files of one budget the best is chosen by the validation error (5,000 images); the test error is measured
once on each finished file. The question: is the best sum at least as good as each single compression, at every budget?
`python -m benchmarks.search` goes on where it ended.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

import summands as sm
from benchmarks.record import RESULTS, read_result, write_result
from summands.journal import read_runs
from summands.report.axes import standalone
from summands.report.charts import plane
from summands.report.progress import SearchProgress
from summands.report.tables import render
from summands.runner import describe, options_of, run_search
from summands.selection.search import chosen_combinations, front, trials
from summands.taskfile import load_task
from summands.zoo.data import load
from summands.zoo.train import RECIPES, error, reference

TASKS = Path(__file__).parent / "tasks"


@dataclass(frozen=True)
class Subject:
    """A network of the zoo by its reference, the budgets, and what is tried within each."""

    reference: str
    budgets: Sequence[str]
    combinations: Sequence[str]


SINGLES = ("Q", "P", "L")
NETWORKS = {
    "lenet300_fashion": Subject(
        "lenet300-fashion-mnist",
        ("16x", "28x", "48x", "80x", "128x"),
        (*SINGLES, "Q+P", "L+P", "Q+L", "Q+L+P"),
    ),
    "lenet300_mnist": Subject(
        "lenet300-mnist",
        ("27x", "53x", "88x", "133x"),
        (*SINGLES, "Q+P", "L+P", "Q+L", "Q+L+P", "Grid=Grid('auto')"),
    ),
    "lenet5_mnist": Subject("lenet5-mnist", ("32x", "64x", "100x", "160x", "250x"), (*SINGLES, "Q+P", "L+P")),
}


def make_runs(name: str, folder: Path, combinations: Sequence[str], budgets: Sequence[str], jobs: int) -> None:
    """All runs of one network that are still to be made."""
    path = TASKS / f"{name}.py"
    task = load_task(path)
    network = task.network()
    assert task.schedule is not None
    options = options_of(task, task.schedule, 0)
    wanted = trials(network, budgets, chosen_combinations(combinations), options=options)
    with SearchProgress(len(wanted)) as progress:
        run_search(path, lambda: describe(task, path, network), wanted, folder, jobs=jobs, progress=progress)


def figures(name: str, folder: Path) -> dict[str, Any]:
    """The runs of one network with the test error of every finished file; draws its picture."""
    subject = NETWORKS[name]
    search, runs = read_runs(folder)
    trained, test = reference(subject.reference), load(RECIPES[subject.reference].data).test
    best = {run.id for run in front(runs)}
    picture = RESULTS / f"search-{name}.svg"
    picture.write_text(standalone(plane(search, runs, best, named=True)) + "\n")
    rows = []
    for run in sorted(runs, key=lambda run: -run.limit):
        test_error = None
        if run.status == "finished":
            network = sm.load(folder / run.id / "model.sums", into=reference(subject.reference).model)
            test_error = error(network.eval(), test.images, test.labels)
        rows.append(
            {
                "combination": run.combination,
                "budget": run.budget,
                "limit_bytes": run.limit,
                "status": run.status,
                "message": run.message,
                "validation_error": run.error,
                "test_error": test_error,
                "file_bytes": run.size_bytes,
                "on_front": run.id in best,
                "seconds": run.seconds,
                "compress_seconds": sum(row.compress_seconds for row in run.history),
            }
        )
    return {
        "network": name,
        "reference_validation_error": trained.validation_error,
        "reference_test_error": trained.test_error,
        "reference_bytes": search.reference_bytes,
        "picture": picture.name,
        "runs": rows,
    }


def is_sum(row: dict[str, Any]) -> bool:
    return "+" in row["combination"]


def is_single(row: dict[str, Any]) -> bool:
    """True for one part alone; `Auto` is neither, as it may choose either."""
    return not is_sum(row) and row["combination"] != "Auto"


def table(found: list[dict[str, Any]]) -> str:
    """For every budget each combination's errors, and the best sum beside the best single part."""
    return "\n\n".join(_table(network) for network in found)


def _table(network: dict[str, Any]) -> str:
    done = [row for row in network["runs"] if row["status"] == "finished"]
    budgets = list(dict.fromkeys(row["budget"] for row in network["runs"]))
    names = list(dict.fromkeys(row["combination"] for row in network["runs"]))
    out = Table(network["network"], box=None, pad_edge=False)
    for budget in budgets:
        out.add_column(budget, justify="right")
    for name in names:
        out.add_row(name, *(_cell(done, name, budget) for budget in budgets))
    singles = {b: _best(r for r in done if r["budget"] == b and is_single(r)) for b in budgets}
    sums = {b: _best(r for r in done if r["budget"] == b and is_sum(r)) for b in budgets}
    out.add_row("best sum", *(_name(sums[b]) for b in budgets))
    out.add_row("best single", *(_name(singles[b]) for b in budgets))
    out.add_row("sum - single", *(_difference(sums[b], singles[b]) for b in budgets))
    reference_errors = f"{network['reference_validation_error']:.2f} / {network['reference_test_error']:.2f} %"
    return f"{render(out)}\nvalidation / test error; reference {reference_errors}, {network['reference_bytes']:,} bytes"


def _cell(done: list[dict[str, Any]], name: str, budget: str) -> str:
    row = _best(row for row in done if (row["combination"], row["budget"]) == (name, budget))
    if row is None:
        return "-"
    star = "*" if row["on_front"] else ""
    return f"{star}{row['validation_error']:.2f} / {row['test_error']:.2f}"


def _best(rows: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    return min(rows, key=lambda row: (row["validation_error"], row["file_bytes"]), default=None)


def _name(row: dict[str, Any] | None) -> str:
    return "-" if row is None else row["combination"]


def _difference(best_sum: dict[str, Any] | None, single: dict[str, Any] | None) -> str:
    if best_sum is None or single is None:
        return "-"
    return f"{best_sum['validation_error'] - single['validation_error']:+.2f}"


def verdict(network: dict[str, Any]) -> list[str]:
    """Where a single part beats the best sum by more than chance would: two standard errors of a paired difference.

    On n images with error shares p and q the difference has a standard error of at most sqrt((p + q) / n).
    """
    done = [row for row in network["runs"] if row["status"] == "finished"]
    lost = []
    for budget in dict.fromkeys(row["budget"] for row in done):
        own = [row for row in done if row["budget"] == budget]
        best_sum = _best(row for row in own if is_sum(row))
        single = _best(row for row in own if is_single(row))
        if best_sum is None or single is None:
            continue
        p, q = best_sum["validation_error"] / 100, single["validation_error"] / 100
        if p - q > 2 * math.sqrt((p + q) / 5000):
            lost.append(f"{budget}: {single['combination']} {100 * q:.2f} < {best_sum['combination']} {100 * p:.2f}")
    return lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=[], help=f"of {', '.join(NETWORKS)}; all by default")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="holds a folder of runs for each network")
    parser.add_argument("--combination", "-c", action="append", default=[])
    parser.add_argument("--budget", "-b", action="append", default=[])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="make no runs; write the results of those there are")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_flush_denormal(True)
    if not arguments.report:
        for name in arguments.networks or NETWORKS:
            combinations = arguments.combination or NETWORKS[name].combinations
            budgets = arguments.budget or NETWORKS[name].budgets
            make_runs(name, arguments.runs / name, combinations, budgets, arguments.jobs)
    kept = read_result("search")["figures"] if (RESULTS / "search.json").is_file() else []
    found = {each["network"]: each for each in kept}
    found |= {name: figures(name, arguments.runs / name) for name in NETWORKS if (arguments.runs / name).exists()}
    print("\n" + table(list(found.values())))
    for network in found.values():
        print(
            "\n".join(verdict(network))
            or f"{network['network']}: no single part beats the best sum by two standard errors"
        )
    # The command that makes all of it, as other networks may be of earlier runs.
    facts = {"command": "python -m benchmarks.search", "seeds": [0], "dashes": "not finished"}
    print(f"\nwrote {write_result('search', list(found.values()), **facts)}")


if __name__ == "__main__":
    main()
