"""Sums of two parts whose joint optimum is known, in a table keyed by the types of the parts, in either order.

All of them are a codebook and a few free entries. Given the codebook, the best free entries are the pruning of what the
nearest values leave; so each solver only finds the codebook that is best when the worst entries need not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..forms import Form
from . import scope
from .codebook_fit import fitted_form
from .compression import Compression, Terms
from .fixed_codebook import Binary, FixedCodebook, PowersOfTwo, Ternary
from .outliers import counted_values, priced_values
from .penalty import penalty_over_mu
from .prune import Prune, PrunePenalty
from .quantize import Quantize
from .scaled_codebook import ScaledBinary

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Joint:
    """For each part its forms by weight; whether they are jointly optimal, or only near."""

    parts: list[Mapping[str, Form]]
    optimal: bool


def solve_jointly(terms: Sequence[Compression], weights: Weights, *, mu: float | None) -> Joint | None:
    """The joint solution of these terms; None where none is known."""
    if len(terms) != 2:
        return None
    for quantiser, pruner in (terms, terms[::-1]):
        solver = _SOLVERS.get((type(quantiser), type(pruner)))
        found = None if solver is None else solver(quantiser, pruner, weights, mu)
        if found is not None:
            return found if quantiser is terms[0] else Joint(found.parts[::-1], found.optimal)
    return None


def _near_given_values(quantiser, pruner, weights: Weights, mu: float | None) -> Joint:
    """The nearest values, and what they leave pruned: every entry pays one or the other, so this is the optimum."""
    return _and_the_rest(quantiser.project_task(weights), pruner, weights, mu, True)


def _priced_codebook(quantiser: Quantize, pruner: PrunePenalty, weights: Weights, mu: float | None) -> Joint | None:
    if not _is_plain(quantiser) or pruner.groups is not None:
        return None
    price = 2 * penalty_over_mu(pruner, mu)
    return _solved(
        quantiser, pruner, weights, mu, lambda entries: (priced_values(entries, int(quantiser.k), price), True)
    )


def _counted_codebook(quantiser: Quantize, pruner: Prune, weights: Weights, mu: float | None) -> Joint | None:
    if not _is_plain(quantiser) or not _same_entries(quantiser, pruner, weights):
        return None

    def solve(entries: np.ndarray) -> tuple[np.ndarray, bool]:
        return counted_values(entries, int(quantiser.k), pruner.limit(entries.size))

    return _solved(quantiser, pruner, weights, mu, solve)


def _counted_binary(quantiser: ScaledBinary, pruner: Prune, weights: Weights, mu: float | None) -> Joint | None:
    if not _same_entries(quantiser, pruner, weights):
        return None

    def solve(entries: np.ndarray) -> tuple[np.ndarray, bool]:
        # All but so many magnitudes near one value: the signs are free.
        scale = counted_values(np.abs(entries), 1, pruner.limit(entries.size))[0][0]
        return np.array([-scale, scale]), True

    return _solved(quantiser, pruner, weights, mu, solve)


def _priced_binary(quantiser: ScaledBinary, pruner: PrunePenalty, weights: Weights, mu: float | None) -> Joint | None:
    if pruner.groups is not None:
        return None
    price = 2 * penalty_over_mu(pruner, mu)

    def solve(entries: np.ndarray) -> tuple[np.ndarray, bool]:
        scale = priced_values(np.abs(entries), 1, price)[0]
        return np.array([-scale, scale]), True

    return _solved(quantiser, pruner, weights, mu, solve)


_SOLVERS: dict[tuple[type, type], Callable[..., Joint | None]] = {
    **{
        (given, pruner): _near_given_values
        for given in (Binary, FixedCodebook, PowersOfTwo, Ternary)
        for pruner in (Prune, PrunePenalty)
    },
    (Quantize, Prune): _counted_codebook,
    (Quantize, PrunePenalty): _priced_codebook,
    (ScaledBinary, Prune): _counted_binary,
    (ScaledBinary, PrunePenalty): _priced_binary,
}


def _solved(quantiser, pruner, weights: Weights, mu: float | None, solve) -> Joint:
    """The codebooks that `solve` finds, (entries) -> (values, whether they are optimal), and the pruned rest."""
    optimal = True

    def values(entries: np.ndarray, importance: np.ndarray | None) -> np.ndarray:
        nonlocal optimal
        found, exact = solve(entries)
        optimal &= exact
        return found

    def fit(weight: Tensor, previous: Form | None, importance: Tensor | None) -> Form:
        return fitted_form(weight, Terms(), quantiser.per, quantiser.dtype, values)

    per = "task" if quantiser.per == "task" else "weight"
    codebooks = scope.project_task(fit, per, weights, {}, {})
    return _and_the_rest(codebooks, pruner, weights, mu, optimal and quantiser.dtype is None)


def _and_the_rest(codebooks: Mapping[str, Form], pruner, weights: Weights, mu: float | None, optimal: bool) -> Joint:
    """A free entry that is rounded costs something after all: then the solution is only near the optimum."""
    rest = {name: weight - codebooks[name].dense() for name, weight in weights.items()}
    return Joint([codebooks, pruner.project_task(rest, mu=mu)], optimal and pruner.dtype is None)


def _is_plain(quantiser: Quantize) -> bool:
    return quantiser.k != "auto" and not quantiser.zero


def _same_entries(quantiser: Compression, pruner: Prune, weights: Weights) -> bool:
    """True when entries are counted over just those that share a codebook, one by one."""
    scopes = {"weight" if per == "task" and len(weights) == 1 else per for per in (quantiser.per, pruner.per)}
    return len(scopes) == 1 and pruner.groups is None and pruner.keep != "auto"
