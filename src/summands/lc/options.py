"""How post-training uses calibration inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ArgumentError, must
from .calibrate import Distance
from .quadratic import QUADRATIC
from .schedule import Schedule


@dataclass(frozen=True)
class PostTraining:
    """How calibration inputs are used.

    Args:
        distance: what the output is to keep: "values" (half the squared difference) or, for a classifier's logits,
            "softmax" (the Kullback-Leibler divergence, in nats). Decides what an error of each layer counts, by
            gradients. None takes none: each layer answers for the squared error of its own outputs alone. Without a
            budget, a penalty or one part for several layers nothing else depends on it, up to rounding.
        damping: share of its mean diagonal that is added to every layer's H.
        shrinkage: share of the correlations between different inputs of a layer that is given up, in [0, 1], where
            the calibration inputs are too few to tell them; "auto" takes for each layer the share with which the
            first half of the batches and the second tell each other best; and then likewise a share of the differences
            between the inputs' sizes, since one that was never seen is not free. So order the batches: no photo, no
            document in both halves.
        by_row: an error of a weight counts as the output feels its row, as far as both halves of the batches agree on
            that, and not only its layer. The distance may still rise on other inputs, so measure.
        by_column: likewise the columns of a weight and their correlations: by the second moments of gradients, which
            tell what the output feels, and not of the layer's inputs alone, as far as both halves of the batches agree
            on those. They also tell what each layer's error costs on other inputs, as one price for all layers needs
            it. At least 128 backward passes in the place of 32, and another 8 n^2 bytes a layer, of all layers at once.
        drift: later layers see the inputs that the compressed layers before them make, and correct for them.
        stages: for `drift`, into how many runs of layers the network is divided; each runs both networks once more.
        tune: passes over the calibration inputs in which the continuous parts, biases and normalisations are trained
            by gradient steps on the output's distance from the original's. 0 for none; needs float parameters.
        lr: highest learning rate of those steps (Adam). Where thousands of rows have steps of their own, 5e-5 or so.
        memory_bytes: the most that the layers' moments may take at a time, 24 n^2 bytes for each layer and group with n
            inputs to an output. Layers then go in runs, in the order of execution, each run settled before the next is
            looked at; `stages` does not count. For plans that leave nothing "auto": one price needs all moments.
        schedule: of each layer's own loop; mu counts in mean eigenvalues of H.
    """

    distance: Distance | None = "values"
    damping: float = 0.01
    shrinkage: float | Literal["auto"] = "auto"
    by_row: bool = False
    by_column: bool = False
    drift: bool = True
    stages: int = 8
    tune: int = 0
    lr: float = 1e-3
    memory_bytes: int | None = None
    schedule: Schedule = QUADRATIC

    def __post_init__(self) -> None:
        if self.distance not in ("values", "softmax", None):
            raise ArgumentError(must("PostTraining(distance=...)", "'values', 'softmax' or None", self.distance))
        if self.distance is None and self.tune:
            raise ArgumentError(must("PostTraining(distance=...)", "'values' or 'softmax' where `tune` is given", None))
        for name in ("by_row", "by_column"):
            if type(getattr(self, name)) is not bool:
                raise ArgumentError(must(f"PostTraining({name}=...)", "True or False", getattr(self, name)))
            if self.distance is None and getattr(self, name):
                allowed = f"'values' or 'softmax' where `{name}` is True"
                raise ArgumentError(must("PostTraining(distance=...)", allowed, None))
        if self.schedule.budget_start > 1:
            allowed = "1: a layer has no budget of its own"
            raise ArgumentError(
                must("PostTraining(schedule=Schedule(budget_start=...))", allowed, self.schedule.budget_start)
            )
        memory = self.memory_bytes
        if memory is not None and not (isinstance(memory, int) and memory > 0):
            raise ArgumentError(must("PostTraining(memory_bytes=...)", "None or a number of bytes above 0", memory))
        if memory is not None and self.by_column:
            allowed = "None where `by_column` is True: it holds the gradients' moments of all layers"
            raise ArgumentError(must("PostTraining(memory_bytes=...)", allowed, memory))
        shrinkage = self.shrinkage
        if shrinkage != "auto" and not (isinstance(shrinkage, int | float) and 0 <= shrinkage <= 1):
            raise ArgumentError(must("PostTraining(shrinkage=...)", "'auto' or in [0, 1]", shrinkage))
        for name, least in (("damping", 0), ("stages", 1), ("tune", 0), ("lr", 0)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not least <= value < math.inf:
                raise ArgumentError(must(f"PostTraining({name}=...)", f"a number of at least {least}", value))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a file's metadata."""
        return {**vars(self), "schedule": vars(self.schedule)}
