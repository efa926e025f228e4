"""The cost of a penalty form, alpha C(Theta) + mu/2 ||w - Delta||^2, beside the squared error."""

from __future__ import annotations

import math
from typing import Protocol

from ..errors import ArgumentError, must


class Penalised(Protocol):
    """A compression with the weight `alpha` of a penalty."""

    @property
    def alpha(self) -> float: ...


def check_alpha(owner: str, alpha: object) -> None:
    """ArgumentError unless `alpha` is a finite number of at least 0."""
    number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
    if not number or not 0 <= alpha < math.inf:  # type: ignore[operator]
        raise ArgumentError(must(f"{owner}(alpha)", "a finite number of at least 0", alpha))


def penalty_over_mu(owner: Penalised, mu: float | None) -> float:
    """alpha/mu; infinite for mu = 0, unless alpha is 0."""
    if mu is None or not mu >= 0:
        remedy = "the LC loop gives it; to compress directly use a constraint instead of a penalty"
        raise ArgumentError(must(f"mu for {owner}", "a number of at least 0", mu, remedy))
    if owner.alpha == 0:
        return 0.0
    return owner.alpha / mu if mu > 0 else math.inf
