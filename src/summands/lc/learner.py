"""What the L step calls.

A learner owns the loss. `None` (direct compression) needs none of this; `training.py` adapts the user's own loop.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Step:
    """What the loop tells the L step.

    Attributes:
        index: number of this step, from 0; fine-tuning counts anew.
        total: number of steps of the loop, or of fine-tuning.
        mu: weight of the penalty; 0 when fine-tuning, where `penalty()` is 0.
        seed: derive all randomness of the step from it, and a run that is resumed gives the bytes of one that was not.
        epochs: how long to train.
        importance: the largest number by which the penalty of a weight counts more than mu says.
    """

    index: int
    total: int
    mu: float
    seed: int
    epochs: int
    importance: float = 1.0

    @property
    def max_lr(self) -> float:
        """The largest stable learning rate of gradient descent on the penalty (Part I): 1/mu, of the largest mu."""
        return 1 / (self.mu * self.importance) if self.mu else math.inf


class Learner(ABC):
    """Moves the model toward minimising loss(w) + mu/2 ||w - target||^2."""

    @abstractmethod
    def weights(self) -> Mapping[str, Tensor]:
        """Every weight the loop may ask about, by name: live values, not copies."""

    @abstractmethod
    def step(self, targets: Mapping[str, Tensor], step: Step) -> float | None:
        """One L step from the present weights; returns the loss without the penalty, if it knows it."""
