"""The first path, end to end: train a real network, compress it as a learned sum, write the file and a picture."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn

from .api import compress
from .errors import FileError
from .lc import SGD, Schedule
from .loading import load
from .plan import Plan
from .report.plots import plot_run
from .report.progress import StepProgress
from .report.tables import render, result_table
from .result import Result
from .zoo.data import Data
from .zoo.data import load as load_data
from .zoo.train import error, reference

PLAN = Plan({"*.weight": "Quantize(2) + Prune(keep=0.01, dtype='float16')", "*.bias": "Keep('float16')"})
SCHEDULE = Schedule(steps=20, mu0=1e-3, growth=1.2, epochs=1, finetune=4)


@dataclass(frozen=True)
class Demo:
    """What the demo measured; errors in percent on test data, which nothing was chosen by."""

    data: str
    source: str
    reference_error: float
    direct_error: float
    lc_error: float
    reference_bytes: int
    direct_bytes: int
    file_bytes: int
    seconds: float
    file: str
    picture: str
    table: str

    @property
    def ratio(self) -> float:
        return self.reference_bytes / self.file_bytes

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio}

    def __str__(self) -> str:
        table = Table("LeNet-300-100", box=None, pad_edge=False)
        for heading in ("test error", "file bytes", "ratio"):
            table.add_column(heading, justify="right")
        for name, error_, size in (
            ("reference, float32", self.reference_error, self.reference_bytes),
            ("direct compression", self.direct_error, self.direct_bytes),
            ("learning-compression", self.lc_error, self.file_bytes),
        ):
            table.add_row(name, f"{error_:.2f} %", f"{size:,}", f"{self.reference_bytes / size:.1f}x")
        return (
            f"{self.table}\n\n{render(table)}\n\n"
            f"data: {self.data} ({self.source}); {self.seconds:.0f} seconds\n"
            f"file: {self.file}   picture: {self.picture}"
        )


def run_demo(folder: Path, data_name: str, seed: int, say: Callable[[str], None]) -> Demo:
    """Trains (once; it is cached) and compresses LeNet-300-100; writes `model.sums` and `run.png` into `folder`.

    When the data cannot be had, `say` is told so and the embedded digits serve instead.
    """
    began = time.perf_counter()
    torch.set_flush_denormal(True)
    folder.mkdir(parents=True, exist_ok=True)
    data = _data(data_name, say)
    say(f"data: {data.name}, {len(data.train):,} training images, from {data.source}")
    say("training LeNet-300-100 (once; the result is cached)")
    trained = reference(f"lenet300-{data.name}", seed)
    say(f"reference: test error {trained.test_error:.2f} %; compressing by learning")

    def validation_error(model: nn.Module) -> float:
        return error(model, data.validation.images, data.validation.labels)

    def test_error(result: Result) -> float:
        return error(result.apply_(copy.deepcopy(trained.model)), data.test.images, data.test.labels)

    direct = compress(trained.model, PLAN)
    with StepProgress(SCHEDULE.steps + SCHEDULE.finetune) as progress:
        result = compress(
            trained.model,
            PLAN,
            train=SGD((data.train.images, data.train.labels), weight_decay=5e-4),
            evaluate=validation_error,
            schedule=SCHEDULE,
            seed=seed,
            report=progress,
        )
    file, picture = folder / "model.sums", folder / "run.png"
    size = result.save(file)
    plot_run(result.history, result.rows(), validation_error(trained.model), picture)
    loaded = load(file, into=copy.deepcopy(trained.model))
    return Demo(
        data=data.name,
        source=data.source,
        reference_error=trained.test_error,
        direct_error=test_error(direct),
        lc_error=error(loaded, data.test.images, data.test.labels),
        reference_bytes=result.reference_bytes,
        direct_bytes=direct.size_bytes,
        file_bytes=size,
        seconds=time.perf_counter() - began,
        file=str(file),
        picture=str(picture),
        table=result_table(result.rows(), size, result.reference_bytes, result.verdict, result.kept),
    )


def _data(name: str, say: Callable[[str], None]) -> Data:
    try:
        return load_data(name)
    except FileError as failure:
        say(f"{name} cannot be had here ({failure})\nThe 1,797 embedded digits serve instead; the ratio is theirs.")
        return load_data("digits")
