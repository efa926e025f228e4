"""What `compress` and `prune` are given, checked against each other: nothing that would have no effect is accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

from .errors import ArgumentError, BudgetError, must
from .lc import PostTraining, Schedule, Train, has_batch_norm
from .network import check_batches
from .selection import Budget


def check_tensors(**others: Any) -> None:
    """Of the `others`, which need a module, none is given for tensors alone."""
    for name, given in others.items():
        if given:
            remedy = "pass the network; on the command line, a task file whose model() builds it"
            raise ArgumentError(must("model", f"a module for this `{name}`", "tensors", remedy))


def check_posttraining(
    calibration: Iterable[Any] | None, posttraining: PostTraining | None, budget: Budget | None, **others: Any
) -> None:
    """Post-training takes none of the `others`, and only budgets of bytes."""
    if calibration is None:
        if posttraining is not None:
            raise ArgumentError(must("calibration", "given when `posttraining` is", None, "pass batches of inputs"))
        return
    for name, given in others.items():
        if given is not None:
            raise ArgumentError(must(name, "left out when `calibration` is given", "both"))
    if budget is not None and (budget.flops is not None or budget.max_drop is not None):
        raise BudgetError(must("the budget of post-training", "one of the file's bytes", str(budget)))


def check_resume(
    checkpoint: str | Path | None,
    resume: bool,
    state: Callable[[], Any] | None,
    load_state: Callable[[Any], None] | None,
) -> None:
    """What goes on from a checkpoint needs one."""
    if checkpoint is not None:
        return
    for name, given in (("resume", resume), ("state", state), ("load_state", load_state)):
        if given:
            raise ArgumentError(must("checkpoint", f"given when `{name}` is", None, "name the file to go on from"))


def check_training(
    model: nn.Module,
    train: Train | None,
    inputs: Iterable[Any],
    schedule: Schedule | None,
    checkpoint: str | Path | None,
) -> None:
    """The arguments of a run with `train`, and none of them without."""
    if train is None and schedule is not None:
        raise ArgumentError(must("train", "given when `schedule` is", None, "pass your training loop, or SGD(data)"))
    if train is None and checkpoint is not None:
        raise ArgumentError(must("train", "given when `checkpoint` is", None, "direct compression takes seconds"))
    if train is not None and not callable(train):
        raise ArgumentError(must("train", "a function train(model, penalty, step)", train))
    check_batches(inputs)
    if isinstance(inputs, Iterator):
        raise ArgumentError(must("inputs", "a list or a DataLoader, to be run through again and again", inputs))
    if train is not None and has_batch_norm(model) and isinstance(inputs, tuple) and not inputs:
        raise ArgumentError(
            must(
                "inputs",
                "batches of the model's input, since the model has BatchNorm",
                (),
                "its statistics must be recomputed for the compressed weights",
            )
        )
