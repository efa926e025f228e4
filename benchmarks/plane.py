"""One picture of all: error against file bytes of LeNet-5 on MNIST, every way of the other result files and the limit.

Learned: the combinations of `search`, and the record's plan of `records`. Without data: our grids and NNCodec's files
of `coding`. A peer's printed figures where it prints both numbers. The limit is measured here: the trained weights on a
grid of one step, and the bits that no code of independent entries goes below at the squared errors which that makes
in every weight, R(D) of each weight's own histogram. Files go below it where errors are spread better than a plain
grid does, or the weights are moved by learning. The runs of `search` see 1.4 epochs of images in all.

Test errors. Each learned file was chosen on validation data. The table and the curves without data are read off by test
error, which flatters a way the more points it has (grids and NNCodec: a dozen or more).
"""

from __future__ import annotations

import copy
import os
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

STEPS = (0.02, 0.03, 0.045, 0.06, 0.08, 0.1, 0.12)
PRINTED = {"EPR (Oktay et al. 2020)": (2840, 0.95)}
"""Bytes and error; its error is printed as .9 to 1.0 %."""
PICTURE = Path(__file__).parent.parent / "docs" / "figures" / "plane.svg"
Points = list[tuple[float, float]]


def limit() -> list[dict[str, float]]:
    """For every step the bytes of the file, of the limit, and the test error of both."""
    trained, test = reference("lenet5-mnist"), load("mnist").test
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
    search = next(each for each in read_result("search")["figures"] if each["network"] == "lenet5_mnist")
    for run in search["runs"]:
        if run["status"] == "finished":
            found.setdefault(f"{run['combination']}, learned", []).append((run["file_bytes"], run["test_error"]))
    for row in read_result("records")["figures"]:
        if row["network"] == "lenet5":
            found.setdefault("priced grid, learned longer", []).append((row["file_bytes"], row["test_error"]))
    names = {"ours": "grids without data", "nncodec": "NNCodec without data"}
    for row in read_result("coding")["figures"]["curves"]:
        if row["network"] == "lenet5-mnist" and row["codec"] in names:
            found.setdefault(names[row["codec"]], []).append((row["bytes"], row["test_error"]))
    found["limit at plain rounding's errors"] = [(row["limit_bytes"], row["test_error"]) for row in limits]
    return {name: sorted(points) for name, points in found.items()} | {k: [v] for k, v in PRINTED.items()}


def table(figures: Mapping[str, Any]) -> str:
    """The smallest file of every way with at most one, and two per cent error."""
    out = Table("LeNet-5, MNIST", "bytes at <= 1.0 %", "error", "bytes at <= 2.0 %", "error", box=None, pad_edge=False)
    for name, points in figures["curves"].items():
        cells = []
        for most in (1.0, 2.0):
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
    for i, (name, points) in enumerate(named.items()):
        style = {"color": "black", "ls": ":"} if name.startswith("limit") else {"color": f"C{i % 10}"}
        if "without data" in name:
            points = _hull(points)
            style["ls"] = "--"
        if len(points) == 1:
            axes.plot(*points[0], "*", ms=13, label=name, color=style["color"])
        else:
            axes.plot(*zip(*points, strict=True), marker="o", ms=3, lw=1.3, label=name, **style)
    axes.set(xscale="log", yscale="log", xlabel="bytes of the whole file", ylabel="test error, %")
    axes.set(xlim=(2000, 400_000), ylim=(0.6, 20), title="LeNet-5 on MNIST: 1.72 MB as float32")
    axes.set_yticks([0.7, 1, 2, 5, 10, 20], ["0.7", "1", "2", "5", "10", "20"])
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
    figures = {"limit": limits, "curves": curves(limits)}
    print(table(figures))
    picture(figures["curves"], PICTURE)
    print(f"wrote {write_result('plane', figures, seed=0).name} and docs/figures/{PICTURE.name}")


if __name__ == "__main__":
    main()
