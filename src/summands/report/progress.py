"""Progress of a run on standard error: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..records import LayerRecord, RunRecord, StepRecord
from .tables import layer_line, outcome, step_line


class StepProgress:
    """Called with every record of a run of `total` steps or layers; a context manager."""

    def __init__(self, total: int, quiet: bool = False) -> None:
        self._console = Console(file=sys.stderr, quiet=quiet)
        self._bar: Progress | None = None
        if self._console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._job = self._bar.add_task("compressing", total=total)

    def __enter__(self) -> StepProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, row: StepRecord | LayerRecord) -> None:
        line = layer_line(row) if isinstance(row, LayerRecord) else step_line(row)
        if self._bar is None:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            advance = 1 if isinstance(row, LayerRecord) or row.phase in ("lc", "finetune") else 0
            self._bar.update(self._job, advance=advance, description=line)


class SearchProgress:
    """Called with all runs of a search of `total`; a context manager. A line for each run that ends, and an ETA."""

    def __init__(self, total: int, quiet: bool = False) -> None:
        self._console = Console(file=sys.stderr, quiet=quiet)
        self._total, self._began = total, time.monotonic()
        self._told: set[str] | None = None
        self._first = 0.0
        self._status = self._console.status("starting") if self._console.is_terminal and not quiet else None

    def __enter__(self) -> SearchProgress:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, runs: Sequence[RunRecord]) -> None:
        ended = [run for run in runs if run.status != "started"]
        done = len(ended) + sum(_share(run) for run in runs if run.status == "started")
        if self._told is None:  # the first call tells what earlier searches did
            self._told, self._first = {run.id for run in ended}, done
            if ended:
                self._console.print(f"{len(ended)} of {self._total} runs were made before", highlight=False)
        left = self._left(done)
        for run in ended:
            if run.id not in self._told:
                self._told.add(run.id)
                self._console.print(
                    f"{len(ended):3d}/{self._total}  {_line(run)}  {left}",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )
        if self._status is not None:
            self._status.update(f"{done:.1f} of {self._total} runs {left}")

    def _left(self, done: float) -> str:
        """The time that is left if the rest goes as fast as what was done since the start."""
        gained = done - self._first
        if gained <= 0 or done >= self._total:
            return ""
        minutes = (time.monotonic() - self._began) / gained * (self._total - done) / 60
        return f"(about {minutes:.0f} min left)" if minutes >= 1 else "(less than a minute left)"


def _share(run: RunRecord) -> float:
    """How much of a run is done."""
    return min(1.0, sum(row.phase in ("lc", "finetune") for row in run.history) / run.total) if run.total else 0.0


def _line(run: RunRecord) -> str:
    error = "" if run.error is None else f"  error {run.error:.4g}"
    size = "" if run.size_bytes is None else f"  bytes {run.size_bytes:,}"
    return f"{run.combination} at {run.budget}{error}{size}  {outcome(run)}"
