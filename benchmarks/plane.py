"""One picture of all: error against file bytes of LeNet-300-100 on MNIST, every way of the other results and the limit.

Learned: the combinations of `search` but its grids, which are those of `equal_error` once more (priced grid, 24 epochs
both), and the record's plan (`records`, 40 epochs), with weight decay but in one file. Calibrated, from 1,024 images
without labels: `equal_error`. Without data: our grids and NNCodec's files of `coding`. A peer's printed figures where
it prints both numbers. The limit is measured here: the trained weights on a grid of one step, and the bits that no code
of independent entries goes below at the squared errors which that makes in every weight, R(D) of each weight's own
histogram. Files go below it where errors are spread better than a plain grid does, or the weights are moved by
learning. Seed 0, but the records are the mean over three.

Test errors. Each learned file was chosen on validation data. The table and the curves without data are read off by test
error, which flatters a way the more points it has (grids and NNCodec: a dozen or more).
"""

from __future__ import annotations

import copy
import os
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

import summands as sm
from benchmarks.record import read_result, write_result
from summands.coding.limits import limits_of
from summands.report.tables import render
from summands.zoo.data import load
from summands.zoo.train import error, reference

STEPS = (0.03, 0.05, 0.07, 0.09, 0.12, 0.15, 0.18)
PRINTED = {"EPR (Oktay et al. 2020)": (8560, 1.9)}
"""Bytes and error."""
PICTURE = Path(__file__).parent.parent / "docs" / "figures" / "plane.svg"
Points = list[tuple[float, float]]


def limit() -> list[dict[str, float]]:
    """For every step the bytes of the file, of the limit, and the test error of both."""
    trained, test = reference("lenet300-mnist"), load("mnist").test
    rows = []
    for step in STEPS:
        result = sm.compress(trained.model, sm.Plan({"*.weight": f"Grid({step})", "*.bias": "Keep('float16')"}))
        bits = 0.0
        for name, weight in trained.model.named_parameters():
            if name.endswith(".bias"):
                bits += 16 * weight.numel()
                continue
            left = weight.detach().double() - result.forms[name].dense().double()
            bits += weight.numel() * limits_of(weight, float(left.square().mean()))[0]
        found = error(result.apply_(copy.deepcopy(trained.model)).eval(), test.images, test.labels)
        rows.append({"step": step, "file_bytes": result.size_bytes, "limit_bytes": bits / 8, "test_error": found})
    return rows


def curves(limits: list[dict[str, float]]) -> dict[str, Points]:
    """(bytes, test error) by name, from here and the other result files."""
    found: dict[str, Points] = {}
    for search in read_result("search")["figures"]:
        for run in search["runs"]:
            if search["network"] == "lenet300_mnist" and run["combination"] != "Grid" and run["status"] == "finished":
                found.setdefault(f"{run['combination']}, learned", []).append((run["file_bytes"], run["test_error"]))
    names = {"LC": "priced grid, learned", "calibrated": "priced grid, calibrated"}
    for row in read_result("equal_error")["figures"]:
        if (row["network"], row["seed"]) == ("lenet300-mnist", 0) and row["codec"] in names:
            found.setdefault(names[row["codec"]], []).append((row["bytes"], row["test_error"]))
    records = [row for row in read_result("records")["figures"] if row["network"] == "lenet300"]
    for budget in {row["budget"]: None for row in records}:
        own = [row for row in records if row["budget"] == budget]
        mean = tuple(statistics.mean(row[key] for row in own) for key in ("file_bytes", "test_error"))
        found.setdefault("priced grid, learned longer", []).append(mean)
    names = {"ours": "grids without data", "nncodec": "NNCodec without data"}
    for row in read_result("coding")["figures"]["curves"]:
        if (row["network"], row["seed"]) == ("lenet300-mnist", 0) and row["codec"] in names:
            found.setdefault(names[row["codec"]], []).append((row["bytes"], row["test_error"]))
    found["limit at plain rounding's errors"] = [(row["limit_bytes"], row["test_error"]) for row in limits]
    return {name: sorted(points) for name, points in found.items()} | {k: [v] for k, v in PRINTED.items()}


def table(figures: Mapping[str, Any]) -> str:
    """The smallest file of every way with at most so much error."""
    out = Table(
        "LeNet-300-100, MNIST", "bytes at <= 1.8 %", "error", "bytes at <= 2.5 %", "error", box=None, pad_edge=False
    )
    for name, points in figures["curves"].items():
        cells = []
        for most in (1.8, 2.5):
            size, at = min((tuple(p) for p in points if p[1] <= most), default=(None, None))
            cells += ["-", ""] if size is None else [f"{size:,.0f}", f"{at:.2f} %"]
        out.add_row(name, *cells)
    return render(out)


def picture(named: Mapping[str, Points], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "summands", "svg.fonttype": "none"})
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8.5, 5), layout="constrained")
    colours, greys = iter(f"C{i}" for i in range(10)), iter(("black", "0.4", "0.65"))
    for name, points in named.items():
        style: dict[str, Any]
        if name.startswith("limit"):
            style = {"color": "black", "ls": ":", "lw": 1.3}
        elif name.startswith("priced grid"):
            style = {"color": next(greys), "marker": "s", "ms": 4, "lw": 2}
        elif len(points) == 1:
            style = {"color": next(colours), "marker": "*", "ms": 13, "ls": ""}
        else:
            style = {"color": next(colours), "marker": "o", "ms": 3, "lw": 1.3}
        if "without data" in name:
            points, style = _hull(points), {**style, "ls": "--"}
        axes.plot(*zip(*points, strict=True), label=name, **style)
    axes.set(xscale="log", yscale="log", xlabel="bytes of the whole file", ylabel="test error, %")
    axes.set(xlim=(3600, 150_000), ylim=(1.4, 10), title="LeNet-300-100 on MNIST: 1.07 MB as float32")
    axes.set_yticks([1.5, 2, 3, 5, 10], ["1.5", "2", "3", "5", "10"])
    axes.minorticks_off()
    axes.grid(lw=0.3)
    axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _hull(points: Points) -> Points:
    """Those that no smaller file equals or betters."""
    best: Points = []
    for size, at in sorted(points):
        if not best or at < best[-1][1]:
            best.append((size, at))
    return best


def main() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    limits = limit()
    found = curves(limits)
    figures = {"limit": limits, "curves": found}
    print(table(figures))
    picture(found, PICTURE)
    print(f"wrote {write_result('plane', figures, seed=0).name} and docs/figures/{PICTURE.name}")


if __name__ == "__main__":
    main()
