"""Issue: is a sum of two low-rank terms in two shapes better than the best single shape? (DCC 2021)

Kernels: every convolution of trained networks. The best single view stores a share of the kernel's numbers, its rank
being a whole number; the two-view sum may store as many and no more. Views are the named ones and the four most square
reshapes; pairs are screened by a few fits, the best four fitted for five ways of sharing. "Error" is the squared one
over ||w||^2.

Learning: LeNet-5 on MNIST by LC, ranks and views by one price for the same file, with one term a weight and with two.
The iterate is chosen on validation data; the test error is measured once a run.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

import summands as sm
from benchmarks.record import RESULTS, piece, write_result
from summands.compressions.spectral import Spectrum
from summands.forms import Form, LowRank
from summands.report.tables import render
from summands.views import Reshape, View, every_view
from summands.zoo.cache import cache_dir
from summands.zoo.data import load
from summands.zoo.train import error, reference

NETWORKS = ("lenet5-mnist", "resnet20-fashion-mnist")
SHARES = (0.1, 0.2, 0.4)
KEPT, RESHAPES = 4, 4
ONE = 'LowRank("auto", view="auto", dtype="float16")'
PLANS = {"one view": ONE, "two views": f"{ONE} + {ONE}"}
SCHEDULE = sm.Schedule(steps=12, mu0=1e-3, growth=1.4, epochs=1, finetune=6)
BUDGETS = ("40 kB", "20 kB")


def views_of(shape: Sequence[int]) -> list[View]:
    """The named views and the most square reshapes."""
    every = every_view(shape)
    reshapes = [view for view in every if isinstance(view, Reshape)]
    reshapes.sort(key=lambda view: sum(view.matrix_shape(shape)))
    return [view for view in every if not isinstance(view, Reshape)] + reshapes[:RESHAPES]


def kernel_rows(name: str, weight: Tensor) -> list[dict[str, Any]]:
    """One row a share: the best single view and the best sum of two that stores no more."""
    weight = weight.double()
    energy = float(weight.square().sum())
    views = views_of(weight.shape)
    each = {view: sum(view.matrix_shape(weight.shape)) for view in views}
    tails = {view: Spectrum.of(view.to_matrix(weight)).tails() for view in views}
    rows = []
    for share in SHARES:
        numbers = share * weight.numel()
        ranks = {view: min(int(numbers / each[view]), len(tails[view]) - 1) for view in views}
        single = min(views, key=lambda view: float(tails[view][ranks[view]]))
        stored = ranks[single] * each[single]
        if not stored:
            continue
        row = {
            "weight": name,
            "share": share,
            "dense_numbers": weight.numel(),
            "single_view": str(single),
            "single_rank": ranks[single],
            "single_numbers": stored,
            "single_error": float(tails[single][ranks[single]]) / energy,
        }
        found = best_sum(weight, views, stored)
        if found is not None:
            value, pair, pair_ranks = found
            row |= {
                "sum_views": [str(view) for view in pair],
                "sum_ranks": list(pair_ranks),
                "sum_numbers": sum(r * each[v] for v, r in zip(pair, pair_ranks, strict=True)),
                "sum_error": value / energy,
            }
        rows.append(row)
    return rows


def best_sum(
    weight: Tensor, views: Sequence[View], numbers: int
) -> tuple[float, tuple[View, ...], tuple[int, ...]] | None:
    """The least error of two terms with at most so many numbers together: pairs screened, then fitted."""
    screened = []
    for pair in itertools.combinations(views, 2):
        ranks = shared(weight, pair, numbers, 0.5)
        if ranks is not None:
            screened.append((fitted(weight, pair, ranks, 4), pair))
    tried = []
    for _, pair in sorted(screened, key=lambda item: item[0])[:KEPT]:
        for part in (0.1, 0.25, 0.5, 0.75, 0.9):
            ranks = shared(weight, pair, numbers, part)
            if ranks is not None:
                tried.append((fitted(weight, pair, ranks, 40), pair, ranks))
    return min(tried, key=lambda item: item[0], default=None)


def shared(weight: Tensor, pair: Sequence[View], numbers: int, part: float) -> tuple[int, int] | None:
    """Ranks of at least 1 that share the numbers, about `part` of them the first term's."""
    first, second = (sum(view.matrix_shape(weight.shape)) for view in pair)
    most = [min(view.matrix_shape(weight.shape)) for view in pair]
    a = min(max(1, int(part * numbers / first)), most[0])
    b = min((numbers - a * first) // second, most[1])
    return (a, b) if b >= 1 else None


def fitted(weight: Tensor, pair: Sequence[View], ranks: Sequence[int], fits: int) -> float:
    """The squared error after so many fits of both terms in turn, from either of them first."""
    best = float("inf")
    for order in ((0, 1), (1, 0)):
        terms = [torch.zeros_like(weight), torch.zeros_like(weight)]
        last = float("inf")
        for _ in range(fits):
            for k in order:
                view = pair[k]
                left, right = Spectrum.of(view.to_matrix(weight - terms[1 - k])).factors(ranks[k])
                terms[k] = view.to_tensor(left @ right, weight.shape)
            now = float((weight - terms[0] - terms[1]).square().sum())
            if last - now < 1e-4 * now:
                break
            last = now
        best = min(best, now)
    return best


def learn(rule: str, budget: str) -> dict[str, Any]:
    """LC on LeNet-5 within a budget."""
    data, trained = load("mnist"), reference("lenet5-mnist")
    plan = sm.Plan({"*.weight": rule}, ignore=["*.bias"])
    result = sm.compress(
        trained.model,
        plan,
        budget=budget,
        train=sm.SGD((data.train.images, data.train.labels), lr=0.02, decay=0.95),
        evaluate=lambda model: error(model, data.validation.images, data.validation.labels),
        schedule=SCHEDULE,
        checkpoint=folder() / f"{'two' if '+' in rule else 'one'}-{budget.replace(' ', '')}.checkpoint",
        resume=True,
        report=lambda row: print(row.phase, row.index, row.error, row.size_bytes, flush=True),
    )
    compressed = result.apply_(copy.deepcopy(trained.model))
    direct = sm.compress(trained.model, plan, budget=budget)
    return {
        "budget": budget,
        "file_bytes": result.size_bytes,
        "direct_error": direct.relative_errors,
        "validation_error": result.error,
        "test_error": error(compressed, data.test.images, data.test.labels),
        "reference_test_error": trained.test_error,
        "ranks": {name: _ranks(form) for name, form in result.forms.items()},
        "verdict": result.verdict.name,
    }


def _ranks(form: Form) -> list[list[Any]]:
    return [[str(part.view), part.rank] for part in form.parts() if isinstance(part, LowRank)]


def table(figures: dict[str, Any]) -> str:
    """Per kernel and share; then what LC makes of it."""
    out = Table(
        "kernel", "share", "best single view", "error", "two views", "error", "sum / single", box=None, pad_edge=False
    )
    for row in figures["kernels"]:
        both = [f"{v} {r}" for v, r in zip(row.get("sum_views", ()), row.get("sum_ranks", ()), strict=True)]
        out.add_row(
            row["weight"],
            f"{row['share']:.0%}",
            f"{row['single_view']} {row['single_rank']}",
            f"{row['single_error']:.4f}",
            " + ".join(both) or "no room",
            f"{row['sum_error']:.4f}" if both else "-",
            f"{row['sum_error'] / row['single_error']:.3f}" if both and row["single_error"] else "-",
        )
    parts = [render(out)]
    if figures["learning"]:
        learned = Table("LeNet-5, LC", "budget", "file bytes", "test error", "validation", box=None, pad_edge=False)
        for row in figures["learning"]:
            learned.add_row(
                row["terms"],
                row["budget"],
                f"{row['file_bytes']:,}",
                f"{row['test_error']:.2f} % (reference {row['reference_test_error']:.2f})",
                f"{row['validation_error']:.2f} %",
            )
        parts.append(render(learned))
    return "\n\n".join(parts)


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """The error of the sum over that of the best single view, kernel by kernel, a line a share."""
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(row["weight"] for row in rows))
    figure, axes = plt.subplots(figsize=(9, 0.26 * len(names) + 1.4), constrained_layout=True)
    for share, colour in zip(SHARES, ("#2a6f97", "#e07a5f", "#81b29a"), strict=True):
        own = [row for row in rows if row["share"] == share and row.get("sum_error") is not None]
        ratios = [row["sum_error"] / row["single_error"] for row in own]
        axes.plot(ratios, [names.index(row["weight"]) for row in own], "o", ms=4, color=colour, label=f"{share:.0%}")
    axes.axvline(1, color="#1b2a41", lw=1)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("squared error of two views / best single view, at equal storage (share of the dense kernel)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def folder() -> Path:
    """Where finished pieces wait."""
    path = cache_dir() / "benchmarks" / "reshaped"
    path.mkdir(parents=True, exist_ok=True)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--learn", type=int, default=len(BUDGETS), help="so many budgets of the LC part")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_flush_denormal(True)
    kernels: list[dict[str, Any]] = []
    for network in arguments.networks:
        for name, weight in reference(network).model.named_parameters():
            if weight.ndim == 4:
                full = f"{network.split('-')[0]} {name.removesuffix('.weight')}"
                rows = piece("reshaped", full, partial(kernel_rows, full, weight.detach()))
                print(
                    full, *(f"{r['share']:.0%} {r['single_error']:.4f} {r.get('sum_error')}" for r in rows), flush=True
                )
                kernels += rows
    learning = [
        {"terms": terms, **piece("reshaped", f"{terms} {budget}", partial(learn, rule, budget))}
        for budget in BUDGETS[: arguments.learn]
        for terms, rule in PLANS.items()
    ]
    figures = {"kernels": kernels, "learning": learning}
    print("\n" + table(figures))
    print(f"\nwrote {write_result('reshaped', figures, seeds=[0])}")
    picture(kernels, RESULTS / "reshaped.png")


if __name__ == "__main__":
    main()
