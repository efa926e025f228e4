"""Pruning in levels with retraining between them: a chain of short runs of the loop (algorithms 4).

Every level is direct compression by a plan of its own, harsher than the last, then training of what is left. There the
positions are frozen and only the kept values, and whatever the plan leaves free, are parameters: a weight outside the
mask has none, so that no optimiser, momentum or weight decay can move it. The best iterate of a level, on validation,
is where the next one starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

from ..errors import ArgumentError, must
from ..network import Network, load_into
from ..plan import Task
from ..records import StepRecord, Verdict
from .checkpoint import Checkpoint
from .loop import Loop
from .schedule import Schedule


@dataclass(frozen=True)
class Pruning:
    """A schedule of pruning with retraining.

    Args:
        levels: shares of zeros, in [0, 1], increasing.
        epochs: of training in each L step.
        steps: L steps at each level; 0 prunes without retraining.
        finetune: further L steps at the last level.

    >>> Pruning((0.8, 0.9), epochs=2).schedule(1)
    Schedule(steps=0, mu0=0.001, growth=1.2, epochs=2, finetune=2, straight_through=False,
             method='augmented_lagrangian', tolerance=0.0001, budget_start=1.0)
    """

    levels: Sequence[float]
    epochs: int = 1
    steps: int = 1
    finetune: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))
        shares = all(isinstance(x, int | float) and not isinstance(x, bool) and 0 <= x <= 1 for x in self.levels)
        if not self.levels or not shares or list(self.levels) != sorted(set(self.levels)):
            raise ArgumentError(must("Pruning(levels)", "shares of zeros in [0, 1], increasing", self.levels))
        for name, least in (("epochs", 1), ("steps", 0), ("finetune", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ArgumentError(must(f"Pruning({name}=...)", f"a whole number, at least {least}", value))

    @classmethod
    def of_what_is_left(cls, share: float = 0.2, count: int = 10, *, epochs: int = 1, steps: int = 1) -> Self:
        """At each of `count` levels prunes this share of the weights that the last one left.

        >>> [round(level, 3) for level in Pruning.of_what_is_left(0.2, 5).levels]
        [0.2, 0.36, 0.488, 0.59, 0.672]
        """
        if not 0 < share < 1:
            raise ArgumentError(must("Pruning.of_what_is_left(share)", "above 0 and below 1", share))
        return cls(tuple(1 - (1 - share) ** (k + 1) for k in range(count)), epochs, steps)

    def schedule(self, index: int) -> Schedule:
        """The loop's schedule at a level: no penalty, so no C step after the first; retraining is its fine-tuning."""
        last = index == len(self.levels) - 1
        steps = self.steps + (self.finetune if last else 0)
        return Schedule(steps=0, epochs=self.epochs, finetune=steps * self.epochs)


def run_levels(
    loop: Loop,
    pruning: Pruning,
    tasks: Sequence[Sequence[Task]],
    checkpoints: Sequence[Checkpoint | None],
    *,
    resume: bool = False,
) -> Iterator[tuple[Network, list[StepRecord], Verdict]]:
    """For each level the best network, its history, and how it ended.

    A finished level's checkpoint gives its result at once, so a run that is resumed goes on where it was ended.

    Args:
        loop: all that the levels have in common; its model is trained and changed.
        tasks, checkpoints: one for each level.
    """
    before = 0
    for index, (own, checkpoint) in enumerate(zip(tasks, checkpoints, strict=True)):
        level = replace(loop, tasks=own, schedule=pruning.schedule(index), before=before, checkpoint=checkpoint)
        network, history, verdict = level.run(resume=resume)
        load_into(loop.model, network)
        before += pruning.steps
        yield network, history, verdict
