"""Exact solutions for sums of two parts, in a table keyed by the types of the parts; `+` looks its sum up here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from ..forms import Form
from .compression import Compression

Solver = Callable[..., list[Mapping[str, Form]] | None]
"""(terms, weights, mu=, price=) -> for each term the forms by weight; None where it does not apply to these values."""

_SOLVERS: dict[tuple[type[Compression], ...], Solver] = {}


def solve_jointly(
    terms: Sequence[Compression], weights: Mapping[str, Tensor], *, mu: float | None, price: float | None
) -> list[Mapping[str, Form]] | None:
    """For each term its forms by weight, jointly optimal; None when no exact solution is known for these terms."""
    solver = _SOLVERS.get(tuple(type(term) for term in terms))
    return None if solver is None else solver(terms, weights, mu=mu, price=price)
