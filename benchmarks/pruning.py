"""Which weights to prune? Error against file bytes and against sparsity, five architectures, one-shot and retrained.

Every way keeps a share of all weights of the network together, stored as float16 with their positions (biases and
BatchNorm as float16 too), in the same container. LAMP, ERK, uniform and global magnitude keep the largest, in numbers
of their own for each weight; "surp-*" keeps what SuRP picks first; "coded surp-*" is SuRP's own stream of picks, whose
values are sums of thresholds and not the weights'. BatchNorm's statistics are recomputed for every pruned network but
EfficientNet-Lite0, which was trained on millions of photos and would get those of eight.

One-shot: the trained network, pruned. Retrained: level after level, training only what is left (`summands.prune`); the
better of pruned and retrained on validation data is the level's result and goes on to the next. The errors shown are
on test data, measured once for every file; EfficientNet-Lite0's is its top-1 disagreement with the original on crops
of photos.

Every job's rows are kept in the cache and levels have checkpoints, so that a run goes on where it was ended;
`--gather` writes the result of the jobs that are done. What a job of another machine has in the result stays there.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.table import Table
from torch import Tensor, nn

import summands as sm
from benchmarks.record import RESULTS, read_result, write_result
from summands.report.tables import render
from summands.zoo.cache import cache_dir, store
from summands.zoo.data import load
from summands.zoo.train import RECIPES, channels_last, error, fit, reference

RULES = ("surp-paper", "surp-authors", "lamp", "erk", "uniform", "global")
CODED: dict[str, Literal["paper", "authors"]] = {"coded surp-paper": "paper", "coded surp-authors": "authors"}
WAYS = (*RULES, *CODED)
ONE_SHOT = (0.2, 0.36, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
FRAGILE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
COARSE = (0.2, 0.5, 0.7, 0.8, 0.9, 0.95)
RETRAINED = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
TO_999 = (0.92, 0.94, 0.96, 0.97, 0.98, 0.99, 0.992, 0.994, 0.996, 0.997, 0.998, 0.999)
SOURCE = sm.Pruning((*sm.Pruning.of_what_is_left(0.2, 10).levels, *TO_999), epochs=20)
"""The source's own schedule, 22 levels of 20 epochs: 20 % of what is left, later in smaller steps up to 99.9 %."""


@dataclass(frozen=True)
class Subject:
    """A network of the benchmark.

    Args:
        reference: its name in the zoo; None for one that was trained elsewhere.
        levels: at which it is pruned one-shot.
        epochs, lr: of retraining at each level; lr falls to 0 as a cosine. Data, augmentation, batch and decay are
            those of the reference's own training.
    """

    reference: str | None
    norms: bool = False
    levels: Sequence[float] = ONE_SHOT
    epochs: int = 1
    lr: float = 0.02


SUBJECTS = {
    "lenet300": Subject("lenet300-mnist", epochs=2),
    "lenet5": Subject("lenet5-mnist", epochs=2),
    "resnet20": Subject("resnet20-fashion-mnist", norms=True, lr=0.05),
    "vgg": Subject("vgg-fashion-mnist", norms=True, levels=COARSE),
    "efficientnet-lite0": Subject(None, norms=True, levels=FRAGILE),
}
JOBS = [f"one-shot:{name}:{way}" for name in SUBJECTS for way in WAYS]
JOBS += [f"retrained:{name}:{rule}:{seed}" for name in ("lenet300", "lenet5") for seed in (0, 1, 2) for rule in RULES]
JOBS += [f"retrained:resnet20:{rule}:0" for rule in ("surp-authors", "lamp", "global")]


@dataclass(frozen=True, eq=False)
class Measured:
    """A network, the error that is reported of it in percent, and inputs for its BatchNorm (none: as it is)."""

    model: nn.Module
    measure: Callable[[nn.Module], float]
    reference_error: float
    inputs: Sequence[Tensor]


def measured(name: str, seed: int = 0) -> Measured:
    subject = SUBJECTS[name]
    if subject.reference is None:
        from benchmarks.pretrained import network

        other = network(name)
        return Measured(other.model, lambda m: 100 * (1 - other.evaluate(m)["agreement"]), 0.0, ())
    trained, data = reference(subject.reference, seed), load(RECIPES[subject.reference].data)
    channels_last(trained.model)
    return Measured(
        trained.model,
        lambda model: error(model, data.test.images, data.test.labels),
        trained.test_error,
        data.train.images[:2560].split(128) if subject.norms else (),
    )


def plan_of(way: str, norms: bool) -> Callable[[float], sm.Plan]:
    """The plan of a way at a share of zeros."""

    def plan(sparsity: float) -> sm.Plan:
        rule: sm.Compression
        if way in CODED:
            rule = sm.Successive(sparsity, mode=CODED[way], per="task")
        else:
            rule = sm.PruneBy(way, keep=1 - sparsity, dtype="float16")
        norm = {"BatchNorm2d": "Keep('float16')"} if norms else {}
        return sm.Plan({"*.bias": "Keep('float16')", **norm, "*": rule})

    return plan


def one_shot(name: str, way: str) -> list[dict[str, Any]]:
    subject, known = SUBJECTS[name], measured(name)
    rows = []
    for sparsity in subject.levels:
        result = sm.compress(known.model, plan_of(way, subject.norms)(sparsity), inputs=known.inputs)
        rows.append(_row("one-shot", name, way, 0, sparsity, result, known))
    return rows


def retrained(name: str, way: str, seed: int, folder: Path) -> list[dict[str, Any]]:
    subject, known = SUBJECTS[name], measured(name, seed)
    recipe = RECIPES[subject.reference or ""]
    data = load(recipe.data)

    def train(model: nn.Module, penalty: object, step: sm.Step) -> float:
        losses: list[float] = []
        own = replace(recipe, epochs=step.epochs, lr=subject.lr, warmup=0.0, seed=step.seed)
        fit(model, data.train, own, after_epoch=lambda _, loss, __: losses.append(loss))
        return losses[-1]

    results = sm.prune(
        known.model,
        plan_of(way, subject.norms),
        sm.Pruning(RETRAINED, epochs=subject.epochs),
        train=train,
        evaluate=lambda model: error(model, data.validation.images, data.validation.labels),
        inputs=known.inputs,
        seed=seed,
        checkpoint=folder,
        resume=True,
        report=lambda row: print(name, way, seed, row.phase, row.error, row.size_bytes, flush=True),
    )
    pairs = zip(RETRAINED, results, strict=True)
    return [_row("retrained", name, way, seed, sparsity, result, known) for sparsity, result in pairs]


def _row(
    kind: str, name: str, way: str, seed: int, sparsity: float, result: sm.Result, known: Measured
) -> dict[str, Any]:
    weights = [form.dense() for key, form in result.forms.items() if result.rules[key].startswith(("Prune", "Succ"))]
    total = sum(w.numel() for w in weights)
    row = {
        "kind": kind,
        "network": name,
        "way": way,
        "seed": seed,
        "level": sparsity,
        "sparsity": 1 - sum(int(w.count_nonzero()) for w in weights) / total if total else 0.0,
        "file_bytes": result.size_bytes,
        "ratio": result.ratio,
        "validation_error": result.error,
        "error": known.measure(result.apply_(copy.deepcopy(known.model)).eval()),
        "reference_error": known.reference_error,
        "train_seconds": sum(step.learn_seconds for step in result.history),
    }
    print(f"{kind} {name} {way} {seed} {100 * sparsity:g} %: {row['error']:.2f} %, {row['file_bytes']:,} B", flush=True)
    return row


def run(job: str, folder: Path) -> list[dict[str, Any]]:
    """The rows of a job, measured once: kept in `folder`, with the checkpoints of what is under way."""
    kept = _kept(job, folder)
    if not kept.is_file():
        _, name, way, *seed = job.split(":")
        rows = retrained(name, way, int(seed[0]), kept.with_suffix("")) if seed else one_shot(name, way)
        store(kept, json.dumps(rows).encode())
    return json.loads(kept.read_text())


def _kept(job: str, folder: Path) -> Path:
    return folder / f"{job.replace(':', '_').replace(' ', '-')}.json"


def _known(job: str) -> list[dict[str, Any]]:
    """Its rows in the result file."""
    kind, name, way, *seed = job.split(":")
    return _of(read_result("pruning")["figures"], kind=kind, network=name, way=way, seed=int(seed[0]) if seed else 0)


def table(rows: list[dict[str, Any]]) -> str:
    """For each kind and network the error (mean and standard deviation over the seeds) and the kB at each level."""
    kinds = dict.fromkeys((row["kind"], row["network"]) for row in rows)
    return "\n\n".join(_table(kind, name, _of(rows, kind=kind, network=name)) for kind, name in kinds)


def _table(kind: str, name: str, rows: list[dict[str, Any]]) -> str:
    levels = sorted({row["level"] for row in rows})
    seeds = {row["seed"] for row in rows}
    before = _mean(rows, "reference_error")
    out = Table(f"{kind}, {name}: {before:.2f} %", box=None, pad_edge=False)
    out.columns[0].no_wrap = True
    for level in levels:
        out.add_column(f"{100 * level:g} %", justify="right")
    for way in dict.fromkeys(row["way"] for row in rows):
        own = [_of(rows, way=way, level=level) for level in levels]
        counts = f" ({len({r['seed'] for rs in own for r in rs})} of {len(seeds)} seeds)" if len(seeds) > 1 else ""
        out.add_row(way + counts, *(_cell(each) for each in own))
    return render(out, width=200)


def _cell(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    errors = [row["error"] for row in rows]
    spread = f"±{statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
    return f"{statistics.mean(errors):.2f}{spread} {_mean(rows, 'file_bytes') / 1000:.1f}k"


def _of(rows: list[dict[str, Any]], **fixed: Any) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[key] == value for key, value in fixed.items())]


def summary(rows: list[dict[str, Any]]) -> str:
    """For the docs: the picture, and the smallest file of each way whose error is within a point of the reference's."""
    ways = [way for way in WAYS if _of(rows, way=way)]
    lines = [
        "![Error against bytes and against sparsity](pruning.svg)",
        "",
        "kB of the smallest file measured whose error is at most one percentage point above the reference's, and its",
        'share of zeros (means over the seeds; "-": even the least pruned one loses more):',
    ]
    lines += ["", f"| network | reference | {' | '.join(ways)} |", f"|---|---|{'---|' * len(ways)}"]
    for kind, name in dict.fromkeys((row["kind"], row["network"]) for row in rows):
        own = _of(rows, kind=kind, network=name)
        before = _mean(own, "reference_error")
        cells = [_smallest(_of(own, way=way), before + 1) for way in ways]
        lines.append(f"| {name}, {kind} | {before:.2f} % | {' | '.join(cells)} |")
    return "\n".join(lines)


def _smallest(rows: list[dict[str, Any]], limit: float) -> str:
    if not rows:
        return ""
    levels = [_of(rows, level=level) for level in sorted({row["level"] for row in rows})]
    fitting = [own for own in levels if _mean(own, "error") <= limit]
    if not fitting:
        return "-"
    best = min(fitting, key=lambda own: _mean(own, "file_bytes"))
    return f"{_mean(best, 'file_bytes') / 1000:.1f} ({100 * best[0]['level']:g} %)"


def _mean(rows: list[dict[str, Any]], key: str) -> float:
    return statistics.mean(row[key] for row in rows)


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Error against file bytes and against sparsity, a pair of drawings for each kind and network, as SVG."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "summands", "svg.fonttype": "none"})
    import matplotlib.pyplot as plt

    kinds = list(dict.fromkeys((row["kind"], row["network"]) for row in rows))
    figure, grid = plt.subplots(len(kinds), 2, figsize=(11, 3.3 * len(kinds)), layout="constrained", squeeze=False)
    for (kind, name), pair in zip(kinds, grid, strict=True):
        own = [{**row, "kept": 1 - row["sparsity"]} for row in _of(rows, kind=kind, network=name)]
        for place, axes in zip(("file_bytes", "kept"), pair, strict=True):
            for i, way in enumerate(WAYS):
                points = [_of(own, way=way, level=level) for level in sorted({row["level"] for row in own})]
                means = [[_mean(p, key) for p in points if p] for key in (place, "error")]
                style = "--" if way in CODED else "-"
                colour = f"C{i if way in RULES else RULES.index(way.removeprefix('coded '))}"
                axes.plot(*means, style, color=colour, marker="o", ms=3, lw=1.2, label=way)
            axes.axhline(_mean(own, "reference_error"), color="black", lw=0.8)
            axes.set(title=f"{name}, {kind}", ylabel="error, %", yscale="symlog", ylim=(0, 100))
            axes.set(xlabel="bytes of the file" if place == "file_bytes" else "zeros, %", xscale="log")
        shown = sorted({row["level"] for row in own})
        pair[1].invert_xaxis()
        pair[1].set_xticks([1 - level for level in shown], [f"{100 * level:g}" for level in shown], fontsize=7)
        pair[1].minorticks_off()
    grid[0][1].legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="*", help="such as one-shot:lenet5:lamp or retrained:lenet5:lamp:0; default: all")
    parser.add_argument("--gather", action="store_true", help="measure nothing; write the result of what is done")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_flush_denormal(True)
    folder = cache_dir() / "benchmarks" / "pruning"
    if not arguments.gather:
        for job in arguments.jobs or JOBS:
            run(job, folder)
    if arguments.gather or not arguments.jobs:
        rows = [row for job in JOBS for row in (run(job, folder) if _kept(job, folder).is_file() else _known(job))]
        print(table(rows))
        written = write_result("pruning", rows, seeds=sorted({row["seed"] for row in rows}))
        picture(rows, RESULTS.parent.parent / "docs" / "pruning.svg")
        print(f"wrote {written.name} and docs/pruning.svg")


if __name__ == "__main__":
    main()
