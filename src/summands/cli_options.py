"""Options that several commands have, and what those of Learning-Compression need."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from .errors import ArgumentError, must
from .taskfile import TaskFile

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
Steps = Annotated[int | None, typer.Option(help="L and C steps; 0 fine-tunes after direct compression.")]
Mu0 = Annotated[float | None, typer.Option(help="First penalty weight.")]
Growth = Annotated[float | None, typer.Option(help="Factor of the penalty weight from step to step.")]
Epochs = Annotated[int | None, typer.Option(help="Epochs in each L step.")]
Finetune = Annotated[int | None, typer.Option(help="Epochs of fine-tuning afterwards.")]
StraightThrough = Annotated[
    bool | None, typer.Option("--straight-through", help="In fine-tuning codes and levels move too.")
]
BudgetStart = Annotated[float | None, typer.Option(help="First step's budget, as a multiple of the budget.")]


def given(**options: Any) -> dict[str, Any]:
    """Those that were given, by name."""
    return {name: value for name, value in options.items() if value is not None}


def check_trains(task: TaskFile | None, source: str, options: Iterable[str]) -> None:
    """ArgumentError where an option of this name was given and nothing trains."""
    for name in options:
        if task is None or task.train is None:
            allowed = f"a task file with train(...) for --{name.replace('_', '-')}"
            raise ArgumentError(must("the source", allowed, source))
