"""How the penalty grows, mu_k = mu0 * growth^k, and how the budget tightens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..errors import ArgumentError, must

_TIGHTENING = 2 / 3
"""Share of the steps in which the budget falls."""


@dataclass(frozen=True)
class Schedule:
    """The schedule of the LC loop (Part I, 1707.01209; algorithms 1).

    Args:
        steps: number of L and C steps; 0 is direct compression, with fine-tuning if `finetune` is set.
        mu0: first penalty weight. The loss must still win at the start: mu0 ||w - Delta||^2 well below the loss.
        growth: factor of mu from step to step, above 1.
        epochs: epochs of training in each L step.
        finetune: epochs after the loop in which the continuous parts (codebook values, factors, kept values, biases)
            train with the discrete parts frozen.
        straight_through: fine-tuning moves the discrete parts too: every entry of a codebook or grid follows a latent
            weight, which trains as if nothing had been rounded; a grid's zeros stay.
        method: "augmented_lagrangian" keeps multipliers and needs no mu -> infinity; "quadratic_penalty" does not.
        tolerance: stop once ||w - Delta|| / ||w|| is below it.
        budget_start: the budget of the first C step, as a multiple of the budget, which is reached after two thirds of
            the steps by the cubic of gradual pruning (Zhu and Gupta 2017, 1710.01878). A budget so small that the
            network is lost at once leaves training nothing to follow; then about 5.

    >>> Schedule(steps=3, mu0=1e-3, growth=2.0).mu(2)
    0.004
    """

    steps: int = 30
    mu0: float = 1e-3
    growth: float = 1.2
    epochs: int = 1
    finetune: int = 0
    straight_through: bool = False
    method: Literal["augmented_lagrangian", "quadratic_penalty"] = "augmented_lagrangian"
    tolerance: float = 1e-4
    budget_start: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("epochs", 1), ("finetune", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ArgumentError(must(f"Schedule({name}=...)", f"a whole number, at least {least}", value))
        if not self.mu0 > 0:
            raise ArgumentError(must("Schedule(mu0=...)", "above 0", self.mu0))
        if not self.growth >= 1:
            raise ArgumentError(must("Schedule(growth=...)", "at least 1", self.growth))
        if not self.tolerance >= 0:
            raise ArgumentError(must("Schedule(tolerance=...)", "at least 0", self.tolerance))
        if not 1 <= self.budget_start < math.inf:
            raise ArgumentError(must("Schedule(budget_start=...)", "a finite number of at least 1", self.budget_start))
        if self.straight_through and not self.finetune:
            raise ArgumentError(must("Schedule(finetune=...)", "above 0 where straight_through is True", 0))
        methods = ("augmented_lagrangian", "quadratic_penalty")
        if self.method not in methods:
            raise ArgumentError(must("Schedule(method=...)", f"one of {methods}", self.method))

    def mu(self, index: int) -> float:
        """The penalty weight of step `index`."""
        return self.mu0 * self.growth**index

    def budget_factor(self, index: int) -> float:
        """The budget of the C step of step `index`, over the budget."""
        left = max(1 - index / (_TIGHTENING * (self.steps - 1)), 0.0) if self.steps > 1 else 0.0
        return 1 + (self.budget_start - 1) * left**3
