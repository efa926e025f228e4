"""Progress of a run on standard error: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..records import StepRecord
from .tables import step_line


class StepProgress:
    """Called with every record of a run of `total` steps; a context manager."""

    def __init__(self, total: int, quiet: bool = False) -> None:
        self._console = Console(file=sys.stderr, quiet=quiet)
        self._bar: Progress | None = None
        if self._console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
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

    def __call__(self, row: StepRecord) -> None:
        if self._bar is None:
            self._console.print(step_line(row), highlight=False, soft_wrap=True)
        else:
            advance = 1 if row.phase in ("lc", "finetune") else 0
            self._bar.update(self._job, advance=advance, description=step_line(row))
