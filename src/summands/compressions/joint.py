"""Sums of parts whose joint optimum is known, in a table keyed by the types of the parts, in either order.

All of the table are a codebook and a few free entries. Given the codebook, the best free entries are the pruning of
what the nearest values leave; so each solver only finds the codebook that is best when the worst entries need not fit.
Sums of codebooks (planes.py) and of low-rank terms (reshaped.py) have a solution near the optimum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from torch import Tensor

from ..forms import Form
from . import scope
from .codebook_fit import fitted_form
from .compression import Compression, Terms
from .fixed_codebook import Binary, FixedCodebook, GivenCodebook, PowersOfTwo, Ternary
from .low_rank import LowRank
from .outliers import counted_values, is_countable, priced_values
from .penalty import penalty_over_mu
from .planes import fitted_planes
from .prune import Prune, PrunePenalty
from .quantize import Quantize
from .reshaped import pursued
from .scaled_codebook import ScaledBinary

Weights = Mapping[str, Tensor]
Pruner = Prune | PrunePenalty
Values = Callable[[np.ndarray], np.ndarray]
"""Entries to a codebook."""


@dataclass(frozen=True)
class Joint:
    """For each part its forms by weight; whether they are jointly optimal, or only near."""

    parts: list[Mapping[str, Form]]
    optimal: bool


def solve_jointly(
    terms: Sequence[Compression], weights: Weights, *, mu: float | None, price: float | None, near: bool
) -> Joint | None:
    """The joint solution of these terms; None where none is known, or only one `near` the optimum and unwanted."""
    if near and all(isinstance(term, Quantize) for term in terms):
        planes = fitted_planes(cast(Sequence[Quantize], terms), weights)
        return None if planes is None else Joint(planes, optimal=False)
    if near and all(isinstance(term, LowRank) for term in terms):
        low_rank = pursued(cast(Sequence[LowRank], terms), weights, mu, price)
        return None if low_rank is None else Joint(low_rank, optimal=False)
    if len(terms) != 2:
        return None
    for quantiser, pruner in (terms, terms[::-1]):
        solver = _SOLVERS.get((type(quantiser), type(pruner)))
        found = None if solver is None else solver(quantiser, pruner, weights, mu, price, near)
        if found is not None:
            return found if quantiser is terms[0] else Joint(found.parts[::-1], found.optimal)
    return None


def _given(
    quantiser: GivenCodebook, pruner: Pruner, weights: Weights, mu: float | None, price: float | None, near: bool
) -> Joint:
    """The nearest values, and what they leave pruned: every entry pays one or the other, so this is the optimum."""
    return _and_the_rest(quantiser.project_task(weights), pruner, weights, mu, price, exact=True)


def _learned(
    quantiser: Quantize, pruner: Pruner, weights: Weights, mu: float | None, price: float | None, near: bool
) -> Joint | None:
    if quantiser.k == "auto" or quantiser.zero:
        return None
    return _fitted(quantiser, int(quantiser.k), pruner, weights, mu, near, lambda entries, solve: solve(entries))


def _binary(
    quantiser: ScaledBinary, pruner: Pruner, weights: Weights, mu: float | None, price: float | None, near: bool
) -> Joint | None:
    """One value for the magnitudes: the signs are free."""

    def both_signs(entries: np.ndarray, solve: Values) -> np.ndarray:
        return solve(np.abs(entries))[0] * np.array([-1.0, 1.0])

    return _fitted(quantiser, 1, pruner, weights, mu, near, both_signs)


_BY_QUANTISER: dict[type[Compression], Callable[..., Joint | None]] = {
    **dict.fromkeys((Binary, FixedCodebook, PowersOfTwo, Ternary), _given),
    Quantize: _learned,
    ScaledBinary: _binary,
}
_SOLVERS: dict[tuple[type[Compression], type[Compression]], Callable[..., Joint | None]] = {
    (kind, pruner): solve for kind, solve in _BY_QUANTISER.items() for pruner in (Prune, PrunePenalty)
}


def _fitted(
    quantiser: Quantize | ScaledBinary,
    k: int,
    pruner: Pruner,
    weights: Weights,
    mu: float | None,
    near: bool,
    fold: Callable[[np.ndarray, Values], np.ndarray],
) -> Joint | None:
    """`fold(entries, solve)` makes a codebook of entries by solving for k values with outliers, priced or counted."""
    if pruner.groups is not None:
        return None
    solve: Values
    if isinstance(pruner, PrunePenalty):
        price, exact = 2 * penalty_over_mu(pruner, mu), True

        def solve(entries: np.ndarray) -> np.ndarray:
            return priced_values(entries, k, price)

    else:
        if pruner.keep == "auto" or not _same_entries(quantiser, pruner, weights):
            return None
        limit = pruner.limit
        exact = all(is_countable(size, k, limit(size)) for size in _sizes(quantiser, weights))
        if not exact and not near:
            return None

        def solve(entries: np.ndarray) -> np.ndarray:
            return counted_values(entries, k, limit(entries.size))

    def fit(weight: Tensor, previous: Form | None, importance: Tensor | None) -> Form:
        return fitted_form(weight, Terms(), quantiser.per, quantiser.dtype, lambda entries, _: fold(entries, solve))

    codebooks = scope.project_task(fit, "task" if quantiser.per == "task" else "weight", weights, {}, {})
    return _and_the_rest(codebooks, pruner, weights, mu, None, exact and quantiser.dtype is None)


def _and_the_rest(
    codebooks: Mapping[str, Form],
    pruner: Pruner,
    weights: Weights,
    mu: float | None,
    price: float | None,
    exact: bool,
) -> Joint:
    """A free entry that is rounded costs something after all: then the solution is only near the optimum."""
    rest = {name: weight - codebooks[name].dense() for name, weight in weights.items()}
    return Joint([codebooks, pruner.project_task(rest, mu=mu, price=price)], exact and pruner.dtype is None)


def _sizes(quantiser: Quantize | ScaledBinary, weights: Weights) -> list[int]:
    """How many entries share a codebook."""
    if quantiser.per == "task":
        return [sum(weight.numel() for weight in weights.values())]
    return [scope.slices(weight, quantiser.per).shape[1] for weight in weights.values()]


def _same_entries(quantiser: Quantize | ScaledBinary, pruner: Prune, weights: Weights) -> bool:
    """True when entries are counted over just those that share a codebook."""
    return len({"weight" if per == "task" and len(weights) == 1 else per for per in (quantiser.per, pruner.per)}) == 1
