"""Budgets of multiply-adds for one sample, the layers run in factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import ArgumentError, in_context, must
from ..plan import Task
from ..runs import Run
from .allocate import Limit


def flops_limit(most: int, runs: Mapping[str, Run]) -> Limit:
    """At most so many multiply-adds in all these runs."""
    return Limit(most, "FLOPs", lambda forms: sum(run.flops(forms[name]) for name, run in runs.items()))


def priced_by_flops(tasks: Sequence[Task], runs: Mapping[str, Run]) -> list[Task]:
    """The tasks with prices for a multiply-add in the place of a bit: one task a weight, as each has its own sizes.

    Raises:
        ArgumentError: something is left "auto" that has no price in FLOPs, or in a weight that no layer runs.
    """
    found = []
    for task in tasks:
        for name in task.weights:
            with in_context(f"task {task.name!r}, weight {name!r}"):
                if name not in runs and task.compression.is_free():
                    raise ArgumentError(
                        must("what a budget of FLOPs chooses", "a linear layer's or convolution's", name)
                    )
                run = runs.get(name)
                own = task.compression if run is None else task.compression.for_flops(**vars(run))
                found.append(Task(name, (name,), own))
    return found
