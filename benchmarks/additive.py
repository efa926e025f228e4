"""Which sum suits which network? Claims of Part V (Carreira-Perpinan and Idelbayev, 2107.04380, ECML 2021; DCC 2021).

ResNets (and AlexNet): one bit for every weight and a few floating-point weights, Q(2) + P, lose nothing against the
reference, while quantisation alone and pruning alone at the same bytes lose more. VGG: low rank and a few
floating-point weights, L + P, are best at equal bytes. And sums of two or three low-rank terms in views of their own
are better than the best single view, at equal storage and at equal FLOPs ("216 kB: 2 views").

The paper's networks on Fashion-MNIST, since CIFAR-10 and ImageNet are in no package (docs/sources.md has their
configurations). Learned by LC from the trained reference, all ways with equal epochs, batches and augmentation, in 8 L
steps and 2 epochs of fine-tuning; "straight through" in 5 and 5, in which codes move too; convolutions in bfloat16
while training where the processor has AVX-512 (elsewhere that is ten times slower; each row names its precision),
measured in float32. "Matched" ways may take as many bytes as the direct file of the named sum, and choose their own
hyperparameters by errors relative to each weight's norm (plain squared errors leave some layers of the VGG no rank at
all). BatchNorm and biases are float16 throughout; sizes are of whole files. Another machine trains another reference:
what began with it has a table of its own. The iterate is chosen on 5,000 validation images; the test error is measured
once a run. One seed.

    python -m benchmarks.additive                      # or some jobs, such as "resnet20: Q + P 3 %"

Runs are kept in the cache folder with checkpoints, and not made again; --gather writes the result of those there are.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

import summands as sm
from benchmarks.jobs import checkpoint, run_jobs
from summands.lc.training import Train
from summands.report.tables import render
from summands.selection.search import COMBINATIONS
from summands.zoo.data import Split, load
from summands.zoo.train import RECIPES, Batches, Recipe, channels_last, error, reference

KEPT = "Keep('float16')"
FIXED = {
    "Q": "Quantize(2)",
    "Q + P 1 %": "Quantize(2) + Prune(keep=0.01, dtype='float16')",
    "Q + P 3 %": "Quantize(2) + Prune(keep=0.03, dtype='float16')",
    "Q + P 5 %": "Quantize(2) + Prune(keep=0.05, dtype='float16')",
}
_VIEW = 'LowRank("auto", view="auto", dtype="float16")'
CHOSEN = {**COMBINATIONS, "1 view": _VIEW, "2 views": f"{_VIEW} + {_VIEW}", "3 views": f"{_VIEW} + {_VIEW} + {_VIEW}"}
SCHEDULE = sm.Schedule(steps=8, mu0=1e-2, growth=1.7, finetune=2)
LR, DECAY = 0.05, 0.78
THRICE = replace(SCHEDULE, steps=24, growth=SCHEDULE.growth ** (1 / 3), finetune=6)
"""The same rise of mu in three times as many steps."""
BFLOAT16 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")


STRAIGHT = replace(SCHEDULE, steps=5, growth=2.53, finetune=5, straight_through=True)
"""About the same rise of mu in fewer steps, and the epochs that are left for codes that follow latent weights."""


@dataclass(frozen=True)
class Subject:
    """A network of the benchmark.

    Args:
        reference: its name in the zoo.
        ways: names in FIXED, or a budget, ": " and a name in CHOSEN.
        matched: the way in FIXED whose bytes are the budget "matched".
        schedule: of the LC loop.
        decay: of the learning rate from step to step.
        note: what the table adds to the names of its ways.
    """

    reference: str
    ways: Sequence[str]
    matched: str
    schedule: sm.Schedule = SCHEDULE
    decay: float = DECAY
    note: str = ""


RESNET20 = (*FIXED, *(f"matched: {name}" for name in ("Q", "P", "L", "L + P", "Q + L", "Q + L + P")))


def _views(*budgets: str) -> tuple[str, ...]:
    return tuple(f"{budget}: {name}" for budget in budgets for name in ("1 view", "2 views", "3 views"))


# The views' budgets are 40 % of ResNet-20's numbers, in 16 bits, and of its multiply-adds; 15 and 27 % of the VGG's;
# 5 and 26 % of LeNet-5's.
SUBJECTS = {
    "resnet20": Subject("resnet20-fashion-mnist", (*RESNET20, *_views("216 kB", "12 MFLOPs")), matched="Q + P 3 %"),
    "resnet20 in 30 epochs": Subject(
        "resnet20-fashion-mnist", ("Q + P 3 %",), matched="Q + P 3 %", schedule=THRICE, decay=DECAY ** (1 / 3)
    ),
    "resnet20 straight through": Subject(
        "resnet20-fashion-mnist",
        (*FIXED, "matched: Q", "matched: P"),
        matched="Q + P 3 %",
        schedule=STRAIGHT,
        decay=0.66,
        note=", straight through",
    ),
    "vgg": Subject(
        "vgg-fashion-mnist",
        (*(f"matched: {name}" for name in ("Q + P", "L + P", "P", "L", "Q")), *_views("240 kB", "4 MFLOPs")),
        matched="Q + P 1 %",
    ),
    # Without norms it goes to one bit more slowly: in a trial, 8 steps left 71 % error before fine-tuning.
    "alexnet": Subject(
        "alexnet-fashion-mnist",
        ("Q", "Q + P 1 %", "Q + P 3 %"),
        matched="Q + P 3 %",
        schedule=sm.Schedule(steps=14, mu0=1e-2, growth=1.5, finetune=6),
        decay=0.87,
    ),
    "alexnet straight through": Subject(
        "alexnet-fashion-mnist",
        ("Q", "Q + P 1 %", "Q + P 3 %"),
        matched="Q + P 3 %",
        schedule=sm.Schedule(steps=10, mu0=1e-2, growth=1.8, finetune=10, straight_through=True),
        decay=0.82,
        note=", straight through",
    ),
    "lenet5": Subject("lenet5-fashion-mnist", _views("40 kB", "0.6 MFLOPs"), matched="Q + P 1 %"),
    "resnet20-cifar": Subject("resnet20-cifar-10", RESNET20, matched="Q + P 3 %"),
}
ELSEWHERE = ("resnet20-cifar",)
"""Whose data is in no package: run by name alone, where its official address can be reached."""
JOBS = [f"{name}: {way}" for name, subject in SUBJECTS.items() for way in subject.ways]
DEFAULT = [job for job in JOBS if job.split(": ")[0] not in ELSEWHERE]


class Augmented:
    """One epoch of a recipe's batches for every iteration, another one each time."""

    def __init__(self, split: Split, recipe: Recipe) -> None:
        self._batches = Batches(split, recipe)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._batches.epoch(int(torch.randint(2**31, ())))


def training(recipe: Recipe, split: Split, lr: float = LR, decay: float = DECAY) -> Train:
    """SGD on the recipe's augmented images; weights and the penalty in float32 whatever the convolutions are in."""
    sgd = sm.SGD(
        Augmented(split, recipe),
        lr=lr,
        decay=decay,
        loss=lambda out, labels: F.cross_entropy(out.float(), labels),
    )

    def train(model: torch.nn.Module, penalty: Any, step: sm.Step) -> float:
        # Without its cache, which would keep the bfloat16 copies of weights that an optimiser has changed.
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=BFLOAT16, cache_enabled=False):
            return sgd(model, penalty, step)

    return train


def plan_of(model: torch.nn.Module, way: str) -> sm.Plan:
    """All biases and norms as they are, every other weight by the way."""
    text = FIXED[way] if way in FIXED else CHOSEN[way.split(": ")[1]]
    norms = any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    return sm.Plan({"*.bias": KEPT, **({"BatchNorm2d": KEPT} if norms else {}), "*": text})


def run(job: str) -> dict[str, Any]:
    name, way = job.split(": ", 1)
    subject, trained = SUBJECTS[name], reference(SUBJECTS[name].reference)
    data = load(RECIPES[subject.reference].data)
    channels_last(trained.model)
    budget = None if way in FIXED else way.split(": ")[0]
    if budget == "matched":
        budget = f"{sm.compress(trained.model, plan_of(trained.model, subject.matched)).size_bytes} B"
    began = time.process_time()
    result = sm.compress(
        trained.model,
        plan_of(trained.model, way),
        budget=budget,
        importance=None if way in FIXED else "relative",
        train=training(RECIPES[subject.reference], data.train, decay=subject.decay),
        evaluate=lambda model: error(model, data.validation.images, data.validation.labels),
        inputs=data.train.images[:2560].split(128),
        schedule=subject.schedule,
        checkpoint=checkpoint("additive", job),
        resume=True,
        report=lambda row: print(job, row.phase, row.index, row.error, row.size_bytes, flush=True),
    )
    compressed = result.apply_(copy.deepcopy(trained.model)).eval()
    return {
        "network": name,
        "way": way,
        "seed": 0,
        "budget": budget,
        "reference_test_error": trained.test_error,
        "reference_validation_error": trained.validation_error,
        "test_error": error(compressed, data.test.images, data.test.labels),
        "validation_error": result.error,
        "direct_validation_error": result.history[0].error,
        "file_bytes": result.size_bytes,
        "ratio": result.ratio,
        "paper_ratio": result.paper_ratio,
        "epochs": sum(row.phase != "direct" for row in result.history),
        "convolutions": "bfloat16" if BFLOAT16 else "float32",
        "verdict": result.verdict.name,
        "learn_seconds": sum(row.learn_seconds for row in result.history),
        "compress_seconds": sum(row.compress_seconds for row in result.history),
        "measure_seconds": sum(row.measure_seconds for row in result.history),
        "processor_seconds": time.process_time() - began,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table a reference, in the order of the ways; two where another machine trained another reference."""
    own: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for row in rows:
        own.setdefault((SUBJECTS[row["network"]].reference, row["reference_test_error"]), []).append(row)
    return "\n\n".join(_table(name, group) for (name, _), group in own.items())


def _table(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    out = Table(name, box=None, pad_edge=False)
    for heading in (
        "test error",
        "- reference",
        "validation",
        "file bytes",
        "ratio",
        "LC-accounting",
        "epochs",
        "C steps / all",
        "convolutions",
    ):
        out.add_column(heading, justify="right")
    out.add_row(
        "reference", f"{rows[0]['reference_test_error']:.2f} %", "", f"{rows[0]['reference_validation_error']:.2f} %"
    )
    for row in rows:
        seconds = sum(row[f"{part}_seconds"] for part in ("learn", "compress", "measure"))
        out.add_row(
            row["way"] + SUBJECTS[row["network"]].note,
            f"{row['test_error']:.2f} %",
            f"{row['test_error'] - row['reference_test_error']:+.2f}",
            f"{row['validation_error']:.2f} %",
            f"{row['file_bytes']:,}",
            f"{row['ratio']:.1f}x",
            f"{row['paper_ratio']:.1f}x",
            str(row["epochs"]),
            f"{100 * row['compress_seconds'] / seconds:.0f} %",
            row["convolutions"],
        )
    return render(out)


if __name__ == "__main__":
    run_jobs("additive", __doc__, JOBS, run, table, default=DEFAULT)
